"""The pid file: written where there is one, and removed only by the process that has written it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sticky.errors import SettingsError
from sticky.process.pid_file import PidFile


def test_it_is_written_anew_and_removed_by_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    path.write_text("999999999\n")
    file = PidFile(str(path))
    file.write(41)
    file.write(42)
    assert path.read_text() == "42\n"
    file.remove()
    assert not path.exists()


def test_a_file_that_another_process_has_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    PidFile(str(path)).write(41)
    PidFile(str(path)).remove()
    assert path.read_text() == "41\n"


def test_the_path_stays_the_same_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = PidFile("server.pid")
    monkeypatch.chdir("/")
    file.write(41)
    assert file.path == str(tmp_path / "server.pid"), "the keeper removes it by this path"
    assert (tmp_path / "server.pid").exists()


def test_one_that_cannot_be_written_names_the_setting_and_the_reason(tmp_path: Path) -> None:
    file = PidFile(str(tmp_path / "missing" / "server.pid"))
    with pytest.raises(SettingsError) as caught:
        file.write(41)
    assert caught.value.name == "pid_file"
    assert os.strerror(2) in caught.value.problem
    file.remove()  # it was not written, so nothing happens


def test_one_that_is_gone_already_is_no_error(tmp_path: Path) -> None:
    file = PidFile(str(tmp_path / "server.pid"))
    file.write(41)
    (tmp_path / "server.pid").unlink()
    file.remove()


def test_without_a_path_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = PidFile(None)
    file.write(41)
    file.remove()
    assert file.path == ""
    assert list(tmp_path.iterdir()) == []
