"""A real template, and workers that are forked of it: whose children they are, what they have, and what they lack."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sticky.handoff.channel import CHANNEL_FD, Channel, ChannelClosed, WorkerChannel
from sticky.handoff.fork_link import TEMPLATE_FD, ForkLink
from sticky.supervision.environment import OperatingSystem
from tests.support.server import ROOT

SYSTEM = OperatingSystem()
ENV = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(ROOT), "WHO": "the template"}

# What a worker does here: it says on its channel what it is, then waits for the end of the channel.
WORKER = f"""
import os, socket, threading
from sticky import serve_as_template
import json

def files():
    found = {{}}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink("/proc/self/fd/" + fd)
        except OSError:  # that of the list itself
            pass
    return found

drawn = os.urandom(4).hex()
serve_as_template()
channel = socket.socket(fileno=int(os.environ["{CHANNEL_FD}"]))
about = {{
    "pid": os.getpid(), "parent": os.getppid(), "who": os.environ["WHO"], "drawn": drawn,
    "template": "{TEMPLATE_FD}" in os.environ, "threads": threading.active_count(),
    "files": files(), "channel": channel.fileno(),
}}
channel.send(json.dumps(about).encode())
channel.recv(1)
"""


class Template:
    """A template that is ready, and its workers."""

    def __init__(self) -> None:
        self.pid, link = SYSTEM.start_template([sys.executable, "-c", WORKER], ENV)
        assert isinstance(link, ForkLink)
        self.link = link
        self.channels: list[WorkerChannel] = []
        wait_for(link.fileno())
        assert link.is_ready()

    def worker(self, who: str) -> tuple[int, int, Channel]:
        pid, pidfd, channel = SYSTEM.fork_worker(self.link, {**ENV, "WHO": who})
        assert isinstance(channel, Channel)
        self.channels.append(channel)
        return pid, pidfd, channel

    def close(self) -> None:
        self.link.close()
        for channel in self.channels:
            channel.close()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def wait_for(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(60_000)


def said(channel: WorkerChannel) -> dict[str, Any]:
    assert isinstance(channel, Channel)
    wait_for(channel.fileno())
    return msgspec.json.decode(channel.sock.recv(10_000), type=dict[str, Any])


@pytest.fixture
def template() -> Iterator[Template]:
    found = Template()
    try:
        yield found
    finally:
        found.close()


def test_workers_share_what_the_template_has_made_and_have_an_environment_of_their_own(template: Template) -> None:
    one, two = (said(template.worker(who)[2]) for who in ("one", "two"))
    assert (one["who"], two["who"]) == ("one", "two")
    assert one["drawn"] == two["drawn"], "it was made before both"
    assert one["pid"] != two["pid"]
    assert not one["template"], "its own children would take themselves for templates"


def test_a_worker_has_the_standard_streams_and_its_channel(template: Template) -> None:
    pid, _, channel = template.worker("one")
    about = said(channel)
    assert about["pid"] == pid
    _, other = SYSTEM.start_worker([sys.executable, "-c", WORKER], ENV)
    template.channels.append(other)
    assert len(about["files"]) == len(said(other)["files"]), "as many as one that is executed anew"
    assert str(about["channel"]) in about["files"]
    assert about["threads"] == 1


def test_a_worker_is_no_child_of_its_template_and_outlives_it(template: Template) -> None:
    pid, pidfd, channel = template.worker("one")
    about = said(channel)
    assert about["parent"] not in (template.pid, os.getpid())
    os.kill(template.pid, signal.SIGKILL)
    os.waitpid(template.pid, 0)
    wait_for(template.link.fileno())
    with pytest.raises(ChannelClosed):
        template.link.is_ready()
    assert Path(f"/proc/{pid}").exists()
    channel.close()
    template.channels.clear()
    wait_for(pidfd)  # its channel has ended, and with it the worker
    os.close(pidfd)


def test_a_template_ends_with_its_link(template: Template) -> None:
    template.link.close()
    assert os.waitstatus_to_exitcode(os.waitpid(template.pid, 0)[1]) == 0


def test_nothing_of_the_start_of_a_worker_stays_in_the_template(template: Template) -> None:
    before = sorted(os.listdir(f"/proc/{template.pid}/fd"))
    for number in range(5):
        _, pidfd, channel = template.worker(str(number))
        said(channel)
        os.close(pidfd)
    while sorted(os.listdir(f"/proc/{template.pid}/fd")) != before:  # the last channel is closed a moment later
        pass
    assert not Path(f"/proc/{template.pid}/task/{template.pid}/children").read_text().strip(), "it has reaped them"


def test_a_process_that_is_no_template_goes_on_at_once() -> None:
    pid, channel = SYSTEM.start_worker([sys.executable, "-c", WORKER], ENV)
    about = said(channel)
    assert (about["pid"], about["parent"], about["who"]) == (pid, os.getpid(), "the template")
    channel.close()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
