"""Where samples of `perf` belong, and the table that is made of them."""

from __future__ import annotations

import pytest

from benchmarks.profile import KERNEL_ELSE, LESS, Profile, place_of, read
from tests.benchmarks.test_targets import a_run

KERNEL = "[kernel.kallsyms]"
SCRIPT = """
 4711/4712
        ffffffff81a00000 tcp_sendmsg ([kernel.kallsyms])
        ffffffff81b00000 __x64_sys_write ([kernel.kallsyms])
              7f0000001 __libc_write (/usr/lib/libc.so.6)

 4711
              7f0000002 _PyEval_EvalFrameDefault+0x10 (/opt/python 3/bin/python3.13)

 4711
              7f0000002 _PyEval_EvalFrameDefault (/opt/python 3/bin/python3.13)

 815
              7f0000003 main (/build/floor)

 1
              7f0000003 main (/sbin/init)

 815
"""


@pytest.mark.parametrize(
    ("stack", "place"),
    [
        ([("tcp_sendmsg", KERNEL), ("__x64_sys_sendto", KERNEL)], "kernel: sending"),
        ([("tcp_sendmsg", KERNEL), ("vfs_write", KERNEL), ("ksys_write", KERNEL)], "kernel: sending"),
        ([("tcp_recvmsg", KERNEL), ("__x64_sys_read", KERNEL)], "kernel: receiving"),
        ([("unix_stream_recvmsg", KERNEL), ("__sys_recvmsg", KERNEL)], "kernel: receiving"),
        ([("schedule", KERNEL), ("do_epoll_wait", KERNEL)], "kernel: waiting for events"),
        ([("schedule", KERNEL), ("__arm64_sys_epoll_pwait", KERNEL)], "kernel: waiting for events"),
        ([("inet_csk_accept", KERNEL), ("__x64_sys_accept4", KERNEL)], "kernel: connections"),
        ([("clear_page", KERNEL), ("asm_exc_page_fault", KERNEL), ("x", "/usr/bin/python3.13")], KERNEL_ELSE),
        ([("x", "/lib/python3.13/site-packages/uvloop/loop.cpython-313-x86_64-linux-gnu.so")], "uvloop"),
        ([("x", "/lib/python3.13/site-packages/msgspec/_core.cpython-313-x86_64-linux-gnu.so")], "msgspec"),
        ([("x", "/lib/python3.13/lib-dynload/_asyncio.cpython-313-x86_64-linux-gnu.so")], "Python"),
        ([("memmove", "/usr/lib/x86_64-linux-gnu/libc.so.6")], "C library"),
        ([("x", "/usr/lib/libunheard.so")], LESS),
        ([], LESS),
    ],
)
def test_a_sample_belongs_to_whom_the_kernel_works_for_or_whose_code_it_is(
    stack: list[tuple[str, str]], place: str
) -> None:
    assert place_of(stack) == place


def test_samples_are_counted_by_what_their_process_does() -> None:
    samples = read(SCRIPT.splitlines(), {4711: "workers", 815: "broker"})
    assert samples == {
        ("workers", "kernel: sending"): 1,
        ("workers", "Python"): 2,
        ("broker", "the floor"): 1,
        ("broker", LESS): 1,
    }


def test_the_microseconds_are_the_clocks_shared_out_by_the_samples() -> None:
    profile = Profile()
    samples = read(SCRIPT.splitlines(), {4711: "workers", 815: "broker"})
    profile.add(a_run("realtime", 0, 30.0), samples)
    profile.add(a_run("realtime", 1, 60.0), samples)  # the mean of both
    profile.add(a_run("idle", 0, 0.1), samples)  # a worker that does nothing beside the broker's 100
    head, _, *lines = profile.markdown().splitlines()
    assert head == "| µs per unit | all | kernel: sending | Python | the floor | else |"
    assert lines == [
        "| S1 realtime: workers | 45 | 15 | 30 |  |  |",
        "| S1 realtime: broker | 100 |  |  | 50 | 50 |",
        "| S1 idle: broker | 100 |  |  | 50 | 50 |",
    ]
