"""The stock clients in tests/apps/node, as processes that are spoken to by lines."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.conftest import REQUIRED
from tests.support.require import require

HERE = Path(__file__).with_name("node")


class NodeClients:
    """One Node process that runs a script of tests/apps/node."""

    def __init__(self, script: str, *arguments: str) -> None:
        node = require("node")
        if not (HERE / "node_modules" / "yjs" / "package.json").is_file():
            sentence = "STOCK CLIENTS UNDER NODE ARE NOT TESTED: run `npm --prefix tests/apps/node ci`"
            pytest.fail(sentence, pytrace=False) if "node" in REQUIRED else pytest.skip(sentence)
        self._process = subprocess.Popen(
            [node, str(HERE / script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def read(self, count: int) -> list[Any]:
        """Read so many lines of JSON."""
        assert self._process.stdout is not None
        lines = [self._process.stdout.readline() for _ in range(count)]
        assert all(lines), "it ended before it had said everything"
        return [json.loads(line) for line in lines]

    def go_on(self) -> None:
        """Send a line, which has it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def __enter__(self) -> NodeClients:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
