"""The mark of a publication: written, found again wherever it stands, and never taken for another run's."""

from __future__ import annotations

import json

import pytest

from realtime.loadtest.errors import WrongPlan
from realtime.loadtest.marks import Mark, Marker

DATA = '{"text": "{text}"}'


@pytest.mark.parametrize("size", [64, 128, 4096])
def test_the_data_has_the_size_that_was_asked_for_and_is_json(size: int) -> None:
    data = Marker("0123abcd", DATA, size).data(Mark(19_999, 599_999, 600_000_000))
    assert len(data) == size
    assert set(json.loads(data)) == {"text"}


def test_it_is_found_wherever_an_application_puts_the_text() -> None:
    marker, mark = Marker("0123abcd", DATA, 64), Mark(3, 17, 850_000)
    text = json.loads(marker.data(mark))["text"]
    line = json.dumps({"push": {"channel": "x", "pub": {"data": {"from": "a", "said": [f"<b>{text}</b>"]}}}})
    assert marker.find(line.encode()) == mark


def test_another_run_and_what_others_say_is_foreign() -> None:
    marker = Marker("0123abcd", DATA, 64)
    assert marker.find(Marker("0123abce", DATA, 64).data(Mark(0, 0, 0))) is None
    assert marker.find(b'{"text":"hello ~ there"}') is None


def test_the_form_of_the_data_is_the_users() -> None:
    marker = Marker("0123abcd", '{"kind": "say", "body": {"text": "> {text}"}, "é": 1}', 100)
    data = marker.data(Mark(0, 0, 0))
    assert len(data) == 100
    assert json.loads(data)["kind"] == "say"
    assert marker.find(data) == Mark(0, 0, 0)


@pytest.mark.parametrize(
    ("data", "problem"), [("{text}", "not JSON"), ("{}", "is missing"), ('{"text": 1}', "is missing")]
)
def test_data_without_a_place_for_the_text_is_refused(data: str, problem: str) -> None:
    with pytest.raises(WrongPlan, match=f"^--data: .*{problem}"):
        Marker("0123abcd", data, 64)
