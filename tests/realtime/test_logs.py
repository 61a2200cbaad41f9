"""Log lines: their shape for people and for machines, and what they never hold."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator

import pytest

from realtime import logs

LOG = logging.getLogger("realtime.test")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Give the other tests their handlers back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    streams = sys.stdout, sys.stderr
    yield
    sys.stdout, sys.stderr = streams
    for name in ("realtime.test", "realtime.other"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_a_line_for_people_holds_the_time_the_process_the_mark_and_the_message() -> None:
    stream = io.StringIO()
    logs.set_up("3", stream=stream)
    LOG.info("= ready")
    LOG.info("it said %r", "x\n")
    [ready, said] = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} info    3/\d+ +\= ready", ready)
    assert said.endswith(r"  it said 'x\n'")


def test_a_warning_without_a_mark_gets_one() -> None:
    stream = io.StringIO()
    logs.set_up("primary", stream=stream)
    LOG.warning("out of descriptors")
    LOG.warning("x closing, slow")
    assert lines(stream)[0].endswith(" ! out of descriptors")
    assert lines(stream)[1].endswith(" x closing, slow")


@pytest.mark.parametrize(
    ("color", "stream", "coloured"),
    [
        ("auto", io.StringIO, False),
        ("auto", Terminal, True),
        ("never", Terminal, False),
        ("always", io.StringIO, True),
    ],
)
def test_colours_are_for_terminals_unless_somebody_chose(color: str, stream: type[io.StringIO], coloured: bool) -> None:
    out = stream()
    logs.set_up("0", color=color, stream=out)
    LOG.error("! no")
    assert ("\x1b[" in out.getvalue()) is coloured


def test_a_line_for_machines_is_one_json_object() -> None:
    stream = io.StringIO()
    logs.set_up("1", form="json", stream=stream)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        LOG.exception("! it %s", "broke")
    [line] = lines(stream)
    fields = json.loads(line)
    assert fields["message"] == "it broke"
    assert (fields["event"], fields["level"], fields["process"]) == ("error", "error", "1")
    assert fields["logger"] == "realtime.test"
    assert "ValueError: two\nlines" in fields["traceback"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields["time"])


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_secret_is_never_logged_not_even_by_a_traceback(form: str) -> None:
    stream = io.StringIO()
    logs.set_up("1", form=form, secrets=["hunter2", None, ""], stream=stream)
    LOG.info("= it is %s", "hunter2")
    try:
        raise ValueError("hunter2")
    except ValueError:
        LOG.exception("! broken")
    assert "hunter2" not in stream.getvalue()
    assert "***" in stream.getvalue()


def test_control_characters_of_a_message_do_not_reach_the_terminal() -> None:
    stream = io.StringIO()
    logs.set_up("1", stream=stream)
    LOG.info("< \x1b[2J\x07 gone")
    assert lines(stream)[0].endswith(r"< \x1b[2J\x07 gone")


def test_the_level_is_the_least_that_is_logged() -> None:
    stream = io.StringIO()
    logs.set_up("1", level="warning", stream=stream)
    LOG.info("= no")
    LOG.warning("! yes")
    assert [line[-3:] for line in lines(stream)] == ["yes"]


def test_a_logger_can_have_a_level_of_its_own() -> None:
    stream = io.StringIO()
    logs.set_up("1", level="error,realtime.test=debug,realtime.other=info", stream=stream)
    LOG.debug("= detail")
    logging.getLogger("realtime.other").debug("= no")
    logging.getLogger("realtime.third").warning("! no")
    assert [line.split()[-1] for line in lines(stream)] == ["detail"]


def test_what_a_message_says_of_an_object_is_a_field_for_machines() -> None:
    stream = io.StringIO()
    logs.set_up("primary", form="json", stream=stream)
    LOG.info('x worker exited slot=%d pid=%d after=%.1f reason="%s" of 100%%', 3, 811, 2.5, "killed by SIGKILL")
    LOG.info("< %s said %s user=%s", "127.0.0.1", "slot=9 user=admin", "ana")
    exited, said = [json.loads(line) for line in lines(stream)]
    assert (exited["slot"], exited["worker_pid"], exited["after"]) == (3, 811, 2.5)
    assert exited["reason"] == "killed by SIGKILL"
    assert exited["message"] == 'worker exited slot=3 pid=811 after=2.5 reason="killed by SIGKILL" of 100%'
    assert said["user"] == "ana", "what a client says is no field"
    assert "slot" not in said


def test_what_is_printed_appears_as_whole_lines_that_name_the_process() -> None:
    stream = io.StringIO()
    logs.set_up("2", stream=stream)
    logs.tag_output()
    print("one", 1)
    print("the beginning", end=" ")
    other = threading.Thread(target=print, args=("of another thread",))
    other.start()
    other.join()
    assert [line.partition("| ")[2] for line in lines(stream)] == ["one 1", "of another thread"]
    print("and the end\nand more")
    print("a problem", file=sys.stderr)
    found = lines(stream)
    assert [line.partition("| ")[2] for line in found[2:]] == ["the beginning and the end", "and more", "a problem"]
    assert all(re.search(r" 2/\d+ +\| ", line) for line in found)
    assert " info " in found[0]
    assert " warning " in found[-1]


def test_a_printed_line_without_an_end_does_not_grow_for_ever() -> None:
    stream = io.StringIO()
    logs.set_up("2", stream=stream)
    logs.tag_output()
    for _ in range(3):
        print("x" * logs.LINE_MAX, end="")
    assert len(lines(stream)) >= 1
