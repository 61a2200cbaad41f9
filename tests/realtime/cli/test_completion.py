"""`realtime completion`: a script for each shell, and what it completes."""

from __future__ import annotations

import pytest

from realtime.cli.completion import SHELLS
from realtime.cli.main import run

from .conftest import Run


@pytest.mark.parametrize("shell", SHELLS)
def test_it_prints_a_script_for_the_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_REALTIME_COMPLETE" in script
    assert shell in script


def test_another_shell_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", "tcsh"]) == 2
    assert capsys.readouterr().err == (
        "realtime: Invalid value for 'SHELL': 'tcsh' is not one of 'bash', 'zsh', 'fish'"
        " (see `realtime completion --help`)\n"
    )


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("realtime se", "plain,serve"),
        ("realtime serve --stick", "plain,--sticky"),
        ("realtime serve --sticky s", "plain,session"),
        ("realtime completion f", "plain,fish"),
    ],
)
def test_commands_options_and_their_words_are_completed(realtime: Run, words: str, wanted: str) -> None:
    env = {
        "_REALTIME_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    assert wanted in realtime(env=env).stdout.splitlines()
