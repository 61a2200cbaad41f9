"""A worker that has lost its primary: how long it serves, where it looks for another, and what a start makes of it."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import msgspec
import pytest

from sticky.handoff.channel import Channel, Kind
from sticky.handoff.messages import Ack, WorkerIdentity, from_worker
from sticky.handoff.orphan_report import ORPHAN_SOCKET, VERSION, OrphanReport
from sticky.process.orphans import Orphans
from sticky.process.process_record import NAME, ProcessRecord, start_of
from sticky.worker.orphanhood import Orphanhood
from tests.sticky.test_worker import Serving
from tests.support.aio import run_async

REPORT = OrphanReport(VERSION, "n-0-1", "terms")


@pytest.mark.parametrize(("grace_s", "closing_s"), [(600.0, 30.0), (60.0, 30.0), (10.0, 5.0), (0.0, 0.0)])
def test_clients_are_closed_over_the_last_half_of_the_grace_thirty_seconds_at_most(
    grace_s: float, closing_s: float
) -> None:
    assert Orphanhood("", REPORT, grace_s=grace_s, on_over=lambda s: None).closing_s == closing_s


@run_async
async def test_the_drain_gets_the_seconds_that_are_left() -> None:
    run = Serving(orphan_grace_s=0.02)
    running = asyncio.ensure_future(run.until_ended())
    client = run.hand_over(1)
    await run.next(Ack)
    run.primary.close()
    await running
    assert run.drained == [0.01]
    client.close()
    run.adopted[0].sock.close()


@run_async
async def test_a_worker_without_a_client_waits_for_a_primary_and_serves_under_it(tmp_path: Path) -> None:
    run = Serving(orphan_grace_s=600.0, directory=str(tmp_path), terms="terms")
    running = asyncio.ensure_future(run.until_ended())
    await run.next(object)
    run.primary.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / ORPHAN_SOCKET))
        listener.listen()
        listener.setblocking(False)
        sock, _ = await asyncio.get_running_loop().sock_accept(listener)
    sock.setblocking(False)
    report = msgspec.msgpack.decode(await asyncio.get_running_loop().sock_recv(sock, 65536), type=OrphanReport)
    assert report == OrphanReport(VERSION, "n-0-1", "terms", "n", b"s" * 32)
    run.primary = Channel(sock, from_worker)
    assert run.primary.send(Kind.IDENTIFY)
    assert await run.next(WorkerIdentity) == WorkerIdentity(0, 0, 0, False)
    client = run.hand_over(1)
    await run.next(Ack)
    assert len(run.adopted) == 1
    assert not run.drained
    run.drain()
    await running
    client.close()
    run.adopted[0].sock.close()
    run.primary.close()


def test_the_record_has_only_processes_that_still_run(tmp_path: Path) -> None:
    record = ProcessRecord(str(tmp_path))
    assert record.read() == {}
    pid, texts = os.getpid(), {"wanted": "4", "secret": "never"}
    record.write({**texts, "worker:n-0-1": f"0 {pid} 1 ready", "sidecar:the+broker": f"{pid} ready"})
    assert record.read() == {"wanted": "4", "worker:n-0-1": f"0 {pid} 1 ready", "sidecar:the+broker": f"{pid} ready"}
    started = start_of(pid)
    assert started is not None
    path = tmp_path / NAME
    path.write_text(path.read_text().replace(f"{pid} {started}", f"{pid} 1"))
    assert record.read() == {"wanted": "4"}, "the number is another process's by now"
    path.write_bytes(b"\xff\n \nworker:n-0-1\n")
    assert record.read() == {}


def test_without_processes_nothing_is_waited_for(tmp_path: Path) -> None:
    ProcessRecord(str(tmp_path)).write({"wanted": "4"})
    kept = Orphans(str(tmp_path), terms="terms", sidecar_terms={}, drain_s=60.0).collect()
    assert (kept.fds, kept.texts) == ({}, {})
    assert not (tmp_path / ORPHAN_SOCKET).exists()
