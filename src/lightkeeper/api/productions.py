"""Productions: their documents, what they would do, and how far they are."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends
from pydantic import Field

from lightkeeper.api.body import Body
from lightkeeper.context import Context
from lightkeeper.steps import produce
from lightkeeper.store import productions as store
from lightkeeper.store import reports


class Document(Body):
    """A production document as text, with the files that lie beside it."""

    name: str
    document: str
    sandbox: dict[str, str] = Field(default_factory=dict)
    open: bool = False


def make_router(ctx: Context, operator: Callable[..., None]) -> APIRouter:
    """Routes of productions."""
    router = APIRouter(prefix="/api/v1/productions")
    changing = [Depends(operator)]

    @router.get("")
    def productions() -> list[dict[str, Any]]:  # pyright: ignore[reportUnusedFunction]
        with ctx.db.transaction() as conn:
            return [asdict(p) for p in store.summaries(conn)]

    @router.post("/plan")
    def plan(body: Document) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(produce.plan(ctx, body.document, _sandbox(body)))

    @router.post("", dependencies=changing)
    def submit(body: Document) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        name = produce.submit(ctx, body.name, body.document, _sandbox(body), open_=body.open)
        with ctx.db.transaction() as conn:
            return {
                "production": name,
                "transformations": [asdict(t) for t in reports.transformations(conn, name)],
            }

    @router.post("/{name}/close", dependencies=changing)
    def close(name: str) -> dict[str, int]:  # pyright: ignore[reportUnusedFunction]
        return {"closed": produce.close(ctx, name)}

    return router


def _sandbox(body: Document) -> dict[str, bytes]:
    return {name: text.encode() for name, text in body.sandbox.items()}
