"""Staging: files that lie on tape are brought online, or copied to a disk, because somebody asks for it."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import Field

from lightkeeper.api.body import Body, as_json
from lightkeeper.context import Context
from lightkeeper.steps import stage
from lightkeeper.steps.stage import NewOrder, Shown

MOST = 100_000
"""Names in one order; more are meant by a dataset or a query."""


class New(Body):
    """What is to be online: what a query means, or files by name. `to`: a storage they are copied to. `lifetime`: hours
    for which they are kept online."""

    query: str | dict[str, Any] | None = None
    files: Annotated[list[str], Field(max_length=MOST, default_factory=list)]
    to: str | None = None
    lifetime: float = Field(24.0, gt=0, le=stage.MOST_HOURS)
    priority: int = Field(5, ge=0, le=9)
    dry_run: bool = False


def make_router(ctx: Context, operator: Callable[..., None]) -> APIRouter:
    """Routes of staging."""
    router = APIRouter(prefix="/api/v1/stage")
    changing = [Depends(operator)]

    @router.get("")
    def find() -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json([_told(one) for one in stage.find(ctx)])

    @router.get("/tapes")
    def tapes() -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(stage.tapes(ctx))

    @router.get("/{order_id}")
    def show(order_id: int) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(_told(stage.show(ctx, order_id)))

    @router.post("", dependencies=changing)
    def order(body: New) -> Response:  # pyright: ignore[reportUnusedFunction]
        given = body.model_dump(exclude={"dry_run", "files"})
        made = stage.order(ctx, NewOrder(**given, files=tuple(body.files)), dry_run=body.dry_run)
        return as_json(asdict(made.volume) | {"order": made.order_id, "tapes": made.tapes, "seconds": made.seconds})

    @router.post("/{order_id}/cancel", dependencies=changing)
    def cancel(order_id: int) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(_told(stage.cancel(ctx, order_id)))

    return router


def _told(one: Shown) -> dict[str, Any]:
    told = asdict(one.order)
    return (
        {"order": told.pop("order_id")}
        | told
        | {
            "state": one.state,
            "percent": one.percent,
            "seconds": one.seconds,
            "reasons": one.reasons,
        }
    )
