"""Transfers: what goes over links, what waits, and having it begin at once."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from lightkeeper.api.body import Body, as_json
from lightkeeper.context import Context
from lightkeeper.domain.states import Transfer
from lightkeeper.steps import traffic

MOST = 10_000


class Retry(Body):
    """Transfers by their ids; none: all that were given up in the last week."""

    ids: Annotated[list[int], Field(max_length=MOST)] | None = None
    dry_run: bool = False


def make_router(ctx: Context, operator: Callable[..., None]) -> APIRouter:
    """Routes of transfers."""
    router = APIRouter(prefix="/api/v1")

    @router.get("/traffic")
    def flows(days: Annotated[int, Query(ge=1, le=traffic.MOST_DAYS)] = 30) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(traffic.flows(ctx, days))

    @router.get("/transfers")
    def listed(  # pyright: ignore[reportUnusedFunction]
        state: Annotated[list[Transfer] | None, Query()] = None,
        target: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST)] = 100,
    ) -> Response:
        return as_json(traffic.listed(ctx, state or [Transfer.RUNNING, Transfer.WAITING], target, limit))

    @router.get("/transfers/{transfer_id}/history")
    def history(transfer_id: int) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(traffic.history(ctx, transfer_id))

    @router.post("/transfers/retry", dependencies=[Depends(operator)])
    def retry(body: Retry) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(traffic.retry(ctx, body.ids, dry_run=body.dry_run))

    return router
