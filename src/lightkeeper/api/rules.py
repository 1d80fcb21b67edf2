"""Rules: what files are owed, how far it is, and why it is not further."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, Response
from pydantic import Field

from lightkeeper.api.body import Body, as_json
from lightkeeper.context import Context
from lightkeeper.domain.catalog import Media
from lightkeeper.steps import rules
from lightkeeper.steps.rules import NewRule, Rule


class New(Body):
    """A rule to be added, on a query or on files by name; `lifetime` and `retention` in hours, `min_distance` in km,
    `quota` like '10 TB', `deadline` like '2030-01-02 12:00' or '48 h'."""

    name: str
    query: str | dict[str, Any] = ""
    files: list[str] = Field(default_factory=list)
    copies: int = Field(ge=1, le=20)
    at: str = ""
    media: Media = Media.DISK
    min_distance: float = Field(0, ge=0, le=20_100)
    priority: int = Field(5, ge=0, le=9)
    lifetime: float | None = Field(None, gt=0)
    source: str = ""
    retention: float = Field(0, ge=0)
    protect: bool = False
    quota: str | None = None
    deadline: str | None = None
    activity: str = "preservation"
    dry_run: bool = False


class Named(Body):
    """A rule by its name."""

    name: str
    dry_run: bool = False


class Released(Body):
    """Somebody agrees that a rule does not protect its copies any more."""

    name: str
    by: str
    dry_run: bool = False


def make_router(ctx: Context, operator: Callable[..., None]) -> APIRouter:
    """Routes of rules."""
    router = APIRouter(prefix="/api/v1/rules")
    changing = [Depends(operator)]

    @router.get("")
    def find() -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json([_told(rule) for rule in rules.find(ctx)])

    @router.get("/show")
    def show(name: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(_told(rules.show(ctx, name)))

    @router.get("/explain")
    def explain(name: str, lfn: str | None = None) -> Response:  # pyright: ignore[reportUnusedFunction]
        told = rules.explain(ctx, name, lfn)
        reasons = [{"why": why, "files": files} for why, files in told.reasons]
        return as_json(
            {
                "rule": _told(told.rule),
                "transfers": told.transfers,
                "reasons": reasons,
                "looked_at": told.looked_at,
            }
        )

    @router.post("", dependencies=changing)
    def add(body: New) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        new = NewRule(**body.model_dump(exclude={"dry_run"}))
        missing = rules.add(ctx, new, dry_run=body.dry_run)
        return {"name": body.name, "copies": missing.files, "bytes": missing.bytes}

    @router.post("/remove", dependencies=changing)
    def remove(body: Named) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return {"removed": body.name, "transfers": rules.remove(ctx, body.name, dry_run=body.dry_run)}

    @router.post("/release", dependencies=changing)
    def release(body: Released) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return {"name": body.name} | asdict(rules.release(ctx, body.name, body.by, dry_run=body.dry_run))

    return router


def _told(rule: Rule) -> dict[str, Any]:
    return asdict(rule) | {"percent": rule.percent}
