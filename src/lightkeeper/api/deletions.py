"""Deletions and operations: what goes, what waits and why, and who says so."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, Response
from pydantic import Field

from lightkeeper.api.body import Body, as_json
from lightkeeper.context import Context
from lightkeeper.domain.operations import Kind, Stand
from lightkeeper.domain.states import Intent
from lightkeeper.steps import deletions, operations
from lightkeeper.steps.operations import NewOperation


class Person(Body):
    """Who says so: a name, since nobody can prove yet who he is."""

    by: str
    dry_run: bool = False


class Undo(Person):
    """Deletions to be undone: by their numbers, all on a storage, or all of an operation."""

    ids: tuple[int, ...] = ()
    storage: str | None = None
    operation: str | None = None


class Approve(Person):
    """The deletions that wait at a storage for two people."""

    storage: str


class Pause(Person):
    """Storages where no deletion is to begin; without any, everywhere."""

    storages: tuple[str, ...] = ()
    why: str = Field("", max_length=500)


class Resume(Body):
    """Storages where deletions go on; without any, everywhere."""

    storages: tuple[str, ...] = ()
    dry_run: bool = False


class New(Body):
    """An operation: files by a query or by name; storage expressions where copies are made and where deleted."""

    kind: Kind
    query: str | dict[str, Any] | None = None
    names: tuple[str, ...] = ()
    name: str = ""
    target: str = ""
    source: str = ""
    copies: int = Field(1, ge=1, le=20)
    actor: str = Field("operator", max_length=100)
    dry_run: bool = False


class Named(Body):
    """An operation by its name."""

    name: str
    dry_run: bool = False


class Finalize(Body):
    """An operation to be brought to its end; without `apply` it is only told how."""

    name: str
    apply: bool = False


def make_router(ctx: Context, operator: Callable[..., None]) -> APIRouter:
    """Routes of deletions and operations."""
    router = APIRouter(prefix="/api/v1")
    changing = [Depends(operator)]

    @router.get("/deletions")
    def by_storage() -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(deletions.by_storage(ctx))

    @router.get("/deletions/find")
    def find_deletions(  # pyright: ignore[reportUnusedFunction]
        storage: str | None = None, lfn: str | None = None, operation: str | None = None, state: Intent | None = None
    ) -> Response:
        return as_json(deletions.find(ctx, storage=storage, lfn=lfn, operation=operation, state=state))

    @router.get("/deletions/show")
    def show_deletion(number: int) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(deletions.show(ctx, number))

    @router.post("/deletions/undo", dependencies=changing)
    def undo(body: Undo) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        done = deletions.undo(
            ctx, body.by, ids=body.ids, storage=body.storage, operation=body.operation, dry_run=body.dry_run
        )
        return asdict(done)

    @router.post("/deletions/approve", dependencies=changing)
    def approve(body: Approve) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(deletions.approve(ctx, body.storage, body.by, dry_run=body.dry_run))

    @router.post("/deletions/pause", dependencies=changing)
    def pause(body: Pause) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return {"paused": deletions.pause(ctx, body.storages, body.by, body.why, dry_run=body.dry_run)}

    @router.post("/deletions/resume", dependencies=changing)
    def resume(body: Resume) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return {"resumed": deletions.resume(ctx, body.storages, dry_run=body.dry_run)}

    @router.get("/operations")
    def find() -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(operations.find(ctx))

    @router.get("/operations/show")
    def show(name: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(operations.show(ctx, name))

    @router.get("/operations/files")
    def files(name: str, stand: Stand | None = None, limit: int = 1000) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(operations.files_of(ctx, name, stand, min(limit, 100_000)))

    @router.post("/operations", dependencies=changing)
    def begin(body: New) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        new = NewOperation(**body.model_dump(exclude={"dry_run"}))
        return asdict(operations.begin(ctx, new, dry_run=body.dry_run))

    @router.post("/operations/cancel", dependencies=changing)
    def cancel(body: Named) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(operations.cancel(ctx, body.name, dry_run=body.dry_run))

    @router.post("/operations/finalize", dependencies=changing)
    def finalize(body: Finalize) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(operations.finalize(ctx, body.name, apply=body.apply))

    return router
