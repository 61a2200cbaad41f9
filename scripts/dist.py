"""
`python scripts/dist.py`: what `make dist` does. Builds sdist and wheel into dist/, and tries the wheel.

The wheel is installed into an empty environment, in a directory outside of the clone. The tour of README.md then runs
from there: its application, its `realtime serve` line, a subscriber, and a publication of another client. So this finds
a file that the wheel lacks, or a dependency that pyproject.toml does not name.

Runs in .venv-dist, which has `build`. It never imports the project: what is tried is the wheel's copy alone.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
DIST: Final = ROOT / "dist"
KEY: Final = "a key that lives as long as the tour"
TIMEOUT_S: Final = 60.0  # only a hang reaches it
LISTENING: Final = re.compile(r"listening on (http://\S+)")

# The tour's page in Python, for the environment of the wheel: it has websockets, and no browser.
CLIENTS: Final = """
import json, sys
from urllib.request import urlopen
from websockets.sync.client import connect

url = sys.argv[1]
assert b"class Realtime" in urlopen(url + "/realtime.js").read()
address = url.replace("http", "ws", 1) + "/connection/websocket"


def opened(client):
    client.send('{"id": 1, "connect": {}}\\n{"id": 2, "subscribe": {"channel": "chat:lobby"}}')
    wait_for(client, lambda reply: reply.get("id") == 2 and "subscribe" in reply)


def wait_for(client, is_it):
    while True:
        for line in client.recv(timeout=30).splitlines():
            reply = json.loads(line)
            assert "error" not in reply, reply
            if is_it(reply):
                return reply


with connect(address) as subscriber, connect(address) as publisher:
    opened(subscriber)
    opened(publisher)
    publisher.send('{"id": 3, "publish": {"channel": "chat:lobby", "data": {"text": "hello"}}}')
    data = wait_for(subscriber, lambda reply: "pub" in reply.get("push", {}))["push"]["pub"]["data"]
assert data["text"] == "hello" and data["from"].startswith("guest-"), data
print(f"{data['from']}, by worker {data['worker']}: {data['text']}")
"""


def main() -> None:
    """Build, install and try. A step that fails ends the program with that step's output."""
    wheel = build()
    with tempfile.TemporaryDirectory(prefix="realtime-dist-") as directory:
        place = Path(directory)
        python = install(wheel, place / "venv")
        tour(python, place)
    print(f"dist/{wheel.name} serves the tour; install it with: pip install dist/{wheel.name}")


def build() -> Path:
    """Build sdist and wheel, the wheel out of the sdist, and return the wheel."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT))
    [wheel] = DIST.glob("*.whl")
    return wheel


def install(wheel: Path, place: Path) -> Path:
    """Install the wheel into a new environment, and return the interpreter of it."""
    print(f"installing {wheel.name} into an empty environment", flush=True)
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    run(str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install", str(wheel))
    return python


def tour(python: Path, place: Path) -> None:
    """
    Run what README.md shows.

    Raises:
        SystemExit: the server did not start.
    """
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (place / "app.py").write_text(_block(text, "python", "from realtime import"), encoding="utf-8")
    serve = next(line for line in text.splitlines() if line.startswith("realtime serve app.py"))
    argv = [str(python.parent / "realtime"), *shlex.split(serve)[1:], "--bind", "127.0.0.1:0"]
    print(f"$ {shlex.join(['realtime', *argv[1:]])}", flush=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("REALTIME_", "PYTHON"))}
    env = {**clean, "REALTIME_API_KEY": KEY, "NO_COLOR": "1"}
    with subprocess.Popen(  # noqa: S603 - the command of the environment that was just made
        argv, cwd=place, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = _address(server.stdout)
            env["REALTIME_URL"] = url
            run(str(python), "-I", "-c", CLIENTS, url, cwd=place, env=env)
            run(argv[0], "publish", "chat:lobby", '{"text": "from a shell"}', cwd=place, env=env)
            run(argv[0], "history", "chat:lobby", cwd=place, env=env)
        finally:
            server.terminate()
            server.communicate(timeout=TIMEOUT_S)
    if server.returncode:
        sys.exit(f"the server ended with status {server.returncode}")


def _block(text: str, language: str, begin: str) -> str:
    """Return the first code block of a language that begins like this."""
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return next(each for each in found if each.startswith(begin))


def _address(output: Iterable[str]) -> str:
    """Read the server's output up to the line with its address."""
    lines = []
    for line in output:
        lines.append(line)
        if match := LISTENING.search(line):
            return str(match[1])
    sys.exit("the server did not start:\n" + "".join(lines))


def run(*argv: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    """
    Run a program to its end.

    Raises:
        SystemExit: it failed.
    """
    status = subprocess.run(argv, cwd=cwd, env=env, check=False).returncode  # noqa: S603 - ours
    if status:
        sys.exit(f"{shlex.join(argv[:4])} … ended with status {status}")


if __name__ == "__main__":
    main()
