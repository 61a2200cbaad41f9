"""
The official suites of Engine.IO and Socket.IO, run against a server of ours.

REALTIME_SOCKETIO_SUITES names a folder laid out as `docs/` of github.com/socketio/socket.io, with the packages of each
suite installed (`npm ci` in it). Nothing of it is part of this repository. The suites have a fixed address, so they get
another `node-imports.js`, the file that sets `fetch` and `WebSocket`; `test-suite.js` itself runs unchanged.

Some cases give a server 5 ms, or a client 200 ms: on a busy machine Node itself is too late for them. So a case that
failed may be repeated, as the caller says.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import NO_SUITES, SUITES
from tests.support.require import require

ENGINE: Final = "engine.io-protocol/v4-test-suite"
SOCKET: Final = "socket.io-protocol/v5-test-suite"
SUITE_S: Final = 120.0  # a run takes 5 s

IMPORTS: Final = """\
import fetch from "node-fetch";
import { WebSocket } from "ws";
import chai from "chai";
import chaiString from "chai-string";

chai.use(chaiString);

const moved = (address) => {
  const url = new URL(address);
  url.host = process.env.SUITE_HOST;
  return url.href;
};

globalThis.fetch = (address, options) => fetch(moved(address), options);
globalThis.WebSocket = class extends WebSocket {
  constructor(address, ...rest) {
    super(moved(address), ...rest);
  }
};
globalThis.chai = chai;
"""


def suite(name: str, directory: Path) -> Path:
    """Put a suite where it can run, in a directory of the test's own. Skip the test, aloud, where there is none."""
    node = require("node")
    source = Path(os.environ.get(SUITES, ""), name)
    if not os.environ.get(SUITES):
        pytest.skip(NO_SUITES)
    assert (source / "node_modules" / "mocha").is_dir(), f"{source}: no suite with its packages ({node})"
    for file in ("test-suite.js", "package.json"):
        shutil.copy(source / file, directory)
    (directory / "node_modules").symlink_to(source / "node_modules")
    (directory / "node-imports.js").write_text(IMPORTS)
    return directory


async def failures(directory: Path, host: str, only: list[str] | None = None) -> tuple[int, dict[str, str]]:
    """
    Run a suite.

    Args:
        directory: as `suite` returned it.
        host: address and port of the server.
        only: the full titles of the cases to run; all unless given.

    Returns:
        How many cases passed, and what failed: title and reason.
    """
    wanted = [] if only is None else ["--grep", "|".join(f"^{_escaped(title)}$" for title in only)]
    process = await asyncio.create_subprocess_exec(
        "node",
        "node_modules/mocha/bin/mocha",
        "--reporter",
        "json",
        *wanted,
        "test-suite.js",
        cwd=directory,
        env={**os.environ, "SUITE_HOST": host},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), SUITE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    begin = output.find(b"{\n")
    assert begin >= 0, (output + errors).decode(errors="replace")
    report: dict[str, Any] = json.loads(output[begin:])
    failed = {each["fullTitle"]: each["err"].get("message", "") for each in report["failures"]}
    return report["stats"]["passes"], failed


def _escaped(title: str) -> str:
    """Return a title as a regular expression of JavaScript."""
    return "".join(f"\\{each}" if each in r"\^$.*+?()[]{}|/" else each for each in title)


async def passes(directory: Path, host: str, *, cases: int, repeats: int) -> None:
    """
    See that every case of a suite passes.

    Args:
        directory, host: as for `failures`.
        cases: how many there are.
        repeats: how often a case that failed may be tried again.
    """
    passed, failed = await failures(directory, host)
    assert passed + len(failed) == cases
    for _ in range(repeats):
        if failed:
            _, failed = await failures(directory, host, only=list(failed))
    assert not failed, "\n".join(f"{title}: {reason}" for title, reason in failed.items())
