"""Autobahn's cases against a WebSocket server that echoes, run by `kosoku`, and a comparison of two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

RANKS = ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED")  # verdicts, the best first; others are failures
AGAIN = 2


async def run_cases(url: str, cases: Sequence[str], *, at_once: int) -> dict[str, Any]:
    """
    Run cases and return their results by case. Skip the test where `kosoku` is not installed.

    Args:
        url: of the server.
        cases: their names, or patterns of names with `*`.
        at_once: how many are open together.
    """
    kosoku = pytest.importorskip("kosoku")
    try:
        results = await kosoku.run_fuzzingclient(url, cases, concurrency=at_once)
    except kosoku.FailureError as failure:  # it has all results, of cases that did not fail as well
        results = failure.results
    return {each.case_id: each for each in results}


async def worse_again(
    url: str, before: Mapping[str, Any], cases: Sequence[str], *, at_once: int
) -> tuple[list[str], list[str]]:
    """
    Run cases, and those again whose verdict is worse than before. Autobahn waits a second or so for most of what it
    expects, and a worker that starts on a busy machine may take that second.

    Returns:
        The cases that were worse each time, and those that were once.
    """
    found = worse(before, await run_cases(url, cases, at_once=at_once))
    once = list(found)
    for _ in range(AGAIN):
        if found:
            names = [each.partition(":")[0] for each in found]
            results = await run_cases(url, names, at_once=at_once)
            found = worse({each: before[each] for each in names}, results)
    return found, once


def worse(before: Mapping[str, Any], during: Mapping[str, Any]) -> list[str]:
    """Return the cases whose verdict, of messages or of the closing handshake, is worse in the second run."""
    assert before.keys() >= during.keys(), "both runs have the same cases"
    found = []
    for case in during:
        verdicts = [_verdicts(each) for each in (before[case], during[case])]
        if any(_rank(after) > _rank(was) for was, after in zip(*verdicts, strict=True)):
            reasons = f"{during[case].result} {during[case].result_close} {during[case].was_not_clean_reason or ''}"
            found.append(f"{case}: {' '.join(verdicts[0])} -> {' '.join(verdicts[1])}: {reasons.strip()}")
    return found


def _verdicts(result: Any) -> tuple[str, str]:
    return result.behavior.value, result.behavior_close.value


def _rank(verdict: str) -> int:
    return RANKS.index(verdict) if verdict in RANKS else len(RANKS)
