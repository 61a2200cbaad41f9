"""
The peer Django Channels: a consumer on uvicorn, its layer in Redis by channels_redis. `python -m … REDIS_PORT`.

The layer is RedisPubSubChannelLayer, the faster of the two that channels_redis has. One process. It never keeps a
message; the queue of each client is as long as a run needs.
"""

from __future__ import annotations

import sys
from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter
from django.conf import settings

from benchmarks.peers.rooms import answer, joined
from benchmarks.peers.uvicorn_process import serve


class Client(AsyncWebsocketConsumer):  # type: ignore[misc]  # Channels has no types
    """One client."""

    room: str | None = None

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        assert text_data is not None
        if self.room is not None:
            await self.channel_layer.group_send(self.room, {"type": "published", "text": text_data})
        elif (name := joined(text_data)) is not None:
            self.room = name
            await self.channel_layer.group_add(name, self.channel_name)
            await self.send(text_data=answer(name))
        else:
            await self.send(text_data=text_data)

    async def published(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])

    async def disconnect(self, code: int) -> None:
        if self.room is not None:
            await self.channel_layer.group_discard(self.room, self.channel_name)


if __name__ == "__main__":
    layer = {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [f"redis://127.0.0.1:{int(sys.argv[1])}/0"]},
    }
    settings.configure(CHANNEL_LAYERS={"default": layer}, INSTALLED_APPS=["channels"])
    django.setup()
    serve(ProtocolTypeRouter({"websocket": Client.as_asgi()}))
