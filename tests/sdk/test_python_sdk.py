"""centrifuge-python, as it comes from PyPI, against four workers. What is tested is in scenarios.py."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import TracebackType
from typing import Any

import centrifuge

from tests.sdk.puppet import Puppet, SdkError, Stage
from tests.sdk.recovery import Moving, Recovery
from tests.sdk.scenarios import Scenarios
from tests.support.relay import Relay


def unpacked(data: Any) -> Any:
    """Return what a payload says; in Protobuf it is bytes, and here these say JSON."""
    if isinstance(data, bytes):
        return json.loads(data) if data else None
    return data


def who(info: centrifuge.ClientInfo | None) -> dict[str, Any] | None:
    if info is None:
        return None
    about = {"info": unpacked(info.conn_info), "room": unpacked(info.chan_info)}
    return {"user": info.user, "client": info.client, **about}


def pub(of: centrifuge.Publication) -> dict[str, Any]:
    return {"data": unpacked(of.data), "offset": of.offset, "info": who(of.info), "tags": of.tags or {}}


def entered(ctx: centrifuge.SubscribedContext | centrifuge.ServerSubscribedContext) -> dict[str, Any]:
    return {
        "channel": ctx.channel,
        "recoverable": ctx.recoverable,
        "was_recovering": ctx.was_recovering,
        "recovered": ctx.recovered,
        "position": asdict(ctx.stream_position) if ctx.stream_position else None,
        "data": unpacked(ctx.data),
    }


class PythonPuppet(Puppet, centrifuge.ClientEventHandler):
    """A client of centrifuge-python, and the handler of its events."""

    client: centrifuge.Client
    is_protobuf = False

    def packed(self, data: Any) -> Any:
        """Return a payload as the SDK wants it."""
        return json.dumps(data).encode() if self.is_protobuf and data is not None else data

    def tell(self, event: str, **more: Any) -> None:
        self.take({"event": event, **more})

    async def on_connecting(self, ctx: centrifuge.ConnectingContext) -> None:
        self.tell("connecting", code=ctx.code, reason=ctx.reason)

    async def on_connected(self, ctx: centrifuge.ConnectedContext) -> None:
        self.tell("connected", id=ctx.client, data=unpacked(ctx.data))

    async def on_disconnected(self, ctx: centrifuge.DisconnectedContext) -> None:
        self.tell("disconnected", code=ctx.code, reason=ctx.reason)

    async def on_error(self, ctx: centrifuge.ErrorContext) -> None:
        self.tell("error", code=getattr(ctx.error, "code", ctx.code), message=str(ctx.error))

    async def on_subscribed(self, ctx: centrifuge.ServerSubscribedContext) -> None:
        self.tell("server_subscribed", **entered(ctx))

    async def on_unsubscribed(self, ctx: centrifuge.ServerUnsubscribedContext) -> None:
        self.tell("server_unsubscribed", channel=ctx.channel)

    async def on_publication(self, ctx: centrifuge.ServerPublicationContext) -> None:
        self.tell("server_publication", channel=ctx.channel, **pub(ctx.pub))

    async def on_join(self, ctx: centrifuge.ServerJoinContext) -> None:
        self.tell("server_join", channel=ctx.channel, info=who(ctx.info))

    async def on_leave(self, ctx: centrifuge.ServerLeaveContext) -> None:
        self.tell("server_leave", channel=ctx.channel, info=who(ctx.info))

    def giver(self, tokens: list[str] | None, event: str, **more: Any) -> Any:
        """Return a `get_token` that gives these, in order, and the last from then on."""
        left = list(tokens or ())

        async def give(*channel: str) -> str:
            self.tell(event, **more)
            return left.pop(0) if len(left) > 1 else left[0]

        return give if tokens else None

    async def do(self, order: str, **arguments: Any) -> Any:
        try:
            return await getattr(self, f"_{order}")(**arguments)
        except centrifuge.ReplyError as error:
            raise SdkError(error.code, error.message) from error
        except centrifuge.CentrifugeError as error:
            raise SdkError(0, str(error)) from error

    async def _connect(self) -> None:
        await self.client.connect()

    async def _disconnect(self) -> None:
        await self.client.disconnect()

    async def _subscribe(
        self, channel: str, token: str = "", tokens: list[str] | None = None, data: Any = None
    ) -> None:
        sub = self.client.get_subscription(channel)
        if sub is None:
            get_token = self.giver(tokens, "asked_for_token", channel=channel)
            events = Room(self, channel)
            sub = self.client.new_subscription(
                channel, events, token=token, get_token=get_token, data=self.packed(data)
            )
        await sub.subscribe()

    async def _unsubscribe(self, channel: str) -> None:
        sub = self.client.get_subscription(channel)
        assert sub is not None
        await sub.unsubscribe()

    async def _publish(self, channel: str, data: Any) -> None:
        await self.client.publish(channel, self.packed(data))

    async def _presence(self, channel: str) -> dict[str, Any]:
        found = await self.client.presence(channel)
        return {client: who(info) for client, info in found.clients.items()}

    async def _presence_stats(self, channel: str) -> dict[str, int]:
        found = await self.client.presence_stats(channel)
        return {"clients": found.num_clients, "users": found.num_users}

    async def _history(
        self, channel: str, limit: int = 0, since: dict[str, Any] | None = None, reverse: bool = False
    ) -> dict[str, Any]:
        start = centrifuge.StreamPosition(**since) if since else None
        page = await self.client.history(channel, limit=limit, since=start, reverse=reverse)
        return {"publications": [pub(each) for each in page.publications], "offset": page.offset, "epoch": page.epoch}

    async def _rpc(self, method: str, data: Any) -> Any:
        packed = b"null" if data is None and self.is_protobuf else self.packed(data)
        return unpacked((await self.client.rpc(method, packed)).data)


class Room(centrifuge.SubscriptionEventHandler):
    """The handler of one subscription's events: they go to its puppet."""

    def __init__(self, puppet: PythonPuppet, channel: str) -> None:
        self.puppet, self.channel = puppet, channel

    def tell(self, event: str, **more: Any) -> None:
        self.puppet.tell(event, **{"channel": self.channel, **more})

    async def on_subscribing(self, ctx: centrifuge.SubscribingContext) -> None:
        self.tell("subscribing", code=ctx.code, reason=ctx.reason)

    async def on_subscribed(self, ctx: centrifuge.SubscribedContext) -> None:
        self.tell("subscribed", **entered(ctx))

    async def on_unsubscribed(self, ctx: centrifuge.UnsubscribedContext) -> None:
        self.tell("unsubscribed", code=ctx.code, reason=ctx.reason)

    async def on_publication(self, ctx: centrifuge.PublicationContext) -> None:
        self.tell("publication", **pub(ctx.pub))

    async def on_join(self, ctx: centrifuge.JoinContext) -> None:
        self.tell("join", info=who(ctx.info))

    async def on_leave(self, ctx: centrifuge.LeaveContext) -> None:
        self.tell("leave", info=who(ctx.info))

    async def on_error(self, ctx: centrifuge.SubscriptionErrorContext) -> None:
        self.tell("subscription_error", code=getattr(ctx.error, "code", ctx.code), message=str(ctx.error))


class PythonStage(Stage):
    """Puppets in this process."""

    puppet: type[PythonPuppet] = PythonPuppet

    async def __aenter__(self) -> PythonStage:
        self._puppets: list[PythonPuppet] = []
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for puppet in self._puppets:
            await puppet.client.disconnect()
        await super().__aexit__(kind, error, traceback)

    async def make(self, name: str, relay: Relay, url: str, options: dict[str, Any]) -> Puppet:
        puppet = self.puppet(name, relay)
        self._puppets.append(puppet)
        puppet.client = centrifuge.Client(
            url,
            puppet,
            token=options.get("token", ""),
            get_token=puppet.giver(options.get("tokens"), "asked_for_token"),
            data=puppet.packed(options.get("data")),
            use_protobuf=puppet.is_protobuf,
            max_server_ping_delay=options.get("ping_delay_s", 10.0),
            proxy=None,
        )
        await puppet.client.connect()
        return puppet


class TestPythonSDK(Scenarios, Moving, Recovery):
    stage = PythonStage


class ProtobufPuppet(PythonPuppet):
    is_protobuf = True


class ProtobufStage(PythonStage):
    puppet = ProtobufPuppet


class TestPythonSDKInProtobuf(Scenarios, Moving, Recovery):
    stage = ProtobufStage
