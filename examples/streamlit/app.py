"""
Streamlit on several workers: `realtime serve --workers 4 --sticky session examples/streamlit/app.py`.

A session lives in the process that has its WebSocket, and an upload is a request of its own, which has to reach that
process. With sticky sessions it does.
"""

from __future__ import annotations

from pathlib import Path

from streamlit.starlette import App

app = App(Path(__file__).with_name("page.py"))
