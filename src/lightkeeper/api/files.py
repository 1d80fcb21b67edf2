"""Files that are registered: what is known of them, what is changed about them; and lists of new ones."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field
from starlette.requests import ClientDisconnect

from lightkeeper.api.body import Body, as_json
from lightkeeper.context import Context
from lightkeeper.domain.errors import Invalid, Unavailable
from lightkeeper.steps import files, repair
from lightkeeper.steps.files import Changed
from lightkeeper.steps.register import Block, Listed, Listing, read, register, start

MOST = 20_000
"""Names in one request; clients send longer lists in parts."""
LINES = 20_000
"""Lines of a list that are registered in one transaction."""
LONGEST = 1 << 20
"""Bytes that one line of a list may have."""
HEAVIEST = 16 << 20
"""Bytes of lines that are registered in one transaction, if those are fewer lines."""

Why = Annotated[str, Field(min_length=1, max_length=2000)]


class Named(Body):
    """Files by name."""

    names: Annotated[list[str], Field(max_length=MOST)]


class Change(Named):
    """A change to files and its reason."""

    why: Why
    dry_run: bool = False


class Repair(Named):
    """Files whose copies are to be repaired; with `every` all their copies are read again."""

    every: bool = False
    dry_run: bool = False


class Metadata(Named):
    """New values of metadata keys, and keys to be taken away."""

    set: dict[str, Any] = Field(default_factory=dict)
    unset: tuple[str, ...] = ()
    dry_run: bool = False


class Supersede(Body):
    """Pairs of an older file and the one that takes its place."""

    pairs: Annotated[list[tuple[str, str]], Field(max_length=MOST)]
    why: Why
    dry_run: bool = False


class Unregister(Change):
    """With `at` only what is recorded at that storage."""

    at: str | None = None


def make_router(ctx: Context, operator: Callable[..., None]) -> APIRouter:
    """Routes of files that are registered."""
    router = APIRouter(prefix="/api/v1")
    changing = [Depends(operator)]

    @router.post("/files/stat")
    def stat(body: Named) -> Response:  # pyright: ignore[reportUnusedFunction]
        found, failed = files.stat(ctx, body.names)
        told = [
            asdict(one.file) | {"state": one.state, "copies": one.copies, "superseded_by": one.superseded_by}
            for one in found
        ]
        return as_json({"files": told, "failed": failed})

    @router.post("/files/replicas")
    def replicas(body: Named) -> Response:  # pyright: ignore[reportUnusedFunction]
        found, failed = files.replicas(ctx, body.names)
        return as_json({"replicas": found, "failed": failed})

    @router.post("/files/check")
    def check(body: Named) -> dict[str, list[str]]:  # pyright: ignore[reportUnusedFunction]
        return asdict(files.check(ctx, body.names))

    @router.post("/files/repair", dependencies=changing)
    def repair_(body: Repair) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(repair.repair(ctx, body.names, every=body.every, dry_run=body.dry_run))

    @router.post("/files/metadata", dependencies=changing)
    def metadata(body: Metadata) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return _told(files.set_metadata(ctx, body.names, body.set, body.unset, dry_run=body.dry_run))

    @router.post("/files/corrupted", dependencies=changing)
    def corrupted(body: Change) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return _told(files.mark_corrupted(ctx, body.names, body.why, dry_run=body.dry_run))

    @router.post("/files/restore", dependencies=changing)
    def restore(body: Change) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return _told(files.restore(ctx, body.names, body.why, dry_run=body.dry_run))

    @router.post("/files/supersede", dependencies=changing)
    def supersede(body: Supersede) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return _told(files.supersede(ctx, body.pairs, body.why, dry_run=body.dry_run))

    @router.post("/files/remove", dependencies=changing)
    def remove(body: Change) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return _told(files.remove(ctx, body.names, body.why, dry_run=body.dry_run))

    @router.post("/files/unregister", dependencies=changing)
    def unregister(body: Unregister) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return _told(files.unregister(ctx, body.names, body.why, at=body.at, dry_run=body.dry_run))

    @router.post("/register", dependencies=changing)
    async def register_list(  # pyright: ignore[reportUnusedFunction]
        request: Request, at: str | None = None, virtual: bool = False, dry_run: bool = False
    ) -> dict[str, Any]:
        return asdict(await _register(ctx, Listing(at, virtual, dry_run), request.stream()))

    return router


def _told(changed: Changed) -> dict[str, Any]:
    return {"done": changed.done, "failed": [asdict(failure) for failure in changed.failed]}


async def _register(ctx: Context, listing: Listing, stream: AsyncIterator[bytes]) -> Listed:
    """Register the lines as they come: while one block goes into the database the next one is taken and read."""
    activity = await to_thread.run_sync(start, ctx, listing)
    told = Listed()
    first = 1
    under_way: asyncio.Task[None] | None = None
    try:
        async for lines in _blocks(stream):
            block: Block = await to_thread.run_sync(read, ctx, listing, first, lines)
            if under_way:
                await under_way
            under_way = asyncio.create_task(to_thread.run_sync(register, ctx, listing, activity, block, told))
            first += len(lines)
    except ClientDisconnect as error:
        raise Unavailable("the list broke off", hint="register it again: what is known is not doubled") from error
    finally:
        if under_way:
            await under_way
    return told


async def _blocks(stream: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """Lines of a stream, LINES at a time."""
    lines: list[bytes] = []
    rest: list[bytes] = []
    pending = held = 0
    async for chunk in stream:
        *whole, last = chunk.split(b"\n")
        if whole:
            lines.append(b"".join([*rest, whole[0]]))
            lines += whole[1:]
            rest, pending = [], 0
        rest.append(last)
        pending += len(last)
        if pending > LONGEST:
            raise Invalid(f"a line of the list is longer than {LONGEST} bytes", hint="one JSON object on each line")
        held += len(chunk)
        if len(lines) >= LINES or held > HEAVIEST:
            yield lines
            lines, held = [], 0
    if any(rest):
        lines.append(b"".join(rest))
    if lines:
        yield lines
