"""The notebook: a button that counts."""

import marimo

app = marimo.App()


@app.cell
def _():
    import os

    import marimo as mo

    return mo, os


@app.cell
def _(mo):
    click = mo.ui.button(label="click", value=0, on_click=lambda count: count + 1)
    click  # noqa: B018 - the last expression is what the cell shows
    return (click,)


@app.cell
def _(click, mo, os):
    mo.md(f"{click.value} clicks, by worker {os.getpid()}")
    return


if __name__ == "__main__":
    app.run()
