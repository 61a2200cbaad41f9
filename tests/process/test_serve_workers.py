"""What `realtime serve` lets an operator say of its workers: their environment, their user, how long they live."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile

from sticky.loop.log_lines import WORKER_PAST_LIFETIME
from tests.support.http import Client
from tests.support.nobody import PYTHON_PATH, python_of_nobody
from tests.support.server import ROOT, RunningServer

APP = ROOT / "tests" / "support" / "facts_asgi.py"


def test_each_worker_has_its_own_environment_and_the_umask() -> None:
    with RunningServer(
        APP, "--env", "CARD=card-{slot}", "--env", "LIST=1,2", "--umask", "027", "--sticky", "none", workers=2
    ) as server:
        server.wait_until_full()
        found = {}
        while len(found) < 2:
            with Client(server.port) as client:
                facts = client.get()
            found[facts["slot"]] = facts
        for slot, facts in found.items():
            assert facts["env"] == {"CARD": f"card-{slot}", "LIST": "1,2", "STICKY_SLOT": str(slot)}
            assert facts["umask"] == 0o027


def test_a_worker_is_replaced_after_so_many_connections_and_nobody_is_refused() -> None:
    with RunningServer(APP, "--max-connections", "20", "--heartbeat", "0.1", "--hung", "1", workers=1) as server:
        pids = set()
        while len(pids) < 3:
            with Client(server.port) as client:
                pids.add(client.get()["pid"])
        assert server.log.find_all(WORKER_PAST_LIFETIME + ".*it has had ")


def test_as_root_it_serves_as_the_user_that_it_is_told() -> None:
    python, nobody = python_of_nobody(), pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(prefix="nobody-") as directory:
        os.chmod(directory, 0o755)
        env = {"PYTHONPATH": PYTHON_PATH, "TMPDIR": directory, "XDG_RUNTIME_DIR": ""}
        with RunningServer(APP, "--user", "nobody", workers=2, env=env, python=python) as server:
            with Client(server.port) as client:
                assert client.get()["ids"] == [nobody.pw_uid, nobody.pw_gid]
            told = subprocess.run(
                [python, "-m", "realtime", "status", "--user", "nobody"],
                env={**server.env, "NO_COLOR": "1"}, cwd=ROOT, capture_output=True, text=True, check=True,
            )  # fmt: skip
            assert f"primary {server.pid} listens on" in told.stdout
            assert server.stop() == 0
        assert not list(os.scandir(os.path.join(directory, f"realtime-{nobody.pw_uid}"))), "nothing is left"
