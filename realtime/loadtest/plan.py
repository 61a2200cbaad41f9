"""
What a load is: where, how many clients, how often, how much, for how long.

Pure: a `Plan` is made once by the command, and every other part reads it. It knows when each publication is due, and
never what became of it. Publications are numbered through all rooms: number k goes to room k mod rooms, so that the
rooms take turns evenly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from realtime.loadtest.errors import WrongPlan

CLIENTS_MAX: Final = 20_000  # below the 28,000 ports that a system gives to the clients of one address
SECONDS_MAX: Final = 600.0
PUBLICATIONS_PER_S_MAX: Final = 10_000.0  # what one process can send and still read its own clock in time
SIZE_MIN, SIZE_MAX = 64, 32_768  # the mark needs some 50 bytes; servers accept messages up to 64 KiB
PATH: Final = "/connection/websocket"

_SECURE: Final = {"http": False, "ws": False, "https": True, "wss": True}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens for WebSockets of the protocol."""

    secure: bool
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, text: str, *, below: str = "") -> Endpoint:
        """
        Read a URL as people write it: with or without scheme, port and path.

        Args:
            text: the URL.
            below: the path below which the server has its own; of no meaning where the URL has a path.

        Raises:
            WrongPlan: it is none.
        """
        try:
            found = urlsplit(text if "://" in text else f"http://{text}")
            port = found.port
        except ValueError:
            raise WrongPlan(f"{text!r} is no address such as http://127.0.0.1:8000") from None
        if found.scheme not in _SECURE or not found.hostname or found.username is not None:
            raise WrongPlan(f"{text!r} is no address such as http://127.0.0.1:8000 or wss://chat.example.com")
        secure = _SECURE[found.scheme]
        path = found.path if found.path.strip("/") else below + PATH
        if not (path + found.query).isascii() or not (path + found.query).isprintable() or " " in path + found.query:
            raise WrongPlan(f"{text!r}: its path holds characters that have to be %-encoded")
        query = f"?{found.query}" if found.query else ""
        return cls(secure, found.hostname, port or (443 if secure else 80), path + query)

    @property
    def authority(self) -> str:
        """The host and port, as in the header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{'wss' if self.secure else 'ws'}://{self.authority}{self.path.partition('?')[0]}"


@dataclass(frozen=True, slots=True)
class Plan:
    """
    One load.

    Attributes:
        address: the server.
        clients: how many connections.
        rooms: how many rooms they are spread over; client i is a member of room i mod rooms.
        room: the name of a room, with {n} for its number.
        rate: publications a second in each room.
        seconds: how long is published.
        size: bytes of a publication's data.
        data: JSON with {text} where the text of a publication goes.
        connect_rate: connections begun a second.
    """

    address: Endpoint
    clients: int = 100
    rooms: int = 1
    room: str = "bench:{n}"
    rate: float = 20.0
    seconds: float = 10.0
    size: int = 128
    data: str = '{"text":"{text}"}'
    connect_rate: float = 200.0

    def __post_init__(self) -> None:
        checks = (
            (1 <= self.clients <= CLIENTS_MAX, f"--clients: from 1 to {CLIENTS_MAX:,}"),
            (1 <= self.rooms <= self.clients, "--rooms: at least 1, and each needs a client of --clients"),
            (self.rooms == 1 or "{n}" in self.room, "--room: several rooms need {n} in their name, as in bench:{n}"),
            (bool(self.room), "--room: a name is needed"),
            (math.isfinite(self.rate) and self.rate > 0, "--rate: more than 0 a second"),
            (
                self.rate * self.rooms <= PUBLICATIONS_PER_S_MAX,
                f"--rate: in all rooms together at most {PUBLICATIONS_PER_S_MAX:,.0f} a second",
            ),
            (0 < self.seconds <= SECONDS_MAX, f"--seconds: more than 0, at most {SECONDS_MAX:g}"),
            (self.rate * self.seconds >= 1, "--rate: at least one publication in --seconds"),
            (SIZE_MIN <= self.size <= SIZE_MAX, f"--size: from {SIZE_MIN} to {SIZE_MAX:,} bytes"),
            (0 < self.connect_rate <= CLIENTS_MAX, f"--connect-rate: more than 0, at most {CLIENTS_MAX:,} a second"),
        )
        for is_right, problem in checks:
            if not is_right:
                raise WrongPlan(problem)

    def room_of(self, client: int) -> int:
        """Return the number of the room that a client is a member of."""
        return client % self.rooms

    def name_of(self, room: int) -> str:
        """Return a room's name."""
        return self.room.replace("{n}", str(room))

    @property
    def publications(self) -> int:
        """How many are due before the end, in all rooms together."""
        return math.floor(self.rate * self.seconds * (1 + 1e-12)) * self.rooms  # 0.29 * 100 is a little less than 29

    def due_s(self, number: int) -> float:
        """Return when a publication is due, in seconds since the first."""
        return number / (self.rate * self.rooms)

    def begin_s(self, client: int) -> float:
        """Return when a client is due to connect, in seconds since the first."""
        return client / self.connect_rate

    def source(self, client: int) -> str:
        """Return an address of the loopback network for a client: by its address it may belong to any worker."""
        high, low = divmod(client, 250)
        return f"127.{1 + high // 250}.{high % 250}.{low + 1}"
