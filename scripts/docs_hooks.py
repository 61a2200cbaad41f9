"""
MkDocs hooks for the documentation site. `mkdocs build` imports this file; nothing else does.

Pages in docs/ link to files of the repository outside docs/, such as `../examples/chat/app.py`. In a clone these links
lead to the files. The site has no such files, so each of them becomes a page of the site that shows the file, and the
links lead there. A link to a file that does not exist fails the build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.structure.files import File, InclusionLevel

ROOT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = ROOT / "docs"
LINK: Final = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
MAIN: Final = ("README.md", "app.py", "server.py", "__init__.py")  # what a link to a folder shows
LANGUAGES: Final = {".py": "python", ".js": "js", ".ts": "ts", ".yaml": "yaml", ".cfg": "haproxy", "": "text"}


def target_of(page: str, link: str) -> Path | None:
    """
    Return the file of the repository that a link means, or None when the link stays inside docs/.

    Args:
        page: the page's path below docs/.
        link: the link's target, without an anchor.

    Raises:
        FileNotFoundError: the link leads out of docs/, to nothing.
    """
    if "://" in link or link.startswith(("/", "mailto:")):
        return None
    path = Path(posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link)))
    if path.parts[:1] == ("docs",):
        return None
    found = ROOT / path
    if found.is_dir():
        found = next((found / name for name in MAIN if (found / name).exists()), found)
    if not found.is_file():
        raise FileNotFoundError(f"docs/{page} links to {link}, which is no file of the repository")
    return found.relative_to(ROOT)


def listing(path: Path) -> str:
    """Return a page that shows a file; a Markdown file is shown as it is."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return f"# {path}\n\n```{LANGUAGES.get(path.suffix, 'text')}\n{text}```\n"


def page_of(path: Path) -> str:
    """Return where the site shows a file of the repository."""
    return f"source/{path.as_posix()}.md"


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each file of the repository that a page of docs/ links to, and that such a page links to."""
    waiting = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    seen: set[Path] = set()
    while waiting:
        page, text = waiting.pop()
        for _, link, _ in LINK.findall(text):
            path = target_of(page, link)
            if path is None or path in seen:
                continue
            seen.add(path)
            content = listing(path)
            if path.suffix == ".md":
                content = LINK.sub(lambda match, path=path: _from_repository(path, match), content)
            made = File.generated(config, page_of(path), content=content, inclusion=InclusionLevel.NOT_IN_NAV)
            files.append(made)
    return files


def _from_repository(path: Path, match: re.Match[str]) -> str:
    """Rewrite a link of a Markdown file outside docs/ so that it holds at the place where the site shows that file."""
    before, link, after = match.groups()
    if "://" in link:
        return match[0]
    found = posixpath.normpath(posixpath.join(path.parent.as_posix(), link))
    up = "../" * (len(path.parts))
    if found.startswith("docs/"):
        return f"{before}{up}{found.removeprefix('docs/')}{after}"
    return f"`{found}`" if not (ROOT / found).is_file() else f"{before}{up}source/{found}.md{after}"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links out of docs/ lead to the pages that show those files."""

    def rewrite(match: re.Match[str]) -> str:
        before, link, after = match.groups()
        path = target_of(page.file.src_uri, link)
        if path is None:
            return match[0]
        up = "../" * page.file.src_uri.count("/")
        return f"{before}{up}{page_of(path)}{after}"

    if page.file.src_uri.startswith("source/"):
        return markdown
    return LINK.sub(rewrite, markdown)
