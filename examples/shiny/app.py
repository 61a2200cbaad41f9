"""
Shiny for Python on several workers: `realtime serve --workers 4 --sticky session examples/shiny/app.py`.

A session lives in the process that has its WebSocket; downloads and uploads are requests of their own, which have to
reach that process. With sticky sessions they do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from shiny import App, Inputs, Outputs, Session, reactive, render, ui

page = ui.page_fluid(
    ui.h3("Shiny on sticky workers"),
    ui.input_action_button("click", "click"),
    ui.output_text("told"),
    ui.download_button("download", "download"),
    ui.input_file("file", "a file"),
    ui.output_text("size"),
)


def server(input: Inputs, output: Outputs, session: Session) -> None:
    """Count the clicks of one session."""
    count = reactive.value(0)

    @reactive.effect
    @reactive.event(input.click)
    def _() -> None:
        count.set(count() + 1)

    @render.text
    def told() -> str:
        return f"{count()} clicks, by worker {os.getpid()}"

    @render.download_button(label="download", filename="clicks.txt")
    def download() -> Iterator[str]:
        yield f"{count()} clicks, by worker {os.getpid()}"

    @render.text
    def size() -> str:
        return ", ".join(f"{each['name']} has {each['size']} bytes" for each in input.file() or [])


app = App(page, server)
