"""
Rolling deploys behind what stands in front of the nodes: no connect is refused, and no answer is an error.

Two nodes are stopped (TERM, with a lame duck) and started anew in turn, while clients connect without a pause. HAProxy
and nginx run with the configuration of docs/deploying/proxies.md, docker's HAProxy with its own. What Kubernetes would
do is done with processes: see the second half. Times of the guides are shortened, and the deploys wait for events.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from realtime.cli.serve import serve
from realtime.settings import Settings, resolve
from sticky.loop.log_lines import SERVER_STOPPING
from sticky.supervision.supervisor import KILL_GRACE_S
from tests.docs.pages import DOCS, blocks
from tests.support.connect_storm import ConnectStorm
from tests.support.haproxy_state import wait_until_up
from tests.support.probing import probe
from tests.support.processes import accepts, free_port, process
from tests.support.server import RunningServer

NODES = ("node-1", "node-2")
GUIDE = DOCS / "deploying" / "proxies.md"
LAME_DUCK = "3s"  # longer than HAProxy takes: twice 300 ms, and an answer on a busy machine
DRAIN = "2s"


def node(port: int, lame_duck: str = LAME_DUCK) -> RunningServer:
    options = ("--trusted-proxies", "127.0.0.1", "--lame-duck", lame_duck, "--drain", DRAIN, "--sticky", "none")
    return RunningServer(None, *options, "--bind", f"127.0.0.1:{port}", workers=1, bind=None)


def replaced(text: str, changes: dict[str, str]) -> str:
    for before, after in changes.items():
        assert before in text, before
        text = text.replace(before, after)
    return text


@contextlib.contextmanager
def haproxy(ports: dict[str, int], directory: Path) -> Iterator[tuple[int, Callable[[str], None]]]:
    """Run HAProxy by the guide. Give its port, and what waits until it has a node back."""
    listen, admin = free_port(), directory / "admin.sock"
    text = replaced(
        blocks(GUIDE, "haproxy")[1],
        {
            "bind :443 ssl crt /etc/chat/chat.pem": f"bind 127.0.0.1:{listen}",
            "option redispatch": "retries 0",  # a connect that is refused would be seen
            "inter 2s": "inter 300ms",
            "10.0.0.11:8000": f"127.0.0.1:{ports['node-1']}",
            "10.0.0.12:8000": f"127.0.0.1:{ports['node-2']}",
        },
    )
    times = "timeout connect 30s\n timeout client 60s\n timeout server 60s\n"
    path = directory / "haproxy.cfg"
    path.write_text(f"global\n maxconn 200\n stats socket {admin} mode 600\ndefaults\n {times}{text}")
    # HAProxy names its own socket last, when it listens already.
    with process(["haproxy", "-db", "-f", str(path)], directory, lambda: accepts(listen) and admin.exists()):
        yield listen, lambda name: wait_until_up(admin, name)


NGINX = """
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  {guide}
}}
"""


@contextlib.contextmanager
def nginx(ports: dict[str, int], directory: Path) -> Iterator[tuple[int, Callable[[str], None]]]:
    """Run nginx by the guide. It finds by itself that a node is back."""
    listen = free_port()
    text = replaced(
        blocks(GUIDE, "nginx")[1],
        {
            "listen 443 ssl;": f"listen 127.0.0.1:{listen};",
            "10.0.0.11:8000": f"127.0.0.1:{ports['node-1']}",
            "10.0.0.12:8000": f"127.0.0.1:{ports['node-2']}",
        },
    )
    text = re.sub(r"^ *ssl_certificate.*\n", "", text, flags=re.MULTILINE)
    path = directory / "nginx.conf"
    path.write_text(NGINX.format(directory=directory, guide=text))
    with process(["nginx", "-c", str(path), "-p", str(directory)], directory, lambda: accepts(listen)):
        yield listen, lambda name: None


@pytest.mark.parametrize(
    "proxied",
    [
        pytest.param(haproxy, marks=pytest.mark.haproxy, id="haproxy"),
        pytest.param(nginx, marks=[pytest.mark.nginx, pytest.mark.slow], id="nginx"),
    ],
)
def test_two_nodes_are_deployed_in_turn_and_no_client_is_refused(proxied: Any, tmp_path: Path) -> None:
    ports = {name: free_port() for name in NODES}
    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(node(port)) for name, port in ports.items()}
        listen, wait_until_back = stack.enter_context(proxied(ports, tmp_path))
        for name in NODES:
            running[name].wait_until_full()
            wait_until_back(name)
        with ConnectStorm(lambda: listen) as storm:
            storm.wait_for_more(20)
            for name in NODES:
                assert running[name].stop() == 0
                storm.wait_for_more(5)
                running[name] = stack.enter_context(node(ports[name]))
                wait_until_back(name)
                storm.wait_for_more(20)
        assert not storm.failures, (storm.failures, storm.answered)
        print(dict(storm.answered))


# Kubernetes


def deployment() -> dict[str, Any]:
    """Return the Deployment of the guide."""
    texts = [block for block in blocks(DOCS / "deploying" / "kubernetes.md", "yaml") if "kind: Deployment" in block]
    found, _ = yaml.safe_load_all(texts[0])
    assert isinstance(found, dict)
    return found


def pod_settings(container: dict[str, Any], directory: Path) -> Settings:
    given = serve.make_context("serve", list(container["args"][1:])).params
    return resolve(given, environ={}, directory=directory, config=given.pop("config"))


class Kubelet:
    """One pod: its process, and its probes by the Deployment's paths and thresholds."""

    def __init__(self, container: dict[str, Any]) -> None:
        self.port = free_port()
        self._container = container
        # What the container has of its own: the port, the broker, and times for a test.
        args = replaced(
            " ".join(container["args"][1:]), {"lame-duck 10s": f"lame-duck {LAME_DUCK}", "drain 60s": "drain 2s"}
        )
        self.server = RunningServer(None, *args.split(), "--bind", f"127.0.0.1:{self.port}", bind=None, workers=1)

    def start(self) -> None:
        """Start the container, and wait for its startup probe."""
        self.server.start()
        self.server.wait_until_listening()
        while not self.succeeds("startupProbe"):
            pass

    def succeeds(self, name: str) -> bool:
        """Probe once, as the kubelet does: from 200 to 399 is a success."""
        with contextlib.suppress(OSError):
            return 200 <= probe(self.port, self._container[name]["httpGet"]["path"])[0] < 400
        return False


@pytest.mark.slow
def test_a_rolling_update_of_pods_refuses_no_client() -> None:
    """maxSurge 1, maxUnavailable 0: a new pod is ready, then an old one gets TERM while the Service still names it."""
    spec = deployment()["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    assert "lifecycle" not in container, "no preStop is needed"

    pods: list[Kubelet] = []
    turns = itertools.count()

    def service() -> int:
        endpoints = list(pods)  # as of now; another thread changes it
        return endpoints[next(turns) % len(endpoints)].port

    with contextlib.ExitStack() as stack:
        for _ in range(spec["replicas"]):
            pods.append(Kubelet(container))
            stack.callback(pods[-1].server.stop)
            pods[-1].start()
        with ConnectStorm(service) as storm:
            for old in list(pods):
                new = Kubelet(container)
                stack.callback(new.server.stop)
                new.start()
                pods.append(new)
                mark = old.server.log.mark()
                old.server.process.terminate()
                failures = 0  # the endpoint goes when the pod was not ready so often, which is later than in a cluster
                while failures < container["readinessProbe"]["failureThreshold"]:
                    failures = 0 if old.succeeds("readinessProbe") else failures + 1
                assert old.succeeds("livenessProbe"), "it is not restarted while it stops"
                assert not [line for line in old.server.log.lines[mark:] if SERVER_STOPPING in line], "it serves on"
                pods.remove(old)
                storm.wait_for_more(5)
                assert old.server.wait(deadline_s=60) == 0
                storm.wait_for_more(20)
        assert not storm.failures, (storm.failures, storm.answered)
        print(dict(storm.answered))


def test_a_pod_has_time_for_its_lame_duck_and_its_drain(tmp_path: Path) -> None:
    pod = deployment()["spec"]["template"]["spec"]
    [container] = pod["containers"]
    settings = pod_settings(container, tmp_path)
    readiness = container["readinessProbe"]
    assert settings.lame_duck_s > readiness["periodSeconds"] * readiness["failureThreshold"]
    assert pod["terminationGracePeriodSeconds"] >= settings.lame_duck_s + settings.drain_s + KILL_GRACE_S
