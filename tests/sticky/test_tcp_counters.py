"""The counters of a socket, by which a source learns whether a target that has died had touched a connection."""

from __future__ import annotations

import socket

from sticky.moving.tcp_counters import touches


def test_the_counters_see_each_byte_that_any_copy_reads_or_writes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), 10)
        server = listener.accept()[0]
    with client, server:
        before = touches(server)
        assert before is not None
        client.send(b"12345")
        server.recv(5, socket.MSG_PEEK | socket.MSG_WAITALL)
        assert touches(server) == before, "what arrives, or is only looked at, is no touch"
        copy = server.dup()
        assert copy.recv(2) == b"12"
        read = touches(server)
        assert read == (before.written, before.consumed + 2)
        copy.send(b"abc")
        assert touches(server) == (before.written + 3, before.consumed + 2)
        assert client.recv(3) == b"abc"
        assert touches(server) == (before.written + 3, before.consumed + 2), "acknowledged or not"
        copy.close()


def test_a_unix_socket_has_no_counters() -> None:
    one, other = socket.socketpair()
    assert touches(one) is None
    one.close()
    other.close()
