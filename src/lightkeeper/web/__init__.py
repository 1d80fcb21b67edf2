"""Pages for people, served by the API. Same facts as the JSON routes; no page changes anything."""

from importlib.resources import files

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles

from lightkeeper.context import Context

_HERE = files(__name__)


def add_pages(app: FastAPI, ctx: Context) -> None:
    """Add the dashboard."""

    @app.get("/")
    def dashboard() -> HTMLResponse:  # pyright: ignore[reportUnusedFunction]
        return HTMLResponse("<h1>Lightkeeper</h1>")
