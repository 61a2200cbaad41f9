"""What an operator sees: lines that an application prints or logs, also of a worker that is killed; a conversation."""

from __future__ import annotations

from pathlib import Path

import pytest

from realtime.auth.tokens import sign
from tests.support.aio import run_async
from tests.support.client import ProtocolClient
from tests.support.log_lines import pattern
from tests.support.server import RunningServer
from tests.support.streams import Stream

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
    shown = [match[1] for match in server.log.find_all(r"debug +\S+ +(.*)")]
    others = [text for text in shown if not text.startswith(("< ", "> ", "= websocket ", "x websocket "))]
    assert others == [], "one logger alone has that level"


def test_a_level_of_a_logger_that_is_misspelt_is_refused_with_what_is_allowed() -> None:
    server = RunningServer(None, "--log-level", "info,realtime.hub=loud")
    server.start()
    try:
        assert server.wait() == 2
        server.log.wait_for("realtime.hub=loud")
    finally:
        server.stop()


def test_so_it_does_for_clients_without_a_websocket() -> None:
    """Also where a command reaches another worker than the one that serves the stream."""
    secret = "the secret of tokens in a test, of 32 bytes and more"
    token = sign({"sub": "ana"}, secret)
    env = {"REALTIME_TOKEN_HMAC_SECRET": secret}
    hidden = {token}
    with RunningServer(None, "--log-level", "info,realtime.stream=debug", workers=2, env=env) as server:
        server.wait_until_full()
        for path in ("/connection/sse", "/connection/http_stream"):
            with Stream(server, path, {"id": 1, "connect": {"token": token}}) as stream:
                for number, address in enumerate(("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"), 2):
                    assert stream.say({"id": number, "subscribe": {"channel": f"room{number}"}}, address=address) == 204
                    stream.reply(number)
                connection = stream.first["connect"]["client"]
                hidden.add(stream.session)
            before = pattern("message", connection=connection, address="127.0.0.1")
            fields = pattern("message", connection=connection, address="127.0.0.1", user="ana")
            server.log.wait_for(rf'debug +[01]/\d+ +< {before} {{"id": ?1, ?"connect": ?{{"token":"\*\*\*"}}}}')
            server.log.wait_for(rf'debug +[01]/\d+ +> {fields} {{"id":1,"connect":')
            for number in (2, 3, 4, 5):
                server.log.wait_for(rf'debug +[01]/\d+ +< {fields} .*"subscribe": ?{{"channel": ?"room{number}"')
                server.log.wait_for(rf'debug +[01]/\d+ +> {fields} {{"id":{number},"subscribe":')
    assert not any(each in line for line in server.log.lines for each in hidden), (
        "with these one could speak for the client"
    )


BLOCKING = """
import logging, threading

from realtime import App

app, reported = App(), threading.Event()


class Reported(logging.Handler):
    def emit(self, record):
        if "event loop blocked" in record.getMessage():
            reported.set()


logging.getLogger("realtime.app").addHandler(Reported())


@app.rpc("block")
async def block(conn, data):
    reported.clear()
    reported.wait(data)


@app.room("chat:{name}", open=True)
class Chat:
    async def on_publish(self, conn, data):
        reported.clear()
        reported.wait(data)
"""


@run_async
async def test_a_handler_that_blocks_the_loop_is_named_with_its_line_once(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(BLOCKING)
    line = BLOCKING.splitlines().index("    reported.wait(data)") + 1
    with RunningServer(app, workers=1) as server:
        client = await ProtocolClient.join(server.websocket_url)
        await client.ask("subscribe", channel="chat:a")
        await client.ask("rpc", method="block", data=60)  # until it is reported
        named = rf"warning +0/\d+ +! event loop blocked handler=block file={app} line={line}$"
        server.log.wait_for(named)
        await client.ask("rpc", method="block", data=1)  # longer than the half second after which a line is named
        await client.ask("publish", channel="chat:a", data=60)
        server.log.wait_for(rf"blocked handler=Chat\.on_publish file={app} line={len(BLOCKING.splitlines())}$")
        assert len(server.log.find_all(named)) == 1, "once a minute each"
        await client.close()
