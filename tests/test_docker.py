"""
The container files, checked without a container engine.

What can be read is read: YAML, the Dockerfile, the configuration of the proxy, and how they have to agree. What can be
run is run as plain processes: see tests/cluster/test_compose.py.
"""

from __future__ import annotations

import ipaddress
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from realtime.cli.serve import serve
from realtime.settings import Settings, resolve
from realtime.settings.quantities import Seconds
from sticky.supervision.supervisor import KILL_GRACE_S

ROOT = Path(__file__).resolve().parents[1]
DOCKER = ROOT / "docker"
NODES = ("node-1", "node-2")
SECRET = "0123456789abcdef" * 2


def compose() -> dict[str, Any]:
    found = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    assert isinstance(found, dict)
    return found


def interpolated(text: str, variables: dict[str, str]) -> str:
    """Do what compose does to ${NAME:?message}; another form is not used."""
    return re.sub(r"\$\{(\w+):\?[^}]*\}", lambda match: variables[match[1]], text)


def environment(service: str) -> dict[str, str]:
    raw = compose()["services"][service]["environment"]
    assert all(isinstance(value, str) for value in raw.values()), "compose takes texts; YAML made something else of one"
    return {name: interpolated(value, {"REALTIME_SECRET": SECRET}) for name, value in raw.items()}


def settings(service: str) -> Settings:
    """Give what a node's command line and environment come to."""
    command = compose()["services"][service]["command"]
    assert command[0] == "serve"
    given = serve.make_context("serve", command[1:]).params
    config = given.pop("config")
    return resolve(given, environ=environment(service), directory=ROOT / "examples" / "chat", config=config)


def instructions(name: str) -> list[str]:
    """Give the arguments of every instruction of this name in the Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith(f"{name} ")]


@pytest.mark.parametrize("node", NODES)
def test_a_nodes_command_and_environment_are_settings(node: str) -> None:
    found = settings(node)
    assert found.secret == SECRET
    assert found.redis == "redis://redis:6379/0"
    assert found.proxy_protocol


def test_every_variable_of_a_node_is_a_setting_that_took_effect() -> None:
    sources = set(settings("node-1").sources.values())
    assert {name for name in environment("node-1") if name.startswith("REALTIME_")} <= sources


def test_both_nodes_are_the_same_but_for_their_name() -> None:
    services = compose()["services"]
    assert services["node-1"] == services["node-2"]


def test_what_a_service_depends_on_is_there_and_can_say_that_it_is_healthy() -> None:
    services = compose()["services"]
    image_is_checked = bool(instructions("HEALTHCHECK"))
    for service in services.values():
        for name, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in services[name] or (image_is_checked and name in NODES)


def test_only_the_proxy_is_trusted_and_it_keeps_its_address() -> None:
    network = compose()["networks"]["inside"]["ipam"]["config"][0]["subnet"]
    address = compose()["services"]["proxy"]["networks"]["inside"]["ipv4_address"]
    assert ipaddress.ip_address(address) in ipaddress.ip_network(network)
    assert settings("node-1").trusted_proxies == (f"{address}/32",)


def test_docker_waits_longer_than_a_node_drains() -> None:
    grace = compose()["services"]["node-1"]["stop_grace_period"]
    found = settings("node-1")
    assert Seconds(0, 3600).parse(grace) >= found.lame_duck_s + found.drain_s + KILL_GRACE_S


def test_files_that_are_mounted_or_built_from_are_there() -> None:
    for service in compose()["services"].values():
        if "build" in service:
            context = DOCKER / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).is_file()
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DOCKER / source).is_file() if source.startswith(".") else source in compose()["volumes"]


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    allowed = {line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    for arguments in instructions("COPY"):
        if "--from=" not in arguments:
            sources = [word for word in shlex.split(arguments)[:-1] if not word.startswith("--")]
            for source in sources:
                assert (ROOT / source).exists(), source
                assert source in allowed, f"{source} is not in the build context"


@pytest.mark.parametrize("name", ["ENTRYPOINT", "CMD"])
def test_the_primary_is_pid_1_because_the_exec_form_is_used(name: str) -> None:
    assert isinstance(json.loads(instructions(name)[-1]), list)


def test_the_image_does_not_run_as_root() -> None:
    assert instructions("USER")[-1] not in ("root", "0")


def test_the_health_check_asks_the_port_that_is_listened_on() -> None:
    command = json.loads(instructions("HEALTHCHECK")[-1].partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "HEALTHCHECK", "exec")
    port = settings("node-1").bind[0].rpartition(":")[2]
    assert f"'http://127.0.0.1:{port}' + os.environ.get('REALTIME_OWN_PREFIX', '') + '/livez'" in command[2]
    assert instructions("EXPOSE") == [port]


def test_the_proxy_leads_to_every_node_and_says_who_the_client_is() -> None:
    text = (DOCKER / "haproxy.cfg").read_text()
    servers = re.findall(r"^\s+server (\S+) (\S+):(\d+)", text, re.MULTILINE)
    port = settings("node-1").bind[0].rpartition(":")[2]
    assert servers == [(node, node, port) for node in NODES]
    [default] = re.findall(r"^\s+default-server (.*)", text, re.MULTILINE)
    assert {"send-proxy-v2", "check-send-proxy"} <= set(default.split())
    assert re.search(r"^\s+balance source\n\s+hash-type consistent$", text, re.MULTILINE)


def test_the_proxy_listens_where_compose_publishes_and_outlasts_a_ping() -> None:
    text = (DOCKER / "haproxy.cfg").read_text()
    [published] = compose()["services"]["proxy"]["ports"]
    assert f"bind :{published.partition(':')[2]}\n" in text
    for side in ("client", "server"):
        [timeout] = re.findall(rf"timeout {side} (\S+)", text)
        assert Seconds(0, 3600).parse(timeout) > settings("node-1").ping_s + settings("node-1").pong_s
