"""
What a client gets when something fails: the table of docs/faults.md, as data.

The page is compared with it, and tests/process/test_faults.py makes every fault happen and compares what clients get.
Change both together: `python -m tests.support.fault_table` prints the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

IN = "admitted"
DONE = "done"
NOW = "error 100, temporary"
BACK = "closed 3004"
EXPIRED = "error 109"


@dataclass(frozen=True)
class Row:
    """
    One fault. `connect` is what native and emulated clients get, `one_way` what the others do; `commands` is what a
    client gets that was admitted before.
    """

    name: str
    fault: str
    connect: str
    one_way: str
    commands: Mapping[str, str] = field(default_factory=dict)

    def line(self) -> str:
        """Return the row as it stands in the page."""
        by_answer: dict[str, list[str]] = {}
        for command, answer in self.commands.items():
            by_answer.setdefault(answer, []).append(f"`{command}`")
        commands = "; ".join(f"{', '.join(names)}: {answer}" for answer, names in by_answer.items())
        return f"| {self.fault} | {self.connect} | {self.one_way} | {commands} |"


def by_token(answer: str, *, refresh: str | None = None) -> dict[str, str]:
    return {"subscribe": answer, "sub_refresh": answer, "refresh": refresh or answer}


def called(answer: str) -> dict[str, str]:
    return dict.fromkeys(("subscribe", "publish", "rpc"), answer)


def unwritten(**more: str) -> dict[str, str]:
    return {"subscribe": NOW, "publish": NOW, **more}


NO_LINK = unwritten(presence=NOW, history=NOW)

ROWS = (
    # Keys
    Row("keys down", "the key server is down, and the token's key is not known", NOW, BACK, by_token(NOW)),
    Row("keys fail", "the key server answers with an error status", NOW, BACK, by_token(NOW)),
    Row("keys slow", "the key server is slow: one byte every 2 s", NOW, BACK, by_token(NOW)),
    Row("keys garbage", "the key server answers with something else than a key set", NOW, BACK, by_token(NOW)),
    Row("keys huge", "the key server's answer does not end", NOW, BACK, by_token(NOW)),
    Row("keys redirect", "the key server redirects in a circle, or elsewhere than to HTTP", NOW, BACK, by_token(NOW)),
    Row("known key", "the key server is down, and the token's key is known", IN, IN, by_token(DONE)),
    Row("boot", "the key server is down while a new worker boots", IN, IN),
    Row("rotated", "the key server rotates its keys just after a stranger's token had it asked", IN, IN,
        by_token(DONE)),
    Row("not yet", "the token was issued just now, and its key is not published yet", NOW, BACK, by_token(NOW)),
    Row("withdrawn", "the token was issued some time ago, and its key is not published any more", EXPIRED,
        "closed 3005", by_token(EXPIRED, refresh="closed 3005")),
    # Times
    Row("nbf", "`nbf` is ahead by less than `--token-leeway`", IN, IN, by_token(DONE)),
    Row("nbf later", "`nbf` is ahead by more, up to five minutes", NOW, BACK, by_token(NOW)),
    Row("iat", "`iat` is ahead, by however much", IN, IN, by_token(DONE)),
    Row("exp", "`exp` is over by less than `--token-leeway`", IN, IN, by_token(DONE)),
    Row("expired", "`exp` is over by more", EXPIRED, "closed 3005", by_token(EXPIRED, refresh="closed 3005")),
    # The broker
    Row("redis down", "Redis is down", NOW, BACK, NO_LINK),
    Row("redis silent", "Redis takes commands and answers none (a black hole)", NOW, BACK, NO_LINK),
    Row("LOADING", "Redis loads its data (LOADING)", NOW, BACK, NO_LINK),
    Row("BUSY", "Redis runs somebody's endless script (BUSY)", NOW, BACK, NO_LINK),
    Row("auth", "Redis has another password now (NOAUTH, WRONGPASS)", NOW, BACK, NO_LINK),
    Row("READONLY", "Redis is a replica now (READONLY)", NOW, BACK, unwritten()),
    Row("OOM", "the broker is full (Redis: OOM)", NOW, BACK, unwritten()),
    Row("MISCONF", "Redis cannot write to its disk (MISCONF)", NOW, BACK, unwritten()),
    Row("NOREPLICAS", "Redis has too few replicas (NOREPLICAS)", NOW, BACK, unwritten()),
    # The application
    Row("raises", "a handler raises an exception", NOW, BACK, called(NOW)),
    Row("unavailable", "a handler raises `BrokerUnavailable`", NOW, BACK, called(NOW)),
    Row("times out", "a handler raises `TimeoutError`", NOW, BACK, called(NOW)),
    Row("slow", "`on_connect` does not return within twice `--handshake`", BACK, BACK),
    Row("later", "a handler raises `Reject(…, temporary=True)`", "error 103, temporary", BACK,
        called("error 103, temporary")),
    Row("rejects", "a handler raises `Reject()`", "error 103", "closed 3507",
        called("error 103")),
    Row("disconnects", "a handler raises `Disconnect(4000, …)`", "closed 4000", "closed 4000",
        called("closed 4000")),
)  # fmt: skip

# In tests of their own: another server is needed for them.
APART = (
    Row("local broker", "the local broker is down", NOW, BACK, NO_LINK),
    Row("local broker full", "the local broker is full (`--broker-memory`)", NOW, BACK, unwritten()),
    Row("failover", "a Redis master fails over", NOW, BACK, NO_LINK),
    Row("revocation", "what is revoked cannot be read, for Redis is down; the token was revoked before", EXPIRED,
        "closed 3005", {"refresh": "closed 3005"}),
)  # fmt: skip


@dataclass(frozen=True)
class Final:
    """An answer after which an SDK does not come back. `why` says why that is right."""

    name: str
    code: str
    when: str
    why: str

    def line(self) -> str:
        """Return the row as it stands in the page."""
        return f"| {self.code} | {self.when} | {self.why} |"


FINAL = (
    Final("forged", "closed 3500", "a token whose signature is by none of the keys it names, or that is no token",
          "the same token is never good"),
    Final("unpublished", "closed 3500", "a token without `iat` by a key that the key server, asked after the token "
          "came, does not publish", "the key server has answered, and knows no such key"),
    Final("unlike", "closed 3500", "a token with a claim of a wrong type, such as `sub` as a number or `exp` as text",
          "the same token is never good: RFC 7519 says what these are, and Centrifugo refuses them as well"),
    Final("for later", "closed 3500", "a token whose `nbf` is more than five minutes ahead",
          "no two clocks differ so much: it was made for another time"),
    Final("other room", "closed 3500", "a subscription token for another room, user or connection; a refresh for "
          "another user",
          "the token says for whom it is"),
    Final("no token", "closed 3501", "no token, where there have to be some", "an SDK has a token at once or never"),
    Final("garbage", "closed 3501", "what is no message of the protocol, or comes out of its order",
          "the client would say the same again"),
    Final("silent", "closed 3502", "no `connect` within `--handshake` of an open connection",
          "an SDK sends it at once: who does not speaks something else"),
    Final("forced", "closed 3503", "`conn.disconnect()`, `disconnect` of the API, unless they name a code",
          "the application, or an operator, wants it"),
    Final("rooms", "closed 3505", "the token and `on_connect` give more rooms than `--rooms-per-connection`",
          "they would again"),
    Final("denied", "closed 3507", "a one-way client that `on_connect` refuses by `Reject()`",
          "the application says no"),
    Final("no handler", "closed 3508", "a `send` where no handler takes messages", "there would be none the next time"),
    Final("too big", "closed 1009", "a message larger than `--message-bytes`", "it would be as large again"),
    Final("own", "closed 4500", "`Disconnect(4500…4999)` of the application", "the application says so"),
)  # fmt: skip


if __name__ == "__main__":
    print("\n".join(row.line() for row in (*ROWS, *APART)), "\n".join(row.line() for row in FINAL), sep="\n\n")
