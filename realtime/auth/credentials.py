"""
Wrong credentials: API keys and tokens that do not verify.

Runs in the worker. Wrong credentials are counted, and logged with the client address at most once a second. Their
answers are delayed: the more wrong credentials came from an address recently, the longer. Right credentials are never
delayed, so other clients of the same address notice nothing. An expired token is no wrong credential.

The count of an address is halved every `HALF_LIFE_S`. Above `ADDRESSES_MAX`, the address without wrong credentials for
the longest time is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from realtime.log_lines import log
from sticky.keys.addresses import Network, network_of
from sticky.loop.log_throttle import LogThrottle

FIRST_S: Final = 0.05  # too short for a person with a mistyped key to notice
MOST_S: Final = 1.0
HALF_LIFE_S: Final = 30.0
ADDRESSES_MAX: Final = 10_000

API_KEY: Final = "API key"
TOKEN: Final = "token"  # noqa: S105 - a kind of credential, no credential
SUBSCRIPTION_TOKEN: Final = "subscription token"  # noqa: S105

logger = logging.getLogger("realtime.credentials")


class WrongCredentials:
    """Counts the wrong credentials of this worker, and delays their answers."""

    def __init__(self, *, most_s: float = MOST_S, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            most_s: the longest delay of an answer; 0 for none.
            clock: seconds, on a clock that never goes back.
        """
        self.counts: Counter[str] = Counter()
        self._most_s = most_s
        self._clock = clock
        self._line = LogThrottle()
        self._recent: OrderedDict[Network | str, tuple[int, float]] = OrderedDict()  # count, and time of the last one

    async def slow(self, what: str, address: str, why: object, *, most_s: float = MOST_S) -> None:
        """
        Count a wrong credential, and return when it may be answered.

        Args:
            what: `API_KEY`, `TOKEN` or `SUBSCRIPTION_TOKEN`.
            address: the client address.
            why: the reason for the log; it must not contain the credential.
            most_s: the longest delay of this answer.
        """
        delay_s = min(self.note(what, address, why), most_s)
        if delay_s > 0:
            await asyncio.sleep(delay_s)

    def note(self, what: str, address: str, why: object) -> float:
        """Count a wrong credential, and return by how many seconds its answer must be delayed."""
        now = self._clock()
        self.counts[what] += 1
        suppressed = self._line.due(now)
        if suppressed is not None:
            log(logger, logging.WARNING, f"x wrong {what}", address=address, reason=why, more=suppressed)
        key = network_of(address) or address
        count, last = self._recent.get(key, (0, now))
        assert now >= last, "the clock never goes back"
        count = (count >> int(min((now - last) / HALF_LIFE_S, 64))) + 1
        self._recent[key] = (min(count, 64), now)
        self._recent.move_to_end(key)
        if len(self._recent) > ADDRESSES_MAX:
            self._recent.popitem(last=False)
        assert len(self._recent) <= ADDRESSES_MAX, "one address is added at a time, and any stranger may add one"
        return float(min(FIRST_S * 2 ** (min(count, 64) - 1), self._most_s))

    def __len__(self) -> int:
        """Return how many addresses have a count."""
        return len(self._recent)
