"""
NiceGUI on several workers: `realtime serve --workers 4 --sticky session examples/nicegui/app.py`.

A NiceGUI page lives in the memory of the process that made it, and its WebSocket has to reach that process: so it has
been one worker, always. With sticky sessions the page, its socket and its events find the same worker each time, and
there can be as many workers as there are cores.
"""

from __future__ import annotations

import os

from fastapi import FastAPI
from nicegui import ui

app = FastAPI()


@ui.page("/")
def page() -> None:
    """A counter that lives in this process."""
    clicks = {"count": 0}

    def click() -> None:
        clicks["count"] += 1
        told.set_text(f"{clicks['count']} clicks")

    ui.label(f"worker {os.getpid()}").classes("worker")
    ui.button("click", on_click=click).classes("click")
    told = ui.label("0 clicks").classes("told")


ui.run_with(app, title="NiceGUI on sticky workers", show_welcome_message=False)
