"""Pages for people, served by the API. Same facts as the JSON routes; no page changes anything.

Everything is rendered here, so a page is whole without JavaScript; with it `live.js` fetches the page again and puts
what differs in its place. No text from files or users reaches a page unescaped, and the browser runs only our files.
"""

import threading
import time
from collections.abc import Callable
from hashlib import sha256
from importlib.resources import files

import psycopg
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from lightkeeper import __version__
from lightkeeper.context import Context
from lightkeeper.domain.errors import NotFound
from lightkeeper.domain.limits import readable
from lightkeeper.domain.names import printable
from lightkeeper.web import copies, keeper, nights, overview, productions, words

PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
STATIC_HEADERS = {
    "Cache-Control": "max-age=31536000, immutable",  # the address changes with the content
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
KINDS = {"light.css": "text/css", "live.js": "text/javascript", "lamp.svg": "image/svg+xml"}

_STATIC = {name: files(__name__).joinpath("static", name).read_bytes() for name in KINDS}
BUILD = sha256(b"".join(_STATIC.values()) + __version__.encode()).hexdigest()[:12]
"""Changes when the static files do; a page that is open somewhere then loads itself anew."""


def add_pages(app: FastAPI, ctx: Context) -> None:
    """Add the pages, of everything and of single nights, productions and transformations, and their static files."""
    templates = _templates()

    def page(address: str, template: str, look: Callable[[Context], object]) -> None:
        def make() -> tuple[str, int]:
            try:
                return templates.get_template(template).render(see=look(ctx)), 200
            except psycopg.Error as error:
                why = str(error).strip()
                ctx.log.error("dashboard has no database", why=why)
                return templates.get_template("no_database.html").render(why=why), 503

        latest = OneAtATime(make)

        @app.get(address, include_in_schema=False)
        def _() -> HTMLResponse:  # pyright: ignore[reportUnusedFunction]
            text, status = latest.get()
            return HTMLResponse(text, status, headers=PAGE_HEADERS)

    page("/", "dashboard.html", overview.look)
    page("/copies", "copies.html", copies.look)
    page("/productions", "productions.html", productions.look)
    page("/keeper", "keeper.html", keeper.look)
    page("/nights", "nights.html", nights.look)

    @app.get("/nights/{night}", include_in_schema=False)
    def one_night(night: str) -> HTMLResponse:  # pyright: ignore[reportUnusedFunction]
        see = nights.look_at(ctx, night)
        return HTMLResponse(templates.get_template("night.html").render(see=see), headers=PAGE_HEADERS)

    @app.get("/productions/{name}", include_in_schema=False)
    def production(name: str) -> HTMLResponse:  # pyright: ignore[reportUnusedFunction]
        see = productions.look_at(ctx, name)
        return HTMLResponse(templates.get_template("production.html").render(see=see), headers=PAGE_HEADERS)

    @app.get("/transformations/{transformation_id}", include_in_schema=False)
    def report(transformation_id: int) -> HTMLResponse:  # pyright: ignore[reportUnusedFunction]
        see = keeper.look_at(ctx, transformation_id)
        return HTMLResponse(templates.get_template("report.html").render(see=see), headers=PAGE_HEADERS)

    @app.get("/static/{build}/{name}", include_in_schema=False)
    def static(build: str, name: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        if name not in _STATIC:
            raise NotFound(f"there is no static file '{printable(name)}' ({printable(build)})")
        return Response(_STATIC[name], media_type=KINDS[name], headers=STATIC_HEADERS)


class OneAtATime:
    """A page that many look at: one of them at a time makes it, the others are handed the one before.

    A page that took long is kept for a few times as long, so that looking never takes more than a quarter of one
    connection from the work, however many look. Its time is on the page.
    """

    REST = 3.0
    AT_MOST = 15.0
    """Seconds that a page is kept however long it took, so that the news that something is down does not outlive it."""

    def __init__(self, make: Callable[[], tuple[str, int]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._latest: tuple[str, int] | None = None
        self._keep_until = 0.0

    def get(self) -> tuple[str, int]:
        """The page and its status, made now or a moment ago."""
        if not self._lock.acquire(blocking=False):
            if latest := self._latest:
                return latest
            self._lock.acquire()
        try:
            started = time.monotonic()
            if self._latest is None or started >= self._keep_until:
                self._latest = self._make()
                ended = time.monotonic()
                self._keep_until = ended + min(self.REST * (ended - started), self.AT_MOST)
            return self._latest
        finally:
            self._lock.release()


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("lightkeeper.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"version": __version__, "build": BUILD, "count": words.count}
    environment.filters |= {
        "bytes": words.size,
        "number": words.number,
        "utc": words.utc,
        "iso": words.iso,
        "plain": words.plain,
        "file_name": words.file_name,
        "share": words.share,
        "told": words.told,
        "used": readable,
    }
    return environment
