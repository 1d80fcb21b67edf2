"""Nights: what was expected, came, was refused, is preserved and freed; receipts and the key they are signed with."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import FileResponse, PlainTextResponse
from pydantic import Field

from lightkeeper.api.body import Body, as_json
from lightkeeper.context import Context
from lightkeeper.domain.names import parse_lfn
from lightkeeper.steps import nights
from lightkeeper.store.nights import Expected

Limit = Annotated[int, Query(ge=1, le=100_000)]


class Close(Body):
    """A night to be closed, by whom and why; `as_it_is`: although it is not complete."""

    by: str = Field("operator", max_length=100)
    why: str = Field("", max_length=200)
    as_it_is: bool = False
    dry_run: bool = False


class ExpectedFile(Body):
    """A file that a night will have; size and sha256 when they are known."""

    lfn: str = Field(max_length=1000)
    size: int | None = Field(None, ge=0, lt=2**63)
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")


class Expect(Body):
    """Files that a night is expected to have, besides those that were told before."""

    files: list[ExpectedFile] = Field(max_length=100_000)
    dry_run: bool = False


def make_router(ctx: Context, operator: Callable[..., None]) -> APIRouter:
    """Routes of nights."""
    router = APIRouter(prefix="/api/v1")
    changing = [Depends(operator)]

    @router.get("/nights")
    def find(limit: Limit = 100) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(nights.find(ctx, limit))

    @router.get("/nights/{night}")
    def show(night: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(nights.show(ctx, night))

    @router.get("/nights/{night}/missing")
    def missing(night: str, limit: Limit = nights.LISTED) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(nights.missing(ctx, night, limit))

    @router.get("/nights/{night}/refused")
    def refused(night: str, limit: Limit = nights.LISTED) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(nights.refused(ctx, night, limit))

    @router.post("/nights/{night}/expected", dependencies=changing)
    def expect(night: str, body: Expect) -> dict[str, int]:  # pyright: ignore[reportUnusedFunction]
        files = [Expected(parse_lfn(file.lfn), file.size, file.sha256) for file in body.files]
        return {"new": nights.expect(ctx, night, files, dry_run=body.dry_run)}

    @router.delete("/nights/{night}/expected", dependencies=changing)
    def expect_nothing(night: str) -> dict[str, int]:  # pyright: ignore[reportUnusedFunction]
        return {"forgotten": nights.expect_nothing(ctx, night)}

    @router.post("/nights/{night}/close", dependencies=changing)
    def close(night: str, body: Close) -> Response:  # pyright: ignore[reportUnusedFunction]
        report = nights.close(
            ctx, night, by=body.by, why=body.why, as_it_is=body.as_it_is, dry_run=body.dry_run
        )  # fmt: skip
        return as_json(report)

    @router.get("/nights/{night}/receipt")
    def receipt(night: str, revision: int | None = None) -> FileResponse:  # pyright: ignore[reportUnusedFunction]
        found, _, path = nights.receipt(ctx, night, revision)
        return FileResponse(
            path, media_type="text/plain; charset=utf-8", headers={"X-Lightkeeper-Sha256": found.sha256}
        )

    @router.get("/nights/{night}/signature")
    def signature(night: str, revision: int | None = None) -> Response:  # pyright: ignore[reportUnusedFunction]
        _, signed, _ = nights.receipt(ctx, night, revision)
        return Response(signed, media_type="application/octet-stream")

    @router.get("/receipt-key")
    def key() -> PlainTextResponse:  # pyright: ignore[reportUnusedFunction]
        return PlainTextResponse(nights.public_key(ctx))

    return router
