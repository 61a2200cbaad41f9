"""
The suite of the stock Python SDK, as it is published, against our server.

centrifuge-python 0.7.0 carries its tests in its source package. They want a server on port 8000 whose tokens are signed
by the word "secret"; only these two are changed in the copy: the port to that of our server, the word to one that is
long enough for us. All 185 must pass: with one worker and with four, over the local broker and over Redis.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support.redis_server import RedisServer
from tests.support.require import require
from tests.support.server import RunningServer

VERSION = "0.7.0"
TESTS = 185
SUITE_S = 280.0  # only a hang reaches it: every client of the suite waits without end
SECRET = "secret-secret-secret-secret-secret"
APP = Path(__file__).with_name("suite_app.py")


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source package, downloaded and unpacked."""
    directory = tmp_path_factory.mktemp("suite")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run(
        [*command, "--no-binary", ":all:", "--dest", str(directory), f"centrifuge-python=={VERSION}"],
        check=True,
        capture_output=True,
    )
    [package] = directory.glob("*.tar.gz")
    with tarfile.open(package) as packed:
        packed.extractall(directory, filter="data")
    [unpacked] = [each for each in directory.iterdir() if each.is_dir()]
    return unpacked


def run_suite(suite: Path, port: int, copy: Path) -> str:
    """Run the suite against a port. Return what it says."""
    shutil.copytree(suite / "tests", copy / "tests")
    for path in (copy / "tests").glob("*.py"):
        text = path.read_text().replace("localhost:8000", f"localhost:{port}")
        path.write_text(text.replace('hmac_secret = "secret"', f'hmac_secret = "{SECRET}"'))
    command = [sys.executable, "-m", "unittest", "discover", "-v", "-s", "tests", "-t", "."]
    said = copy / "said"
    with said.open("w") as output:
        try:
            subprocess.run(command, cwd=copy, stdout=output, stderr=output, timeout=SUITE_S, check=False)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"a test of the suite hangs; it said at last:\n{said.read_text()[-20_000:]}") from None
    return said.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("broker", ["local", "redis"])
def test_the_stock_suite_passes(suite: Path, tmp_path: Path, workers: int, broker: str) -> None:
    options = ["--sticky", "none", "--anonymous"]
    env = {"REALTIME_TOKEN_HMAC_SECRET": SECRET}
    if broker == "redis":
        require("redis")
        with RedisServer() as redis:
            check(suite, tmp_path, [*options, "--redis", redis.url], workers, env)
    else:
        check(suite, tmp_path, options, workers, env)


def check(suite: Path, tmp_path: Path, options: list[str], workers: int, env: dict[str, str]) -> None:
    with RunningServer(APP, *options, workers=workers, env=env) as server:
        server.wait_until_full()
        said = run_suite(suite, server.port, tmp_path / "copy")
    assert said.rstrip().endswith("OK"), said
    found = re.search(r"^Ran (\d+) tests", said, re.MULTILINE)
    assert found is not None, said
    assert int(found[1]) == TESTS, said
