"""
Wrong credentials: API keys and tokens that do not verify.

Runs in the worker. They are counted, logged with the client address at most once a second, and their answers wait: the
longer, the more of them came from that address lately. Only wrong ones wait, so whoever shares the address and has a
good one notices nothing. A token that is merely too old is no wrong one.

What an address did is forgotten by halves. Above `ADDRESSES_MAX` the address that was quiet for longest is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from sticky.keys.addresses import Network, network_of
from sticky.loop.log_throttle import LogThrottle

FIRST_S: Final = 0.05  # nobody who mistyped a key notices it
MOST_S: Final = 1.0
HALF_LIFE_S: Final = 30.0
ADDRESSES_MAX: Final = 10_000

API_KEY: Final = "API key"
TOKEN: Final = "token"  # noqa: S105 - a kind of credential, no credential
SUBSCRIPTION_TOKEN: Final = "subscription token"  # noqa: S105

logger = logging.getLogger("realtime.credentials")


class WrongCredentials:
    """What wrong credentials came to this worker."""

    def __init__(self, *, most_s: float = MOST_S, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            most_s: how long an answer waits at most; 0 for none that waits.
            clock: seconds, never going back.
        """
        self.counts: Counter[str] = Counter()
        self._most_s = most_s
        self._clock = clock
        self._line = LogThrottle()
        self._lately: OrderedDict[Network | str, tuple[int, float]] = OrderedDict()  # how many, and when the last

    async def slow(self, what: str, address: str, why: object, *, most_s: float = MOST_S) -> None:
        """
        Take note of a wrong credential, and return when it may be answered.

        Args:
            what: `API_KEY`, `TOKEN` or `SUBSCRIPTION_TOKEN`.
            address: the client's.
            why: for the log; it must not hold the credential.
            most_s: how long this answer may wait.
        """
        delay_s = min(self.note(what, address, why), most_s)
        if delay_s > 0:
            await asyncio.sleep(delay_s)

    def note(self, what: str, address: str, why: object) -> float:
        """Count a wrong credential, and return how many seconds its answer is to wait."""
        now = self._clock()
        self.counts[what] += 1
        left_out = self._line.due(now)
        if left_out is not None:
            logger.warning("x %s: wrong %s: %s (%d more wrong credentials)", address, what, why, left_out)
        key = network_of(address) or address
        count, last = self._lately.get(key, (0, now))
        count = (count >> int(min((now - last) / HALF_LIFE_S, 64))) + 1
        self._lately[key] = (min(count, 64), now)
        self._lately.move_to_end(key)
        if len(self._lately) > ADDRESSES_MAX:
            self._lately.popitem(last=False)
        return float(min(FIRST_S * 2 ** (min(count, 64) - 1), self._most_s))

    def __len__(self) -> int:
        """Return how many addresses are remembered."""
        return len(self._lately)
