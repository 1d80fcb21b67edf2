"""What comes in: how the interface directories stand, what a person decides about refused deliveries, collections."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, Response
from pydantic import Field

from lightkeeper.api.body import Body, as_json
from lightkeeper.context import Context
from lightkeeper.steps import collections, quarantine
from lightkeeper.steps.quarantine import Which


class Decision(Body):
    """Refused deliveries, by numbers or by a pattern of paths, and who decides."""

    by: str = Field(max_length=100)
    numbers: tuple[int, ...] = Field((), max_length=100_000)
    pattern: str = Field("", max_length=1000)
    storage: str | None = None
    dry_run: bool = False

    def which(self) -> Which:
        """What is meant, for the step."""
        return Which(self.numbers, self.pattern, self.storage)


class Discard(Decision):
    """Refused deliveries to be given up, and why."""

    why: str = Field(max_length=2000)


class Release(Discard):
    """Refused deliveries to be registered all the same; `meta` goes before what they say."""

    meta: dict[str, Any] = Field(default_factory=dict)


def make_router(ctx: Context, operator: Callable[..., None]) -> APIRouter:
    """Routes of ingest."""
    router = APIRouter(prefix="/api/v1")
    changing = [Depends(operator)]

    @router.get("/ingest")
    def status() -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(quarantine.standing(ctx))

    @router.get("/collections")
    def outermost() -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(collections.outermost(ctx))

    @router.get("/collections/show")
    def collection(directory: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(collections.show(ctx, directory))

    @router.get("/quarantine")
    def find(  # pyright: ignore[reportUnusedFunction]
        pattern: str = "", storage: str | None = None, discarded: bool = False, limit: int = 1000
    ) -> Response:
        found = quarantine.find(
            ctx, Which((), pattern, storage), discarded=discarded, limit=min(max(limit, 0), 100_000)
        )
        return as_json(found)

    @router.get("/quarantine/show")
    def show(number: int) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(quarantine.show(ctx, number))

    @router.post("/quarantine/retry", dependencies=changing)
    def retry(body: Decision) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(quarantine.retry(ctx, body.which(), body.by, dry_run=body.dry_run))

    @router.post("/quarantine/release", dependencies=changing)
    def release(body: Release) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        decided = quarantine.release(ctx, body.which(), body.by, body.why, body.meta, dry_run=body.dry_run)
        return asdict(decided)

    @router.post("/quarantine/discard", dependencies=changing)
    def discard(body: Discard) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(quarantine.discard(ctx, body.which(), body.by, body.why, dry_run=body.dry_run))

    return router
