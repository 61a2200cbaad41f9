"""
The files of a bench: its report as text and as a page, and one picture.

Runs in the process of `make bench`, after each round. What the files say is in report.py, and what the page shows is in
page.py.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.page import page, picture
from benchmarks.report import Results, markdown


def write(directory: Path, results: Results) -> None:
    """Write report.md, report.html and costs.svg. The directory is made where it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.md").write_text(markdown(results))
    (directory / "report.html").write_text(page(results))
    (directory / "costs.svg").write_text(picture(results))
