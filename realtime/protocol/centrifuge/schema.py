"""
The protocol's Protobuf schema: the number and the kind of each field of each message.

Tables only (Centrifuge client protocol, section 3.3). protobuf.py makes the functions that read and write messages from
them. A field that is not here is skipped when it is read.

The numbers are those of Centrifugo's `client.proto`, and never change. A number that is missing below belongs to a
field that this server neither sends nor reads; it must not be used for anything else. Clients of a later protocol may
send such fields, and lose nothing but what they mean.
"""

from __future__ import annotations

from typing import Any, Final

from realtime.protocol import shapes
from realtime.protocol.centrifuge import messages as m
from realtime.session.tags import FilterNode

Field = tuple[str, str, Any]  # name, kind, message type
"""
Kinds: u unsigned, i signed, o offset, z zigzag, b bool, s text, y bytes, m message, rm messages, rs texts, ss map of
texts, sm map of messages.
"""


def field(name: str, kind: str, type: Any = None) -> Field:
    """
    Return a field's row. `type` is the message in it, or in each of its items.

    A function, so that most rows, which hold no message, have two words.
    """
    return name, kind, type


INFO: Final = {
    1: field("user", "s"),
    2: field("client", "s"),
    3: field("conn_info", "y"),
    4: field("chan_info", "y"),
}
FILTER_NUMBERS: Final = ("op", "key", "cmp", "val")

FIELDS: Final[dict[type, dict[int, Field]]] = {
    # What clients send
    m.StreamPosition: {1: field("offset", "o"), 2: field("epoch", "s")},
    FilterNode: {
        **{number: field(name, "s") for number, name in enumerate(FILTER_NUMBERS, 1)},
        5: field("vals", "rs"),
        6: field("nodes", "rm", FilterNode),
    },
    m.SubscribeCommand: {
        1: field("channel", "s"),
        2: field("token", "s"),
        3: field("recover", "b"),
        6: field("epoch", "s"),
        7: field("offset", "o"),
        8: field("data", "y"),
        9: field("positioned", "b"),
        10: field("recoverable", "b"),
        11: field("join_leave", "b"),
        12: field("delta", "s"),
        13: field("tf", "m", FilterNode),
        14: field("flag", "i"),
        15: field("type", "i"),
    },
    m.ConnectCommand: {
        1: field("token", "s"),
        2: field("data", "y"),
        3: field("subs", "sm", m.SubscribeCommand),
        4: field("name", "s"),
        5: field("version", "s"),
        6: field("headers", "ss"),
    },
    m.UnsubscribeCommand: {1: field("channel", "s")},
    m.PublishCommand: {1: field("channel", "s"), 2: field("data", "y"), 3: field("type", "i")},
    m.PresenceCommand: {1: field("channel", "s")},
    m.PresenceStatsCommand: {1: field("channel", "s")},
    m.HistoryCommand: {
        1: field("channel", "s"),
        7: field("limit", "i"),
        8: field("since", "m", m.StreamPosition),
        9: field("reverse", "b"),
    },
    m.SendCommand: {1: field("data", "y")},
    m.RPCCommand: {1: field("data", "y"), 2: field("method", "s")},
    m.RefreshCommand: {1: field("token", "s")},
    m.SubRefreshCommand: {1: field("channel", "s"), 2: field("token", "s"), 3: field("type", "i")},
    m.Command: {
        1: field("id", "u"),
        4: field("connect", "m", m.ConnectCommand),
        5: field("subscribe", "m", m.SubscribeCommand),
        6: field("unsubscribe", "m", m.UnsubscribeCommand),
        7: field("publish", "m", m.PublishCommand),
        8: field("presence", "m", m.PresenceCommand),
        9: field("presence_stats", "m", m.PresenceStatsCommand),
        10: field("history", "m", m.HistoryCommand),
        12: field("send", "m", m.SendCommand),
        13: field("rpc", "m", m.RPCCommand),
        14: field("refresh", "m", m.RefreshCommand),
        15: field("sub_refresh", "m", m.SubRefreshCommand),
    },
    # One half of an emulated transport
    m.EmulationRequest: {1: field("node", "s"), 2: field("session", "s"), 3: field("data", "y")},
    # What the server answers
    m.EmptyResult: {},
    m.Error: {1: field("code", "u"), 2: field("message", "s"), 3: field("temporary", "b")},
    shapes.Info: INFO,
    shapes.Pub: {
        4: field("data", "y"),
        5: field("info", "m", shapes.Info),
        6: field("offset", "u"),
        7: field("tags", "ss"),
        8: field("delta", "b"),
        9: field("time", "i"),
    },
    m.SubscribeResult: {
        1: field("expires", "b"),
        2: field("ttl", "u"),
        3: field("recoverable", "b"),
        6: field("epoch", "s"),
        7: field("publications", "rm", shapes.Pub),
        8: field("recovered", "b"),
        9: field("offset", "u"),
        10: field("positioned", "b"),
        11: field("data", "y"),
        12: field("was_recovering", "b"),
        13: field("delta", "b"),
    },
    m.ConnectResult: {
        1: field("client", "s"),
        2: field("version", "s"),
        3: field("expires", "b"),
        4: field("ttl", "u"),
        5: field("data", "y"),
        6: field("subs", "sm", m.SubscribeResult),
        7: field("ping", "u"),
        8: field("pong", "b"),
        9: field("session", "s"),
        10: field("node", "s"),
        11: field("time", "i"),
    },
    m.RefreshResult: {
        1: field("client", "s"),
        2: field("version", "s"),
        3: field("expires", "b"),
        4: field("ttl", "u"),
    },
    m.SubRefreshResult: {1: field("expires", "b"), 2: field("ttl", "u")},
    shapes.PresenceResult: {1: field("presence", "sm", shapes.Info)},
    shapes.PresenceStatsResult: {1: field("num_clients", "u"), 2: field("num_users", "u")},
    shapes.HistoryResult: {
        1: field("publications", "rm", shapes.Pub),
        2: field("epoch", "s"),
        3: field("offset", "u"),
    },
    m.RPCResult: {1: field("data", "y")},
    # What the server says unasked
    m.Membership: {1: field("info", "m", shapes.Info)},
    m.UnsubscribePush: {2: field("code", "u"), 3: field("reason", "s")},
    m.SubscribePush: {
        1: field("recoverable", "b"),
        4: field("epoch", "s"),
        5: field("offset", "u"),
        6: field("positioned", "b"),
        7: field("data", "y"),
    },
    m.Message: {1: field("data", "y")},
    m.Disconnected: {1: field("code", "u"), 2: field("reason", "s")},
    m.Refreshed: {1: field("expires", "b"), 2: field("ttl", "u")},
    m.Push: {
        2: field("channel", "s"),
        4: field("pub", "m", shapes.Pub),
        5: field("join", "m", m.Membership),
        6: field("leave", "m", m.Membership),
        7: field("unsubscribe", "m", m.UnsubscribePush),
        8: field("message", "m", m.Message),
        9: field("subscribe", "m", m.SubscribePush),
        11: field("disconnect", "m", m.Disconnected),
        12: field("refresh", "m", m.Refreshed),
    },
}
