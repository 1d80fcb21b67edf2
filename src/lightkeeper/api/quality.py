"""Quality figures: what is watched, how it goes from night to night, what is out of range."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from lightkeeper.api.body import Body, as_json
from lightkeeper.context import Context
from lightkeeper.steps import quality


class Record(Body):
    """What somebody measured on a file: values by figure."""

    lfn: str
    values: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(min_length=1, max_length=100)
    dry_run: bool = False


def make_router(ctx: Context, operator: Callable[..., None]) -> APIRouter:
    """Routes of quality figures."""
    router = APIRouter(prefix="/api/v1/quality")
    changing = [Depends(operator)]

    @router.get("")
    def find() -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(quality.find(ctx))

    @router.get("/alarms")
    def alarms() -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json([asdict(alarm) | {"told": alarm.told} for alarm in quality.alarms(ctx)])

    @router.post("/record", dependencies=changing)
    def record(body: Record) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        quality.record(ctx, body.lfn, body.values, dry_run=body.dry_run)
        return {"lfn": body.lfn, "recorded": sorted(body.values)}

    @router.get("/{figure}")
    def trend(  # pyright: ignore[reportUnusedFunction]
        figure: str, nights: Annotated[int, Query(ge=1, le=3660)] = quality.NIGHTS, by_element: bool = False
    ) -> Response:
        found = quality.trend(ctx, figure, nights, by_element=by_element)
        return as_json({"figure": quality.show(ctx, figure), "nights": found})

    @router.get("/{figure}/files")
    def files(  # pyright: ignore[reportUnusedFunction]
        figure: str, night: str, only_out_of_range: bool = False, limit: Annotated[int, Query(ge=1, le=100_000)] = 1000
    ) -> Response:
        return as_json(quality.files(ctx, figure, night, only_out_of_range=only_out_of_range, limit=limit))

    @router.delete("/{figure}", dependencies=changing)
    def remove(figure: str) -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        quality.remove(ctx, figure)
        return {"removed": figure}

    return router
