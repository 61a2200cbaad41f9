"""
The suites of the stock SDKs for Go and JavaScript, as their repositories have them, against our server.

REALTIME_SUITES names a folder with checkouts of them, `centrifuge-go` and `centrifuge-js`, the second with its
node_modules. They are not part of this project: without the folder this is skipped, also where REALTIME_REQUIRE is set.
In a copy of each, the port, the secret and the API's key are replaced by ours; the server refuses short ones, so tokens
that stand in a test are signed anew.

One test is expected to fail: `TestPublishProtobuf` publishes bytes that are no JSON into a room whose other members may
speak JSON, and expects that to be taken. Ours refuses it (107), unless the room is declared `binary`; then clients that
speak JSON are refused by the room (108).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, Final

import jwt
import pytest

from realtime.auth.tokens import sign
from tests.sdk.test_stock_suite import SECRET
from tests.support.server import RunningServer

FOLDER: Final = os.environ.get("REALTIME_SUITES", "")
APP: Final = Path(__file__).with_name("suite_app.py")
KEY: Final = "a key of sixteen bytes"
SUITE_S: Final = 280.0  # only a hang reaches it
TOKEN: Final = re.compile(r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+")

STREAM_FILES: Final = (
    "centrifuge",
    "centrifuge.protobuf",
    "compaction",
    "debounce",
    "delta",
    "getstate",
    "recovery",
    "utils",
)

NO_MAPS: Final = "^(?!map[ :])"
"""Tests of rooms that hold the latest value of each key, which ours do not have, begin with that word."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="REALTIME_SUITES names no folder with the suites of the SDKs"),
]


def copy_of(suite: str, pattern: str, copy: Path, server: RunningServer) -> Path:
    """Copy a suite, and have its tests speak to our server."""

    def sign_anew(found: re.Match[str]) -> str:
        return sign(jwt.decode(found[0], options={"verify_signature": False}), SECRET)

    shutil.copytree(Path(FOLDER, suite), copy, symlinks=True, ignore=shutil.ignore_patterns(".git", "node_modules"))
    for path in copy.glob(pattern):
        text = path.read_text().replace("localhost:8000", f"localhost:{server.port}").replace("test-api-key", KEY)
        path.write_text(TOKEN.sub(sign_anew, text))
    return copy


def run(command: list[str], copy: Path) -> str:
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=SUITE_S, check=False)
    assert done.stdout, done.stderr
    return done.stdout


def serve(workers: int, kind: str) -> RunningServer:
    env = {"REALTIME_TOKEN_HMAC_SECRET": SECRET, "REALTIME_API_KEY": KEY, "SUITE": kind}
    return RunningServer(APP, "--sticky", "none", "--anonymous", workers=workers, env=env)


@pytest.mark.parametrize("workers", [1, 4])
def test_the_suite_of_go_passes_but_for_one(tmp_path: Path, workers: int) -> None:
    if shutil.which("go") is None:
        pytest.skip("go was not found")
    with serve(workers, "go") as server:
        server.wait_until_full()
        copy = copy_of("centrifuge-go", "*_test.go", tmp_path / "go", server)
        events: list[dict[str, Any]] = [
            json.loads(line) for line in run(["go", "test", "-count=1", "-json", "."], copy).splitlines()
        ]
    results = {
        each["Test"]: each["Action"]
        for each in events
        if each["Action"] in ("pass", "fail", "skip") and "/" not in each.get("Test", "/")
    }
    said = "".join(each.get("Output", "") for each in events)
    assert [name for name, result in results.items() if result != "pass"] == ["TestPublishProtobuf"], said
    assert Counter(results.values()) == {"pass": 58, "fail": 1}


@pytest.mark.parametrize("workers", [1, 4])
def test_the_suites_of_streams_of_javascript_pass(tmp_path: Path, workers: int) -> None:
    if shutil.which("node") is None:
        pytest.skip("node was not found")
    with serve(workers, "js") as server:
        server.wait_until_full()
        copy = copy_of("centrifuge-js", "src/*.test.ts", tmp_path / "js", server)
        (copy / "node_modules").symlink_to(Path(FOLDER, "centrifuge-js", "node_modules").resolve())
        files = [f"src/{name}.test.ts" for name in STREAM_FILES if (copy / "src" / f"{name}.test.ts").exists()]
        report = json.loads(
            run(
                [
                    "node",
                    "node_modules/jest/bin/jest.js",
                    "--json",
                    "--silent",
                    "--testNamePattern",
                    NO_MAPS,
                    "--runInBand",
                    *files,
                ],
                copy,
            )
        )
    failed = [
        (each["fullName"], each["failureMessages"])
        for file in report["testResults"]
        for each in file["assertionResults"]
        if each["status"] == "failed"
    ]
    assert failed == [], [(file["name"], file["message"]) for file in report["testResults"]]
    assert report["numPassedTests"] == 94
