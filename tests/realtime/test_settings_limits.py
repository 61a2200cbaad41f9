"""
Each setting that is a limit: the least and the most that it may be, and what is said of a value beyond them.

What a server does with a limit at its least and its most is in tests/process/test_limits.py and its neighbours.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from realtime.cli.main import run
from realtime.settings import options, resolve

# Each limit, its least, its most, and how these are said.
LIMITS = {
    "--connections-per-address": ("1", "1000000", "a whole number from 1 to 1000000"),
    "--handshake": ("100ms", "5m", "a time from 100ms to 5m, such as 25, 25s, 500ms or 2m"),
    "--keep-alive": ("100ms", "1h", "a time from 100ms to 1h, such as 25, 25s, 500ms or 2m"),
    "--head-bytes": ("1KiB", "64KiB", "a size from 1KiB to 64KiB, such as 65536 or 64KiB"),
    "--head-headers": ("10", "1000", "a whole number from 10 to 1000"),
    "--message-bytes": ("1KiB", "64MiB", "a size from 1KiB to 64MiB, such as 65536 or 64KiB"),
    "--hosted-message-bytes": ("1KiB", "1GiB", "a size from 1KiB to 1GiB, such as 65536 or 64KiB"),
    "--outbound-bytes": ("16KiB", "256MiB", "a size from 16KiB to 256MiB, such as 65536 or 64KiB"),
    "--outbound": ("500ms", "5m", "a time from 500ms to 5m, such as 25, 25s, 500ms or 2m"),
    "--ping": ("100ms", "10m", "a time from 100ms to 10m, such as 25, 25s, 500ms or 2m"),
    "--pong": ("50ms", "5m", "a time from 50ms to 5m, such as 25, 25s, 500ms or 2m"),
    "--socketio-ping": ("50ms", "10m", "a time from 50ms to 10m, such as 25, 25s, 500ms or 2m"),
    "--socketio-ping-timeout": ("50ms", "10m", "a time from 50ms to 10m, such as 25, 25s, 500ms or 2m"),
    "--rooms-per-connection": ("1", "100000", "a whole number from 1 to 100000"),
    "--commands-per-second": ("0", "1000000", "a whole number from 0 to 1000000"),
    "--answer-bytes": ("0", "1GiB", "a size from 0 to 1GiB, such as 65536 or 64KiB"),
    "--large-room": ("1", "10000000", "a whole number from 1 to 10000000"),
    "--control-frames-per-second": ("0", "1000000", "a whole number from 0 to 1000000"),
    "--fragments-per-second": ("0", "1000000", "a whole number from 0 to 1000000"),
    "--segments-per-second": ("0", "1000000", "a whole number from 0 to 1000000"),
}


def test_no_limit_is_missing_from_the_list() -> None:
    assert set(LIMITS) == {option.flag for option in options() if option.group == "Limits"}


def bounds(flag: str) -> tuple[float, float]:
    kind = next(option.kind for option in options() if option.flag == flag)
    least, most, _ = LIMITS[flag]
    return kind.parse(least), kind.parse(most)


@pytest.mark.parametrize("flag", LIMITS)
def test_a_limit_may_be_its_least_and_its_most(tmp_path: Path, flag: str) -> None:
    name = next(option.name for option in options() if option.flag == flag)
    beside = {"ping_s": {"pong_s": "50ms"}, "pong_s": {"ping_s": "10m"}}.get(name, {})
    for text, value in zip(LIMITS[flag], bounds(flag), strict=False):
        assert getattr(resolve({name: text, **beside}, environ={}, directory=tmp_path), name) == value


@pytest.mark.parametrize("flag", LIMITS)
def test_no_server_starts_with_a_limit_below_its_least_or_above_its_most(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    least, most = bounds(flag)
    step = 0.001 if isinstance(least, float) else 1
    for value in (least - step, most + step):
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        assert run(["serve", f"{flag}={text}"]) == 2
        assert capsys.readouterr().err == f"realtime: {flag}: {text!r} is not {LIMITS[flag][2]}\n"
