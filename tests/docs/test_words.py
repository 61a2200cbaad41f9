"""
The pages are written in plain technical English: short sentences, and not the words that a reader must puzzle over.

Left out are generated pages, whose text is that of the code, and the tables whose rows another test compares.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, FENCE, PAGES, README, name

WORDS_MAX = 25
GENERATED = {
    DOCS / "settings.md",
    DOCS / "bench" / "report.md",
    DOCS / "bench" / "profile.md",
    *(
        DOCS / "reference" / page
        for page in (
            "python.md",
            "testing.md",
            "socketio.md",
            "socketio-exceptions.md",
            "sticky.md",
            "command-line.md",
            "http-api.md",
        )
    ),
}
WRITTEN = [page for page in PAGES if page not in GENERATED]
BREAK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )")
SENTENCE = re.compile(r"(?<=[.!?:;])[*_)\]]*\s+")
PUZZLING = re.compile(r"\b(?:[Nn]obody|[Ww]hom|[Ww]hoever|(?:is|are) told|gets told)\b")


def prose(page: Path) -> list[str]:
    """Return the paragraphs and list items of a page, each in one line, without code, tables, headings and links."""
    text = page.read_text()
    if page == README:
        text = text.partition("## The source, in reading order")[0]  # it has a test of its own
    text = re.sub(r"<!--.*?-->", "", FENCE.sub("", text), flags=re.DOTALL)
    text = re.sub(r"^(?:\||#).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return [" ".join(paragraph.split()) for paragraph in BREAK.split(text) if paragraph.strip()]


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_a_sentence_has_at_most_25_words(page: Path) -> None:
    for paragraph in prose(page):
        for sentence in SENTENCE.split(paragraph):
            words = [word for word in sentence.split() if re.search(r"\w", word)]
            assert len(words) <= WORDS_MAX, f"{name(page)}, {len(words)} words: {sentence}"


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_a_page_names_its_subjects(page: Path) -> None:
    for paragraph in prose(page):
        assert PUZZLING.search(paragraph) is None, f"{name(page)}: {paragraph}"
