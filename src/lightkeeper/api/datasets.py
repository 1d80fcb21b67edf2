"""Datasets: named queries, and the lists of those that are frozen."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, Response
from fastapi.responses import StreamingResponse

from lightkeeper.api.body import Body, as_json
from lightkeeper.context import Context
from lightkeeper.steps import datasets
from lightkeeper.steps.datasets import NewDataset


class Named(Body):
    """A dataset by its name, whole or as far as it is unique."""

    name: str


class Tried(Named):
    """A change of a dataset; with `dry_run` it is only told what it would do."""

    dry_run: bool = False


class New(Tried):
    """A dataset to be made."""

    query: str | dict[str, Any]
    description: str = ""


class Description(Named):
    """What a dataset is for."""

    description: str


class Split(Tried):
    """Fractions like `0.5,0.25,0.25`, and the names of the parts."""

    fractions: str
    labels: tuple[str, ...] = ()
    again: bool = False


class Values(Body):
    """Values of metadata keys, as texts."""

    values: dict[str, str]


def make_router(ctx: Context, operator: Callable[..., None]) -> APIRouter:
    """Routes of datasets. Names may hold slashes, so they travel as parameters."""
    router = APIRouter(prefix="/api/v1/datasets")
    changing = [Depends(operator)]

    @router.get("")
    def find(pattern: str = "*", texts: bool = True) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(datasets.find(ctx, pattern, texts=texts))

    @router.get("/show")
    def show(name: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(datasets.show(ctx, name))

    @router.get("/usage")
    def usage(name: str) -> list[dict[str, Any]]:  # pyright: ignore[reportUnusedFunction]
        return [asdict(one) for one in datasets.usage(ctx, name)]

    @router.get("/names")
    def names(name: str) -> StreamingResponse:  # pyright: ignore[reportUnusedFunction]
        return StreamingResponse(datasets.names(ctx, name), media_type="text/plain; charset=utf-8")

    @router.get("/holding")
    def holding(lfn: str) -> list[dict[str, Any]]:  # pyright: ignore[reportUnusedFunction]
        return [asdict(one) for one in datasets.that_hold(ctx, lfn)]

    @router.post("/fixing")
    def fixing(body: Values) -> list[dict[str, Any]]:  # pyright: ignore[reportUnusedFunction]
        return [asdict(one) for one in datasets.that_fix(ctx, body.values)]

    @router.post("", dependencies=changing)
    def create(body: New) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        size = datasets.create(ctx, NewDataset(body.name, body.query, body.description), dry_run=body.dry_run)
        return {"name": body.name} | asdict(size)

    @router.post("/freeze", dependencies=changing)
    def freeze(body: Named) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(datasets.freeze(ctx, body.name))

    @router.post("/release", dependencies=changing)
    def release(body: Tried) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(datasets.release(ctx, body.name, dry_run=body.dry_run))

    @router.post("/update", dependencies=changing)
    def update(body: Named) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(datasets.update(ctx, body.name))

    @router.post("/describe", dependencies=changing)
    def describe(body: Description) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(datasets.describe(ctx, body.name, body.description))

    @router.post("/split", dependencies=changing)
    def split(body: Split) -> list[dict[str, Any]]:  # pyright: ignore[reportUnusedFunction]
        parts = datasets.split(ctx, body.name, body.fractions, body.labels, again=body.again, dry_run=body.dry_run)
        return [asdict(part) for part in parts]

    @router.post("/remove", dependencies=changing)
    def remove(body: Tried) -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        return {"removed": datasets.remove(ctx, body.name, dry_run=body.dry_run)}

    return router
