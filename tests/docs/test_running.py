"""What the guide shows, done for real: a server is started as the page says, and its commands and clients are run."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import DOCS, ROOT, blocks
from tests.docs.test_pages import application
from tests.support.chromium import Chromium
from tests.support.server import RunningServer

GUIDE = DOCS / "guide"
KEY = "0123456789abcdef0123456789abcdef"


def write_python(page: Path, target: Path) -> Path:
    target.write_text("\n\n".join(blocks(page, "python")))
    return target


@pytest.mark.browser
def test_the_first_application_as_a_browser_sees_it(tmp_path: Path) -> None:
    page = GUIDE / "first-app.md"
    write_python(page, tmp_path / "app.py")
    (tmp_path / "public").mkdir()
    [html] = blocks(page, "html")
    (tmp_path / "public" / "index.html").write_text(html)
    [line] = [line for block in blocks(page, "sh") for line in block.splitlines() if "realtime serve" in line]
    target, *options = shlex.split(line)[2:]
    assert options[:1] == ["--workers"]
    with RunningServer(target, *options[2:], workers=int(options[1]), cwd=tmp_path) as server, Chromium() as browser:
        first, second = browser.page(server.url), browser.page(server.url)
        second.wait_for("document.querySelector('form')")
        first.wait_for("document.querySelector('form')")
        said = "document.querySelector('form').text.value = 'hello'; document.querySelector('form').requestSubmit()"
        seen = r"/^guest-[0-9a-f]{6}, worker [0-3]: hello$/.test(document.querySelector('#log li')?.textContent)"
        first.evaluate(said)
        first.wait_for(seen)
        second.evaluate(said)
        second.wait_for(seen)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_for_other_programs(tmp_path: Path) -> None:
    write_python(GUIDE / "rooms.md", tmp_path / "app.py")
    [block] = blocks(GUIDE / "http-api.md", "sh")
    commands = [line.partition("  #")[0].strip() for line in block.splitlines() if not line.startswith("export")]
    assert len(commands) == 8
    with RunningServer("app.py", workers=1, cwd=tmp_path, env={"REALTIME_API_KEY": KEY}) as server:
        environment = server.env | {"REALTIME_URL": server.url}
        answers: dict[str, str] = {}
        for command in commands:
            words = shlex.split(command.replace("$REALTIME_API_KEY", KEY).replace("localhost:8000", server.url))
            if words[:2] == ["realtime", "tail"]:
                continue  # until Ctrl-C
            argv = [sys.executable, "-m", *words] if words[0] == "realtime" else words
            done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path)
            expected = 1 if words[1] == "where" else 0  # alice is not connected, which the status says
            assert done.returncode == expected, (command, done.stdout, done.stderr)
            answers[" ".join(words[:2])] = done.stdout
    assert json.loads(answers["curl -H"])["result"]["offset"] == 1
    assert answers["realtime history"].count("hi") == 2  # by curl, and by the command


def test_the_python_client_of_the_guide_gets_what_it_publishes() -> None:
    page = application(GUIDE / "clients.md")
    make, clients, printed = page["Client"], [], asyncio.Queue[Any]()

    def connect(url: str) -> Any:
        clients.append(make(url.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")))
        return clients[0]

    async def listen() -> None:
        listening = asyncio.ensure_future(page["listen"]())
        assert await asyncio.wait_for(printed.get(), 20) == {"text": "hello"}
        await clients[0].disconnect()
        listening.cancel()
        await asyncio.wait(
            asyncio.all_tasks() - {asyncio.current_task()}, timeout=20
        )  # the SDK closes its socket in one

    page["Client"], page["print"] = connect, printed.put_nowait
    with RunningServer(workers=1) as server:  # the stock application, in which every room is open
        asyncio.run(listen())


def test_the_fields_of_a_json_line_are_those_of_the_logging_page(tmp_path: Path) -> None:
    page = (GUIDE / "logging.md").read_text()
    table = page.partition("| Field | |\n")[2].partition("\n\n")[0]
    named = {
        name for cell in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    }
    with RunningServer(None, "--log-format", "json", workers=1) as server:
        server.wait_until_full()
    records = [json.loads(line) for line in server.log.lines if line.startswith("{")]
    assert records
    always = set.intersection(*(set(record) for record in records))
    assert always == named - {"traceback"}


CHANNELS = """
import os, tempfile
import django
from django.conf import settings
directory = tempfile.mkdtemp()
settings.configure(
    SECRET_KEY="x" * 50,
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.path.join(directory, "db")}},
)
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY, BACKEND_SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
user = User.objects.create_user("ann")
session = SessionStore()
session[SESSION_KEY] = str(user.pk)
session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
session[HASH_SESSION_KEY] = user.get_session_auth_hash()
session.create()

import asyncio
from realtime.errors import ClientError
from realtime.testing import TestServer


async def check():
    async with TestServer(app) as server:
        ann = await server.connect(headers={"cookie": f"a=b; sessionid={session.session_key}"})
        await ann.subscribe("chat:order-7")
        await asyncio.to_thread(order_paid, 7)
        print((await ann.next("pub"))["data"])
        try:
            await server.connect(headers={"cookie": "sessionid=guess"})
        except ClientError as error:
            print(error)


asyncio.run(check())
"""


def test_the_user_of_a_django_session_is_the_user_of_the_connection(tmp_path: Path) -> None:
    pytest.importorskip("django")
    script = write_python(DOCS / "from-channels.md", tmp_path / "live.py")
    script.write_text(script.read_text() + CHANNELS)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["{'from': 'shop', 'text': 'paid'}", "log in first (103)"], done.stderr
