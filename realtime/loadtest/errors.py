"""
The errors of the load client, in one tree. Each ends in the command's one sentence, with what to do.

    LoadError
    ├── WrongPlan              what was asked for contradicts itself, or is too much for one process
    └── LoadRefused
        ├── Unreachable        nothing answers there, or something else than a realtime server
        └── RefusedByServer    the server answers with an error

Pure: an exception holds facts, `__str__` makes the text. Once a server accepts publications nothing is raised any more:
what goes wrong then is in the outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

REASON_MAX: Final = 123  # characters: as much as the reason of a close frame has room for


@dataclass(frozen=True, slots=True)
class Failure:
    """
    How one client failed: what is counted under one name.

    Attributes:
        step: what it was about to do: "reach" the server, "trust" its certificate, "secure" the connection,
            "handshake", "connect", "join" its room, "publish"; or "stay", once it was a member.
        code: an error or close code of the protocol, the status of an HTTP answer, or 0.
        reason: in the words of the server or of the system, on one line that a terminal can show.
    """

    step: str
    code: int
    reason: str

    def __post_init__(self) -> None:
        text = "".join(each if each.isprintable() else " " for each in self.reason[:REASON_MAX])
        object.__setattr__(self, "reason", text)

    @property
    def kind(self) -> str:
        """A few words, the same for all that failed alike."""
        return f"{self.reason} ({self.code})" if self.code else self.reason


class LoadError(Exception):
    """Any error of this package that is not a bug. Its base is not `RealtimeError`, which is the server's."""


class WrongPlan(LoadError):
    """A load that cannot be run."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class LoadRefused(LoadError):
    """The first client did not get in, or its first publication was refused, so that the others need not try."""

    def __init__(self, address: str, room: str, failure: Failure) -> None:
        super().__init__(address, room, failure)
        self.address, self.room, self.failure = address, room, failure


class Unreachable(LoadRefused):
    """There is no realtime server."""

    def __str__(self) -> str:
        reason = self.failure.reason
        if self.failure.step == "reach":
            return f"{self.address} does not answer ({reason}): does a server run there?"
        if self.failure.step == "trust":
            return f"the certificate of {self.address} is not trusted ({reason}): name its authority with --cafile"
        if self.failure.step == "secure":
            return f"{self.address} does not speak TLS as it should ({reason}): are https and the port right?"
        answer = f"answers {self.failure.kind}" if self.failure.code else reason
        advice = ADVICE.get(self.failure.code, "is it a realtime server, and is http or https right?")
        return f"{self.address} opens no WebSocket ({answer}): {advice}"


HOW_TO_GET_IN: Final = "give --token T, or --secret-from-settings with the server's secret"

ADVICE: Final = {
    403: "is this the path where the protocol is served, and does a proxy before it let WebSockets through?",
    404: "name the whole path where the protocol is served",
    503: "no worker is free to take it; the log of the server has the reason",
    102: "name a room that the application has, such as --room 'chat:{n}'",
    103: f"{HOW_TO_GET_IN}, or name a room that is open to these clients with --room",
    107: "is the name of the room right?",
    109: "the token has expired: make a new one with `realtime token`",
    111: "the server limits how often: choose a smaller --rate or --connect-rate",
    3500: "the token is not one of this server's: was it signed with its secret?",
    3501: HOW_TO_GET_IN,
    3504: "the server takes no more connections: choose fewer --clients",
    3507: HOW_TO_GET_IN,
}


class RefusedByServer(LoadRefused):
    """The server refuses what every client would ask."""

    def __str__(self) -> str:
        what = {
            "join": f"{self.address} does not let clients into {self.room}",
            "publish": f"{self.address} takes no publications in {self.room}",
        }.get(self.failure.step, f"{self.address} does not admit these clients")
        advice = ADVICE.get(self.failure.code, "the server's log may have the reason")
        if self.failure.step == "publish" and self.failure.code not in (102, 111):
            advice = "give what the room's handler takes with --data, or name another room with --room"
        return f"{what}, it says {self.failure.kind!r}: {advice}"


def refusal(address: str, room: str, failure: Failure) -> LoadRefused:
    """Return the error for a client that was the first and failed."""
    kind = RefusedByServer if failure.step in ("connect", "join", "publish", "stay") else Unreachable
    return kind(address, room, failure)
