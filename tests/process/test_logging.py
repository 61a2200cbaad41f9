"""What an operator sees: lines that an application prints or logs, also of a worker that is killed; a conversation."""

from __future__ import annotations

from pathlib import Path

import pytest

from realtime.auth.tokens import sign
from tests.support.aio import run_async
from tests.support.client import ProtocolClient
from tests.support.server import RunningServer

APP = """
import logging, os, signal

from realtime import App

app = App()


@app.rpc("speak")
async def speak(conn, data):
    print("printed", "by a handler")
    print("more of it", end="")
    print(", in one line", flush=True)
    logging.getLogger("my.app").info("logged by a handler")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@run_async
async def test_what_a_handler_prints_and_logs_is_there_whole_also_when_its_worker_is_killed(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(APP)
    with RunningServer(app, workers=2) as server:
        server.wait_until_full()
        client = await ProtocolClient.join(server.websocket_url, "127.0.0.9")
        with pytest.raises(Exception, match=r"closed|no close frame|1006"):
            await client.ask("rpc", method="speak")
        for text in ("printed by a handler", "more of it, in one line"):
            line = server.log.wait_for(rf"info +([01])/(\d+) +\| {text}$")
            assert int(line[2]) != server.pid
        server.log.wait_for(r"info +[01]/\d+ +logged by a handler$")


@run_async
async def test_the_log_at_debug_level_shows_a_conversation_without_its_tokens() -> None:
    secret = "the secret of tokens in a test, of 32 bytes and more"
    token = sign({"sub": "ana"}, secret)
    env = {"REALTIME_TOKEN_HMAC_SECRET": secret}
    with RunningServer(None, "--log-level", "info,realtime.websocket=debug", workers=1, env=env) as server:
        client = await ProtocolClient.join(server.websocket_url, token=token)
        await client.ask("subscribe", channel="room")
        server.log.wait_for(r'debug +0/\d+ +< .*"connect"')
        server.log.wait_for(r'debug +0/\d+ +> .*"connect"')
        server.log.wait_for(r'debug +0/\d+ +< .*"subscribe": ?\{"channel": ?"room"')
        await client.close()
    assert not any(token in line for line in server.log.lines)
    assert server.log.find_all("debug +0/.* = room ") == []


def test_a_level_of_a_logger_that_is_misspelt_is_refused_with_what_is_allowed() -> None:
    server = RunningServer(None, "--log-level", "info,realtime.hub=loud")
    server.start()
    try:
        assert server.wait() == 2
        server.log.wait_for("realtime.hub=loud")
    finally:
        server.stop()
