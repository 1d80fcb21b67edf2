"""Routes of the keeper: what it did or would do, what a person must decide, messages, and why something waits."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from lightkeeper.context import Context
from lightkeeper.domain.healing import Remedy
from lightkeeper.steps import heal, tell
from lightkeeper.steps import why as reasons
from lightkeeper.store import messages


def make_router(ctx: Context, operator: Callable[..., None]) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/api/v1")

    @router.get("/heal")
    def preview() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return _round(heal.round_now(ctx, dry_run=True))

    @router.post("/heal", dependencies=[Depends(operator)])
    def now() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return _round(heal.round_now(ctx))

    @router.get("/decisions")
    def decisions() -> list[dict[str, Any]]:  # pyright: ignore[reportUnusedFunction]
        with ctx.db.transaction() as conn:
            return [asdict(one) for one in messages.concerns(conn)]

    @router.get("/messages")
    def outbox(limit: Annotated[int, Query(ge=1, le=10_000)] = 100) -> list[dict[str, Any]]:  # pyright: ignore[reportUnusedFunction]
        with ctx.db.transaction() as conn:
            found = messages.messages(conn, limit)
        return [asdict(one) | {"address": tell.shown(one.address)} for one in found]

    @router.get("/why")
    def why(subject: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(reasons.why(ctx, subject))

    return router


def _round(made: heal.Round) -> dict[str, Any]:
    """A round; of transformations that only wait, only their number."""
    waiting = [one for one in made.transformations if one.decision.what is Remedy.WAIT]
    return {
        "transformations": [
            {
                "id": one.of.transformation_id,
                "name": one.of.name,
                "type": one.of.type,
                "what": str(one.decision.what),
                "why": one.decision.why,
                "next": one.decision.next,
                "choices": list(one.decision.choices),
                "done": one.done,
            }
            for one in made.transformations
            if one.decision.what is not Remedy.WAIT
        ],
        "waiting": len(waiting),
        "contradictions": [asdict(one) for one in made.contradictions],
        "taken_back": made.taken_back,
    }
