"""The audit of storages: how far copies were read again, what lies there beside the catalogue, dark files."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from lightkeeper.api.body import Body, as_json
from lightkeeper.context import Context
from lightkeeper.steps import audit, compare, manifests, recovery, suspicion, switches

MOST = 10_000
"""Dark files in one answer or request; clients ask for more in parts."""

Paths = Annotated[list[str], Field(max_length=MOST)]


class Storage(Body):
    """A storage by its name."""

    storage: str


class Set(Storage):
    """What is switched by hand, and why; null: as the topology says."""

    wanted: dict[str, bool | None]
    why: str = Field("", max_length=2000)
    dry_run: bool = False


class Drain(Storage):
    """A storage to be emptied, or no more."""

    why: str = Field("", max_length=2000)
    undo: bool = False
    dry_run: bool = False


class Decommission(Storage):
    """A storage to be ended."""

    dry_run: bool = False


class Compare(Storage):
    """`limit`: names of dark files, and of lost copies, in the answer."""

    limit: int = Field(100, ge=0, le=MOST)


class Rebuild(Storage):
    """`limit`: differences that are named in the answer."""

    dry_run: bool = False
    limit: int = Field(100, ge=0, le=MOST)


class Why(Body):
    """A reason, which is kept."""

    why: Annotated[str, Field(max_length=2000)] = ""


class Adopt(Storage):
    """Dark files to be registered, and the metadata of all of them."""

    paths: Paths
    meta: dict[str, Any] = Field(default_factory=dict)
    dry_run: bool = False


class Delete(Storage):
    """Dark files to be deleted, and why."""

    paths: Paths
    why: Annotated[str, Field(min_length=1, max_length=2000)]
    dry_run: bool = False


def make_router(ctx: Context, operator: Callable[..., None]) -> APIRouter:
    """Routes of the audit of storages."""
    router = APIRouter(prefix="/api/v1/storages")
    changing = [Depends(operator)]

    @router.get("/show")
    def show(storage: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(switches.show(ctx, storage))

    @router.post("/set", dependencies=changing)
    def set_(body: Set) -> dict[str, list[str]]:  # pyright: ignore[reportUnusedFunction]
        return {"changes": switches.set_(ctx, body.storage, body.wanted, body.why, dry_run=body.dry_run)}

    @router.post("/drain", dependencies=changing)
    def drain(body: Drain) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(switches.drain(ctx, body.storage, body.why, undo=body.undo, dry_run=body.dry_run))

    @router.post("/decommission", dependencies=changing)
    def decommission(body: Decommission) -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        switches.decommission(ctx, body.storage, dry_run=body.dry_run)
        return {"decommissioned": body.storage}

    @router.get("/scrub")
    def scrub(storage: str | None = None) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(audit.scrubs(ctx, storage))

    @router.post("/scrub", dependencies=changing)
    def begin_scrub(body: Storage) -> dict[str, bool]:  # pyright: ignore[reportUnusedFunction]
        return {"begun": audit.begin_scrub(ctx, body.storage)}

    @router.post("/mark", dependencies=changing)
    def mark(body: Storage) -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        audit.mark(ctx, body.storage)
        return {"marked": body.storage}

    @router.get("/suspicious")
    def suspicious(  # pyright: ignore[reportUnusedFunction]
        storage: str | None = None, limit: Annotated[int, Query(ge=1, le=MOST)] = 1000
    ) -> Response:
        return as_json(suspicion.suspicious(ctx, storage, limit))

    @router.post("/compare", dependencies=changing)
    def compare_(body: Compare) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(compare.compare(ctx, body.storage, body.limit))

    @router.get("/dark")
    def dark(  # pyright: ignore[reportUnusedFunction]
        storage: str, after: str = "", limit: Annotated[int, Query(ge=1, le=MOST)] = 1000
    ) -> Response:
        return as_json(compare.dark(ctx, storage, after=after, limit=limit))

    @router.post("/dark/adopt", dependencies=changing)
    def adopt(body: Adopt) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(compare.adopt(ctx, body.storage, body.paths, body.meta, dry_run=body.dry_run))

    @router.post("/dark/delete", dependencies=changing)
    def delete(body: Delete) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(compare.delete(ctx, body.storage, body.paths, body.why, dry_run=body.dry_run))

    # --- manifests and recovery
    @router.get("/manifests")
    def manifests_() -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(manifests.progress(ctx))

    @router.post("/manifests", dependencies=changing)
    def tell_again(body: Storage) -> dict[str, int]:  # pyright: ignore[reportUnusedFunction]
        return {"due": audit.tell_again(ctx, body.storage)}

    @router.post("/rebuild", dependencies=changing)
    def rebuild(body: Rebuild) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(recovery.rebuild(ctx, body.storage, dry_run=body.dry_run, limit=body.limit))

    @router.get("/recovery")
    def recovery_() -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(recovery.status(ctx))

    @router.post("/recovery/begin", dependencies=changing)
    def begin(body: Why) -> dict[str, bool]:  # pyright: ignore[reportUnusedFunction]
        return {"begun": recovery.begin(ctx, body.why)}

    @router.post("/recovery/end", dependencies=changing)
    def end(body: Why) -> dict[str, bool]:  # pyright: ignore[reportUnusedFunction]
        return {"ended": recovery.end(ctx, body.why)}

    return router
