"""
What the primary computes for one connection, in microseconds: `python -m tests.bench.first_bytes`.

Prints the best of several runs, for the others measure what else the machine did. It asserts nothing: what a call costs
depends on the machine, and the whole way of a connection is measured in benchmarks/.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from ipaddress import ip_network

from sticky.heads.first_bytes import DEFAULT_LIMITS, Head, inspect
from sticky.heads.proxy_header import parse
from sticky.keys.affinity import Affinity, AffinitySettings
from sticky.keys.hashing import Hashing, Key, Slot
from tests.sticky.wire_cases import load

RUNS = 7
CALLS = 20_000

CASES = {case.name: case.data for folder in ("heads/valid", "heads/tls", "proxy/valid") for case in load(folder)}
CHROME = CASES["websocket_chrome"]


def main() -> None:
    head = inspect(CHROME)
    assert isinstance(head, Head)
    hashing = Hashing(b"a secret of some length")
    key = Key(b"4\x7f\x00\x00\x01")
    live = [Slot(number) for number in range(32)]
    session = hashing.new_sticky_id(Slot(3))
    affinity = Affinity(AffinitySettings())
    behind_proxy = Affinity(AffinitySettings(trusted=(ip_network("10.0.0.0/8"),)))
    forwarded = Head("GET", b"/", ((b"x-forwarded-for", b"192.0.2.7, 10.0.0.2"),), 0)
    begun = CHROME[:-1]

    tell(f"inspect, a WebSocket handshake of Chrome ({len(CHROME)} bytes)", lambda: inspect(CHROME))
    tell("inspect, the shortest head", lambda: inspect(CASES["minimal"]))
    tell("inspect, a TLS ClientHello", lambda: inspect(CASES["client_hello_1_3"]))
    tell("inspect, the handshake without its last byte", lambda: inspect(begun))
    tell("inspect, one byte more of it", lambda: inspect(begun, DEFAULT_LIMITS, len(begun) - 1))
    tell("PROXY version 1", lambda: parse(CASES["v1_tcp4"]))
    tell("PROXY version 2", lambda: parse(CASES["v2_tcp4"]))
    tell("address_of, no proxy", lambda: affinity.address_of("192.0.2.1", head))
    tell("address_of, two trusted proxies", lambda: behind_proxy.address_of("10.0.0.1", forwarded))
    tell("key_for, IPv4", lambda: affinity.key_for("192.0.2.1"))
    tell("key_for, IPv6", lambda: affinity.key_for("2001:db8::1"))
    tell("sticky_id_of, a cookie", lambda: affinity.sticky_id_of(head))
    for count in (1, 4, 8, 32):
        tell(f"choose, {count} slots", lambda slots=live[:count]: hashing.choose(key, slots))  # type: ignore[misc]
    tell("slot_of, a sticky id", lambda: hashing.slot_of(session))
    tell("new_sticky_id", lambda: hashing.new_sticky_id(Slot(3)))


def tell(what: str, call: Callable[[], object]) -> None:
    best = min(timeit.repeat(call, number=CALLS, repeat=RUNS)) / CALLS
    print(f"{best * 1e6:8.2f} µs  {what}", flush=True)


if __name__ == "__main__":
    main()
