"""
docker/compose.yaml without Docker: its own command lines, environments and proxy configuration, as plain processes.

Redis, two nodes and HAProxy run as compose would run them. Only what containers have of their own is replaced: ports,
directories, and the names and addresses of the network. Several clients come through the proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import run_async
from tests.support.client import ProtocolClient
from tests.support.connect_storm import ConnectStorm
from tests.support.processes import accepts, free_port, process
from tests.support.require import require
from tests.support.server import ROOT, RunningServer
from tests.test_docker import DOCKER, NODES, compose, environment

PROXY = "127.28.0.10"  # stands for the fixed address that the proxy has in compose's network
CLIENTS = [f"127.28.1.{n}" for n in range(1, 25)]


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """Run compose's Redis, and give its URL."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        argv = [*compose()["services"]["redis"]["command"], "--port", str(port), "--dir", directory]
        with process(argv, directory, lambda: accepts(port)):
            yield f"redis://127.0.0.1:{port}/0"


def node(name: str, redis_url: str, port: int = 0, **more: str) -> RunningServer:
    """Make compose's node: in the image, /app is the chat. `more` replaces other variables of its environment."""
    replaced = {"REALTIME_BIND": f"127.0.0.1:{port}", "REALTIME_REDIS": redis_url, "REALTIME_TRUSTED_PROXIES": PROXY}
    replaced |= more
    wanted = environment(name)
    assert replaced.keys() <= wanted.keys()
    server = RunningServer(
        None, bind=None, cwd=ROOT / "examples" / "chat", env=wanted | replaced | {"REALTIME_DRAIN": "2s"}
    )
    server.argv[server.argv.index("serve") :] = compose()["services"][name]["command"]
    return server


@contextlib.contextmanager
def haproxy(ports: dict[str, int], directory: Path, **more: str) -> Iterator[int]:
    """Run the proxy with compose's configuration, but for addresses and sizes, and give its port."""
    port = free_port()
    text = (DOCKER / "haproxy.cfg").read_text()
    text = text.partition("\nresolvers docker")[0] + "\n"
    for before, after in {
        "maxconn 50000": "maxconn 500",  # a machine that runs tests allows fewer open files than compose's
        "bind :8000": f"bind 127.0.0.1:{port}",
        " resolvers docker init-addr libc,none": f" source {PROXY}",
        **{f"server {name} {name}:8000": f"server {name} 127.0.0.1:{ports[name]}" for name in ports},
        **more,
    }.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    path = directory / "haproxy.cfg"
    path.write_text(text)
    with process(["haproxy", "-db", "-f", str(path)], directory, lambda: healthy(port)):
        yield port


def healthy(port: int) -> bool:
    """Tell whether a request through the proxy is answered by a node."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        return sock.recv(15) == b"HTTP/1.1 200 OK"
    return False


@pytest.fixture
def nodes() -> Iterator[dict[str, RunningServer]]:
    require("redis")
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(redis())
        running = {name: stack.enter_context(node(name, url)) for name in NODES}
        for server in running.values():
            server.wait_until_full()
        yield running


async def join(url: str, address: str) -> tuple[ProtocolClient, dict[str, Any]]:
    client = await ProtocolClient.join(url, address, data={"key": address, "name": address})
    await client.ask("subscribe", channel="chat:lobby")
    found = client.connected["data"]
    assert isinstance(found, dict)
    return client, found


@run_async
async def test_two_nodes_share_their_rooms(nodes: dict[str, RunningServer]) -> None:
    clients = [await join(server.websocket_url, "127.0.0.1") for server in nodes.values()]
    for number, (client, _) in enumerate(clients):
        await client.ask("publish", channel="chat:lobby", data={"id": f"message-{number}", "text": f"from {number}"})
    for client, _ in clients:
        texts = [(await client.push("pub"))["pub"]["data"]["text"] for _ in clients]
        assert texts == ["from 0", "from 1"]
        await client.close()


@pytest.mark.haproxy
@run_async
async def test_through_the_proxy_each_client_keeps_its_node_and_its_worker(
    nodes: dict[str, RunningServer], tmp_path: Path
) -> None:
    workers = {name: set(server.children()) for name, server in nodes.items()}
    with haproxy({name: server.port for name, server in nodes.items()}, tmp_path) as port:
        url = f"ws://127.0.0.1:{port}/connection/websocket"
        seen = set()
        for address in CLIENTS:
            first, found = await join(url, address)
            second, again = await join(url, address)
            assert found["pid"] == again["pid"], "the same worker of the same node"
            name = next(name for name, pids in workers.items() if found["pid"] in pids)
            direct, straight = await join(nodes[name].websocket_url, address)
            assert straight["slot"] == found["slot"], "the proxy has said who the client is"
            seen.add((name, found["slot"]))
            for client in (first, second, direct):
                await client.close()
        assert seen == {(name, slot) for name in NODES for slot in (0, 1)}
        writer, _ = await join(url, CLIENTS[0])
        readers = [(await join(url, address))[0] for address in CLIENTS]
        await writer.ask("publish", channel="chat:lobby", data={"id": "message-for-all", "text": "to everybody"})
        for reader in readers:
            assert (await asyncio.wait_for(reader.push("pub"), 30))["pub"]["data"]["text"] == "to everybody"
            await reader.close()
        await writer.close()


def test_the_images_health_check_finds_a_node_healthy_and_a_stopped_one_not(nodes: dict[str, RunningServer]) -> None:
    server = nodes["node-1"]
    assert image_finds_healthy(server)
    assert not image_finds_healthy(server, REALTIME_OWN_PREFIX="/rt"), "nothing answers below another prefix"
    server.stop()
    assert not image_finds_healthy(server)


def test_the_images_health_check_follows_the_prefix_of_the_server() -> None:
    with RunningServer(None, "--own-prefix", "/rt", workers=1) as server:
        server.wait_until_full()
        assert image_finds_healthy(server, REALTIME_OWN_PREFIX="/rt")
        assert not image_finds_healthy(server)


def image_finds_healthy(server: RunningServer, **env: str) -> bool:
    """Run the health check that stands in the Dockerfile, on the port of a server."""
    match = re.search(r'HEALTHCHECK .*\\\n\s+CMD \["python", "-c", "(.*)"\]', (DOCKER / "Dockerfile").read_text())
    assert match is not None
    assert match[1].count(":8000'") == 1, "the port stands once in it"
    argv = [server.argv[0], "-c", match[1].replace(":8000'", f":{server.port}'")]
    return subprocess.run(argv, check=False, capture_output=True, env={**os.environ, **env}).returncode == 0


@pytest.mark.slow
@pytest.mark.haproxy
def test_the_rolling_update_refuses_no_client(tmp_path: Path) -> None:
    """Take the steps of docker/rolling-update.sh: each node is stopped, started anew, and healthy before the next."""
    script = (DOCKER / "rolling-update.sh").read_text()
    assert re.search(rf"^for node in {' '.join(NODES)}; do\n .* --wait \"\$node\"$", script, re.MULTILINE)
    require("redis")
    ports = {name: free_port() for name in NODES}
    times = {"REALTIME_LAME_DUCK": "4s", "REALTIME_DRAIN": "2s"}  # twice what HAProxy takes, as in compose.yaml
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(redis())
        running = {name: stack.enter_context(node(name, url, ports[name], **times)) for name in NODES}
        for server in running.values():
            server.wait_until_full()
        port = stack.enter_context(haproxy(ports, tmp_path, **{"inter 2s": "inter 400ms"}))
        with ConnectStorm(lambda: port) as storm:
            storm.wait_for_more(20)
            for name in NODES:
                assert running[name].stop() == 0
                storm.wait_for_more(5)
                running[name] = stack.enter_context(node(name, url, ports[name], **times))
                while not image_finds_healthy(running[name]):
                    pass
            storm.wait_for_more(20)
        assert not storm.failures, (storm.failures, storm.answered)


@pytest.mark.slow
def test_what_the_image_installs_from_its_context_serves(tmp_path: Path) -> None:
    """Do what the Dockerfile's build stage does, with what it copies and nothing else."""
    context = tmp_path / "src"
    context.mkdir()
    stage = (DOCKER / "Dockerfile").read_text().partition("\nRUN ")[0]
    copied = [name for names in re.findall(r"^COPY (.+) \S+$", stage, re.MULTILINE) for name in names.split()]
    assert {"pyproject.toml", "realtime", "sticky"} <= set(copied)
    for name in copied:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, context)
    venv = tmp_path / "venv"
    subprocess.run([shutil.which("python3") or "python3", "-m", "venv", str(venv)], check=True)
    install = [str(venv / "bin" / "pip"), "install", "-q", "--no-cache-dir", "--only-binary", ":all:", "."]
    subprocess.run(install, cwd=context, check=True)
    shown = subprocess.run([str(venv / "bin" / "realtime"), "--version"], check=True, capture_output=True, text=True)
    assert shown.stdout.startswith("realtime ")
    server = RunningServer(None, cwd=ROOT / "examples" / "chat", env={"PYTHONPATH": ""})
    server.argv[: server.argv.index("serve")] = [str(venv / "bin" / "realtime")]
    with server:
        server.wait_until_full()
        with socket.create_connection(("127.0.0.1", server.port), 5) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            assert sock.recv(15) == b"HTTP/1.1 200 OK"
