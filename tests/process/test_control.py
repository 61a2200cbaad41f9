"""The control socket of a real primary, with clients that do not take their answer: they hold up nobody."""

from __future__ import annotations

import json
import socket

from tests.support.server import DEADLINE_S
from tests.support.tiny_cluster import TinyCluster, read_all

PADDING = 150_000  # of one worker's statistics: two have more than a Unix socket holds (net.core.wmem_default, 212992)


def ask_and_read_nothing(cluster: TinyCluster) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(cluster.control)
    sock.settimeout(DEADLINE_S)
    sock.sendall(b'{"command": "status"}\n')
    return sock


def test_who_does_not_read_its_answer_holds_up_nobody_and_may_read_it_later() -> None:
    with TinyCluster(config={"padding": PADDING}) as cluster:
        cluster.wait_until(
            lambda status: all(each["statistics"].get("padding") for each in status["workers"]), "both have told"
        )
        deaf = [ask_and_read_nothing(cluster) for _ in range(8)]
        assert deaf[-1].recv(1, socket.MSG_PEEK), "the answer has begun"
        assert cluster.get()["slot"] in (0, 1), "clients are served meanwhile"
        assert json.loads(read_all(deaf[-1]))["live"] == [0, 1], "whoever reads at last has the whole answer"
        assert cluster.status()["live"] == [0, 1], "who asks is answered"
        for sock in deaf:
            sock.close()
