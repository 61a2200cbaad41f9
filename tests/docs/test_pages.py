"""
Each page of README.md and docs/ says what holds: its Python runs, its commands parse, its links and anchors lead
somewhere, and the site's navigation names it.
"""

from __future__ import annotations

import asyncio
import configparser
import inspect
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from realtime.cli.main import command
from realtime.cli.serve import serve
from realtime.settings import resolve
from tests.docs.pages import DOCS, PAGES, README, ROOT, anchors, blocks, configuration, links, name, navigation

WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
WITH_JAVASCRIPT = [page for page in PAGES if blocks(page, "js")]


def application(page: Path) -> dict[str, Any]:
    """Run the Python of a page, which is one file from top to bottom, and return what it defines."""
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page, "python"):
        exec(compile(block, name(page), "exec"), namespace)
    return namespace


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_the_python_of_a_page_runs_and_passes_its_own_tests(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "public").mkdir()  # the folder that the first application serves
    monkeypatch.chdir(tmp_path)
    for function in application(page).values():
        if inspect.iscoroutinefunction(function) and function.__name__.startswith("test_"):
            asyncio.run(function())


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_anchor_that_a_page_links_to_is_there(page: Path) -> None:
    for target, anchor in links(page):
        found = page if not target else (page.parent / target).resolve()
        assert found.exists(), f"{name(page)} links to {target}"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{name(page)} links to {target}#{anchor}"


def test_the_navigation_of_the_site_has_every_page_once() -> None:
    assert navigation() == {page for page in PAGES if page != README}


def test_the_site_is_built_strictly() -> None:
    found = configuration()
    assert found["strict"] is True
    assert set(found["validation"]["links"].values()) == {"warn"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_in_the_shell_blocks_is_understood(page: Path) -> None:
    for block in blocks(page, "sh"):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["realtime"]:
                found = command.get_command(click.Context(command), words[1])
                assert found is not None, line
                found.make_context(words[1], words[2:])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_yaml_and_unit_files_can_be_read(page: Path) -> None:
    for block in blocks(page, "yaml"):
        assert all(isinstance(each, dict) for each in yaml.safe_load_all(block))
    for block in blocks(page, "ini"):
        assert configparser.ConfigParser(interpolation=None, strict=False).read_string(block) is None


@pytest.mark.node
@pytest.mark.parametrize("page", WITH_JAVASCRIPT, ids=name)
def test_the_javascript_of_a_page_has_no_syntax_error(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page, "js")):
        script = tmp_path / f"{number}.mjs"
        script.write_text(block)
        subprocess.run(["node", "--check", str(script)], check=True)


def test_the_deployment_of_kubernetes_is_a_server_that_drains_before_it_is_killed(tmp_path: Path) -> None:
    [deployment, service] = next(
        list(yaml.safe_load_all(block))
        for block in blocks(DOCS / "deploying" / "kubernetes.md", "yaml")
        if "kind: Deployment" in block
    )
    pod = deployment["spec"]["template"]
    [container] = pod["spec"]["containers"]
    secrets = {"redis": "redis://redis:6379", "secret": "0123456789abcdef"}
    environ = {
        each["name"]: each.get("value") or secrets[each["valueFrom"]["secretKeyRef"]["key"]]
        for each in container["env"]
    }
    given = serve.make_context("serve", list(container["args"][1:])).params
    settings = resolve(given, environ=environ, directory=tmp_path, config=given.pop("config"))
    assert environ.keys() <= set(settings.sources.values())  # each variable is a setting that took effect
    assert settings.redis == secrets["redis"]
    assert pod["spec"]["terminationGracePeriodSeconds"] > settings.drain_s + 5
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    [port] = container["ports"]
    assert settings.bind == (f"0.0.0.0:{port['containerPort']}",)
    assert service["spec"]["ports"][0]["targetPort"] == port["name"] == container["readinessProbe"]["httpGet"]["port"]


def test_old_anchors_of_the_guide_and_of_deploying_are_still_there() -> None:
    assert {
        "who-may-connect", "rooms", "who-leaves-and-who-comes-back", "how-often-and-how-much", "calls-and-messages",
        "in-threads", "web-pages-and-other-frameworks", "gradio-streamlit-shiny-marimo-nicegui",
        "mcp-servers-on-several-workers", "documents-that-many-edit-yjs", "from-other-programs", "in-the-browser",
        "testing", "running-it",
    } <= anchors(DOCS / "writing-an-app.md")  # fmt: skip
    assert {
        "systemd", "behind-nginx", "behind-haproxy", "which-hosts-are-served", "wrong-keys-and-tokens", "watching-it",
        "a-new-version", "redis", "compression", "limits", "requests-that-crash-workers", "loading-it",
    } <= anchors(DOCS / "deploying.md")  # fmt: skip


def test_no_page_links_to_a_file_outside_the_repository() -> None:
    for page in PAGES:
        for target, _ in links(page):
            if target:
                assert (page.parent / target).resolve().is_relative_to(ROOT), f"{name(page)}: {target}"
