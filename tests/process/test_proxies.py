"""
Behind a proxy: who the client is, by PROXY header or by X-Forwarded-For, and only when a trusted peer says so.
"""

from __future__ import annotations

import ipaddress
import socket
import struct

from tests.support.tiny_cluster import TinyCluster, answer, read_all

PROXY = "127.50.0.1"
TRUSTED = "127.50.0.0/16"
STRANGER = "127.60.0.1"
REQUEST = b"GET / HTTP/1.1\r\nHost: tiny\r\n\r\n"
CLIENTS = [f"203.0.113.{n}" for n in range(1, 30)]
V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def v1(client: str) -> bytes:
    return f"PROXY TCP4 {client} 198.51.100.1 40000 443\r\n".encode()


def v2(client: str) -> bytes:
    addresses = ipaddress.ip_address(client).packed + ipaddress.ip_address("198.51.100.1").packed
    body = addresses + struct.pack(">HH", 40000, 443)
    return V2_SIGNATURE + bytes([0x21, 0x11]) + struct.pack(">H", len(body)) + body


def v2_local() -> bytes:
    return V2_SIGNATURE + bytes([0x20, 0x00]) + struct.pack(">H", 0)


def ask_through(cluster: TinyCluster, header: bytes, peer: str = PROXY) -> dict[str, object]:
    with cluster.connect(peer) as sock:
        sock.sendall(header + REQUEST)
        return answer(sock)


def test_x_forwarded_for_of_a_trusted_proxy_names_the_client_and_decides_the_slot() -> None:
    with TinyCluster(workers=3, trusted=[TRUSTED]) as cluster:
        slots = set()
        for client in CLIENTS:
            found = [
                cluster.get(
                    client=f"127.50.0.{n}", headers=f"X-Forwarded-For: {client}\r\nX-Forwarded-Proto: https\r\n"
                )
                for n in (1, 2)
            ]
            assert {each["client"] for each in found} == {client}
            assert {each["scheme"] for each in found} == {"https"}
            assert found[0]["slot"] == found[1]["slot"]
            slots.add(found[0]["slot"])
        assert slots == {0, 1, 2}


def test_what_a_stranger_forwards_changes_nothing() -> None:
    with TinyCluster(workers=3, trusted=[TRUSTED]) as cluster:
        plain = cluster.get(client=STRANGER)
        for client in CLIENTS:
            found = cluster.get(
                client=STRANGER, headers=f"X-Forwarded-For: {client}\r\nForwarded: for={client};proto=https\r\n"
            )
            assert (found["client"], found["slot"], found["scheme"]) == (STRANGER, plain["slot"], "http")


def test_both_versions_of_the_proxy_header_name_the_client_and_the_worker_sees_none_of_it() -> None:
    with TinyCluster(workers=3, trusted=[TRUSTED], proxy_protocol=True) as cluster:
        slots = set()
        for client in CLIENTS:
            first, second = ask_through(cluster, v1(client)), ask_through(cluster, v2(client))
            assert first["client"] == second["client"] == client
            assert first["slot"] == second["slot"]
            assert first["head"] == second["head"] == REQUEST.decode()
            slots.add(first["slot"])
        assert slots == {0, 1, 2}
        assert ask_through(cluster, v2_local())["client"] == PROXY, "LOCAL: the proxy's own check"


def test_a_proxy_header_that_comes_byte_by_byte_is_understood() -> None:
    with TinyCluster(workers=2, trusted=[TRUSTED], proxy_protocol=True) as cluster, cluster.connect(PROXY) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in v2("203.0.113.7") + REQUEST:
            sock.sendall(bytes([byte]))
            cluster.status()  # the primary's loop has turned
        assert answer(sock)["client"] == "203.0.113.7"


def test_a_trusted_peer_without_the_header_and_a_stranger_with_it_are_refused() -> None:
    with TinyCluster(workers=1, trusted=[TRUSTED], proxy_protocol=True) as cluster:
        with cluster.connect(PROXY) as sock:
            sock.sendall(REQUEST)
            assert read_all(sock).startswith(b"HTTP/1.1 400 ")
        for header in (v1("203.0.113.7"), v2("203.0.113.7")):
            with cluster.connect(STRANGER) as sock:
                sock.sendall(header + REQUEST)
                assert read_all(sock).startswith(b"HTTP/1.1 400 ")
        assert cluster.status()["counters"]["refused_proxy_header"] == 1
        assert ask_through(cluster, b"", STRANGER)["client"] == STRANGER, "a stranger may come himself"
