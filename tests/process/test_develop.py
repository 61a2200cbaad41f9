"""
While somebody develops: `--reload`, its keys, `realtime inspect` and `--inspect`.

A real server over a file that the test writes anew, as an editor does.
"""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from sticky.loop.log_lines import (
    RELOAD_GIVEN_UP,
    RELOAD_STARTED,
    SERVER_TAKEN_OVER,
    SIDECAR_EXITED,
    WORKER_HUNG,
    WORKER_READY,
    WORKER_RESTART_DELAYED,
)
from tests.support.http import Client
from tests.support.log_lines import pattern
from tests.support.server import ROOT, Log, RunningServer

APP = """
import asyncio, json, time

WORD = {word!r}

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    path = scope["path"]
    if path == "/wait":
        await wait_for_nothing()
    if path == "/block":
        time.sleep(30)
    if path == "/stop":
        answer = 6 * 7
        breakpoint()
    body = json.dumps({{"word": WORD, "slot": scope["state"]["realtime"]["slot"]}}).encode()
    headers = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({{"type": "http.response.start", "status": 200, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})

async def wait_for_nothing():
    await asyncio.Event().wait()
"""
BROKEN = "def app(:\n"


def write(directory: Path, word: str) -> None:
    (directory / "app.py").write_text(APP.format(word=word))


def serve(directory: Path, *options: str, workers: int = 2) -> RunningServer:
    env = {"PYTHONDONTWRITEBYTECODE": ""}  # as it is where people develop
    return RunningServer("app.py", "--sticky", "none", *options, workers=workers, cwd=directory, env=env)


def get(server: RunningServer) -> dict[str, Any]:
    with Client(server.port) as client:
        return client.get()


def wait_for_word(server: RunningServer, word: str) -> None:
    """Ask until every worker says the word: asking is the clock."""
    said: dict[int, str] = {}
    while set(said.values()) != {word} or len(said) < 2:
        answer = get(server)
        said[answer["slot"]] = answer["word"]


def test_what_is_written_is_served_and_a_broken_version_replaces_nobody(tmp_path: Path) -> None:
    write(tmp_path, "one")
    with serve(tmp_path, "--reload", "--balance", "round-robin") as server:
        wait_for_word(server, "one")
        server.log.wait_for("= watching ")
        write(tmp_path, "two")
        server.log.wait_for("= changed: .*app.py")
        wait_for_word(server, "two")

        (tmp_path / "app.py").write_text(BROKEN)
        server.log.wait_for(r"app.py, line 1: invalid syntax")
        server.log.wait_for(RELOAD_GIVEN_UP)
        assert get(server)["word"] == "two"

        (tmp_path / "app.py").write_text("import nothing_of_this_name\n")
        server.log.wait_for("ModuleNotFoundError: No module named 'nothing_of_this_name'")
        shown = "\n".join(server.log.lines[-12:])
        assert "realtime/application/loader.py" not in shown, "the traceback begins in the application"
        assert 'app.py", line 1' in shown

        write(tmp_path, "three")
        wait_for_word(server, "three")
        assert "died" not in server.status()["counters"]


@pytest.mark.parametrize("end", ["an upgrade", pytest.param("a crash", marks=pytest.mark.slow)])
def test_what_is_written_after_the_primary_was_replaced_is_served_too(tmp_path: Path, end: str) -> None:
    write(tmp_path, "one")
    with serve(tmp_path, "--reload", "--balance", "round-robin") as server:
        server.log.wait_for("= watching ")
        wait_for_word(server, "one")
        mark, before = server.log.mark(), server.status()["pid"]
        if end == "an upgrade":
            server.send_signal(signal.SIGUSR2)
        else:
            os.kill(before, signal.SIGKILL)
        write(tmp_path, "two")  # also what is written while no primary is there
        server.log.wait_for(SERVER_TAKEN_OVER, since=mark)
        wait_for_word(server, "two")
        write(tmp_path, "three")
        wait_for_word(server, "three")
        assert server.status()["pid"] != before
        assert not server.log.find_all(pattern(SIDECAR_EXITED, name="the watcher")), "it has gone on"


def test_what_is_written_during_a_reload_is_served_in_the_end(tmp_path: Path) -> None:
    write(tmp_path, "0")
    with serve(tmp_path, "--reload", "--balance", "round-robin", workers=2) as server:
        server.log.wait_for("= watching ")
        for number in range(1, 6):
            mark = server.log.mark()
            write(tmp_path, str(number))
            server.log.wait_for("= changed: ", since=mark)
        wait_for_word(server, "5")


def test_a_version_that_was_broken_from_the_start_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(BROKEN)
    server = serve(tmp_path, "--reload")
    server.start()
    try:
        server.log.wait_for("invalid syntax")
        server.log.wait_for(pattern(WORKER_RESTART_DELAYED, delay_s=2))
        write(tmp_path, "mended")
        server.wait_until_listening()
        assert get(server)["word"] == "mended"
    finally:
        assert server.stop() == 0


def test_without_what_watches_files_it_says_what_to_install(tmp_path: Path) -> None:
    write(tmp_path, "one")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'watchfiles' else find(name, *rest)\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{hidden}{os.pathsep}{ROOT}"}
    argv = [sys.executable, "-m", "realtime", "serve", "app.py", "--reload"]
    refused = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--reload: it needs watchfiles: pip install watchfiles" in refused.stderr


def test_keys_of_the_terminal(tmp_path: Path) -> None:
    write(tmp_path, "one")
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "realtime", "serve", "app.py", "--reload", "--bind", "127.0.0.1:0", "-w", "1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    log = Log()
    with subprocess.Popen(
        argv, cwd=tmp_path, env=env, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as primary:
        threading.Thread(target=log.read, args=(primary.stdout,), daemon=True).start()
        try:
            log.wait_for("keys, each with Enter: r reload")
            log.wait_for(pattern(WORKER_READY, ready="1/1"))
            os.write(ours, b"d\n")
            log.wait_for(r"^thread MainThread")
            log.wait_for(r"^\d+ tasks")
            os.write(ours, b"s\n")
            log.wait_for(r"primary \d+ listens on")
            mark = log.mark()
            os.write(ours, b"what\n")
            log.wait_for("keys, each with Enter", since=mark)
            os.write(ours, b"r\n")
            log.wait_for(pattern(RELOAD_STARTED, workers=1))
            os.write(ours, b"q\n")
            assert primary.wait(30) == 0
        finally:
            primary.kill()
            os.close(ours)
            os.close(theirs)


# Looking into a worker


def inspect(server: RunningServer, slot: int, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "realtime", "inspect", str(slot), "--control", server.status()["control"]]
    return subprocess.run(argv, cwd=ROOT, env=server.env, capture_output=True, text=True, check=False)


def test_a_worker_shows_what_each_of_its_tasks_waits_for(tmp_path: Path) -> None:
    write(tmp_path, "one")
    with serve(tmp_path, workers=1) as server, Client(server.port) as client:
        client.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
        shown = ""
        while "wait_for_nothing" not in shown:
            asked = inspect(server, 0, tmp_path)
            assert asked.returncode == 0, asked.stderr
            shown = asked.stdout
        assert "thread MainThread" in shown
        assert re.search(rf'File "{tmp_path}/app.py", line \d+, in app\n', shown)
        assert "in Event.wait" in shown
        assert get(server)["word"] == "one", "it went on"


def test_a_slot_without_a_worker_is_named(tmp_path: Path) -> None:
    write(tmp_path, "one")
    with serve(tmp_path, workers=1) as server:
        refused = inspect(server, 7, tmp_path)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "slot 7 has no worker that serves" in refused.stderr


def test_a_worker_whose_loop_stands_still_shows_its_threads_in_the_log(tmp_path: Path) -> None:
    write(tmp_path, "one")
    with serve(tmp_path, "--hung", "60", "--drain", "1", workers=1) as server, Client(server.port) as client:
        client.send(b"GET /block HTTP/1.1\r\nHost: h\r\n\r\n")
        while "does not answer" not in inspect(server, 0, tmp_path).stdout:
            pass
        server.log.wait_for(r'app.py", line \d+ in app')


def test_a_worker_that_is_inspected_may_stop_at_a_breakpoint_and_is_not_taken_for_hung(tmp_path: Path) -> None:
    write(tmp_path, "one")
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "realtime", "serve", "app.py", "--inspect", "0", "--bind", "127.0.0.1:0", "-w", "1",
            "--heartbeat", "0.1", "--hung", "0.4"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    log = Log()
    with subprocess.Popen(
        argv, cwd=tmp_path, env=env, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as primary:
        threading.Thread(target=log.read, args=(primary.stdout,), daemon=True).start()
        try:
            port = int(log.wait_for(r"http://127.0.0.1:(\d+)")[1])
            with Client(port) as client:
                client.send(b"GET /stop HTTP/1.1\r\nHost: h\r\n\r\n")
                log.wait_for(r"-> (breakpoint\(\)|body = )")
                for _ in range(3):  # many times what a hung worker has
                    os.write(ours, b"import threading; threading.Event().wait(0.5)\n")
                os.write(ours, b"print('the answer is', answer)\n")
                log.wait_for("the answer is 42")
                os.write(ours, b"c\n")
                assert client.answer()["word"] == "one"
        finally:
            primary.terminate()
            primary.wait(30)
            os.close(ours)
            os.close(theirs)
    assert not log.find_all(WORKER_HUNG)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--inspect", "2"], "there is no slot 2 with 2 workers"),
        (["--reload-dir", "src"], "reload_dir has no meaning without reload"),
        (["--reload", "--reload-dir", "src"], "there is no directory 'src'"),
    ],
)
def test_what_makes_no_sense_is_refused(options: list[str], problem: str, tmp_path: Path) -> None:
    write(tmp_path, "one")
    argv = [sys.executable, "-m", "realtime", "serve", "app.py", "-w", "2", *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    refused = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert problem in refused.stderr
    assert json.dumps(refused.stderr).count("Traceback") == 0
