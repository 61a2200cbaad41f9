"""
marimo on several workers: `realtime serve --workers 4 --sticky session examples/marimo/app.py`.

A notebook runs in the process that has its WebSocket, and each click is a request of its own, which has to reach that
process. With sticky sessions it does.
"""

from __future__ import annotations

from pathlib import Path

import marimo

app = marimo.create_asgi_app(quiet=True).with_app(path="", root=str(Path(__file__).with_name("notebook.py"))).build()
