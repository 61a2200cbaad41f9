"""
Gradio on several workers: `realtime serve --workers 4 --sticky session examples/gradio/app.py`.

Gradio keeps a page's state and its queue in the memory of one process: a click is a request, and its result comes by
another, a stream. With sticky sessions both find the process that has the state.
"""

from __future__ import annotations

import os

import gradio as gr
from fastapi import FastAPI


def click(count: int) -> tuple[int, str]:
    """Count a click, in the state of this page."""
    return count + 1, f"{count + 1} clicks, by worker {os.getpid()}"


with gr.Blocks(title="Gradio on sticky workers") as demo:
    count = gr.State(0)
    button = gr.Button("click", elem_id="click")
    told = gr.Textbox("0 clicks", label="told", elem_id="told")
    button.click(click, count, [count, told])

app = gr.mount_gradio_app(FastAPI(), demo, path="/")
