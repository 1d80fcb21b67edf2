"""Finding files, and the metadata keys they are found by."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import Field

from lightkeeper.api.body import Body
from lightkeeper.context import Context
from lightkeeper.steps import catalogue
from lightkeeper.steps.catalogue import Wanted

Limit = Annotated[int | None, Query(ge=0)]


class Question(Body):
    """A query as text, as JSON or as a DIRAC map; with `at` only files with a copy at that storage."""

    query: str | dict[str, Any] = ""
    at: str | None = None


class Search(Question):
    """Which files, in which order (`-size,name`), how many; with `names` only their names and sizes."""

    sort: str = ""
    limit: int | None = Field(None, ge=0)
    names: bool = False


class Key(Body):
    """A metadata key to be registered."""

    name: str
    type: str
    level: str = "set"
    unit: str = Field("", max_length=64)
    description: str = Field("", max_length=2000)


def make_router(ctx: Context, operator: Callable[..., None]) -> APIRouter:
    """Routes of the catalogue."""
    router = APIRouter(prefix="/api/v1")

    @router.post("/find")
    def find(body: Search) -> StreamingResponse:  # pyright: ignore[reportUnusedFunction]
        return _stream(ctx, Wanted(body.query, body.at, body.sort, body.limit, body.names))

    @router.get("/files")
    def files(query: str = "", limit: Limit = None) -> StreamingResponse:  # pyright: ignore[reportUnusedFunction]
        return _stream(ctx, Wanted(query, limit=limit))

    @router.post("/find/count")
    def count(body: Question) -> dict[str, int]:  # pyright: ignore[reportUnusedFunction]
        return asdict(catalogue.count(ctx, Wanted(body.query, body.at)))

    @router.post("/find/explain")
    def explain(body: Question) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(catalogue.explain(ctx, Wanted(body.query, body.at)))

    @router.get("/metadata")
    def keys() -> list[dict[str, Any]]:  # pyright: ignore[reportUnusedFunction]
        return catalogue.keys(ctx)

    @router.get("/metadata/{name}")
    def key(name: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        story = asdict(catalogue.key_story(ctx, name))
        return story.pop("key") | story

    @router.post("/metadata", dependencies=[Depends(operator)])
    def define(body: Key) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        key = catalogue.read_key(body.name, body.type, body.level, body.unit, body.description)
        return asdict(key) | {"result": catalogue.define_key(ctx, key)}

    return router


def _stream(ctx: Context, wanted: Wanted) -> StreamingResponse:
    return StreamingResponse(catalogue.lines(ctx, wanted), media_type="application/x-ndjson")
