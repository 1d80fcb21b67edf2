"""The bytes of files: fetched from any copy, put at a storage. Bytes pass through; nobody holds more than a few blocks.

Someone who asks for bytes gets exactly what was asked for or a connection that breaks: `Content-Length` is told first,
and an answer that cannot be finished is not finished.
"""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict
from typing import Annotated, Any

from anyio import CapacityLimiter, from_thread, to_thread
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import Field
from starlette.requests import ClientDisconnect
from starlette.types import Send

from lightkeeper.api.body import Body
from lightkeeper.context import Context
from lightkeeper.domain.errors import Invalid, LightkeeperError, Unavailable
from lightkeeper.domain.fixity import CHUNK
from lightkeeper.steps import content
from lightkeeper.steps.content import Facts, Wanted

PUTS = 16
"""Files that are taken in at once; more wait for their turn."""
_RANGE = re.compile(r"bytes=([0-9]{1,18})-\Z")


class Bad(Body):
    """A copy that did not read as the catalogue says."""

    lfn: str
    storage: str
    why: str = Field(max_length=2000)


class ToPut(Body):
    """A file that somebody wants to put."""

    lfn: str
    sha256: str


class Plan(Body):
    """What is to be put where, with which metadata; without a file only these are checked."""

    at: str
    meta: dict[str, Any] = Field(default_factory=dict)
    file: ToPut | None = None


class _Bytes(StreamingResponse):
    """Bytes of a known number: when they cannot be read to the end, the connection breaks."""

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        except LightkeeperError:
            return  # the server closes what was not completed; the step has told why


def make_router(ctx: Context, operator: Callable[..., None]) -> APIRouter:
    """Routes of files' contents."""
    router = APIRouter(prefix="/api/v1/files")
    turns = CapacityLimiter(PUTS)

    @router.get("/facts")
    def facts(lfn: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        known = content.facts(ctx, lfn)
        file = known.file
        told = {"lfn": file.lfn, "size": file.size, "sha256": file.sha256, "adler32": file.adler32, "meta": file.meta}
        return told | {"copies": [asdict(copy) for copy in known.copies]}

    @router.get("/content")
    def get(  # pyright: ignore[reportUnusedFunction]
        lfn: str,
        at: str | None = None,
        not_at: Annotated[list[str], Query()] = [],  # noqa: B006  # FastAPI makes a new one
        range_: Annotated[str, Header(alias="range")] = "",
    ) -> Response:
        known = content.facts(ctx, lfn)
        headers = _headers(known)
        asked = _RANGE.match(range_)
        start = int(asked[1]) if asked else 0
        size = known.file.size
        if asked and start >= size:
            told = {"code": "invalid", "message": f"{known.file.lfn} has {size} bytes", "hint": ""}
            return JSONResponse({"error": told}, 416, headers | {"Content-Range": f"bytes */{size}"})
        opened = content.read_copy(ctx, lfn, at=at, not_at=not_at, start=start)
        headers |= {"Content-Length": str(size - start), "X-Lightkeeper-Storage": opened.storage}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        return _Bytes(opened.chunks, 206 if asked else 200, headers, "application/octet-stream")

    @router.post("/suspect", dependencies=[Depends(operator)])
    def suspect(body: Bad) -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        content.suspect(ctx, body.lfn, body.storage, body.why)
        return {"status": "will be read again"}

    @router.post("/content/plan", dependencies=[Depends(operator)])
    def plan(body: Plan) -> dict[str, str | None]:  # pyright: ignore[reportUnusedFunction]
        content.check_place(ctx, body.at, body.meta)
        if body.file is None:
            return {"state": None}
        return {"state": content.plan(ctx, Wanted(body.file.lfn, body.at, body.meta, body.file.sha256))}

    @router.put("/content", dependencies=[Depends(operator)])
    async def put(  # pyright: ignore[reportUnusedFunction]
        request: Request, lfn: str, at: str, sha256: str | None = None, meta: str = "{}"
    ) -> dict[str, Any]:
        wanted = Wanted(lfn, at, _metadata(meta), sha256)
        chunks = _blocks(request)

        def take_in() -> dict[str, Any]:
            return asdict(content.put(ctx, wanted, _from(chunks)))

        try:
            return await to_thread.run_sync(take_in, limiter=turns)
        except ClientDisconnect:  # nobody hears it
            raise Unavailable(f"{lfn} did not come to its end", hint="put it again") from None

    return router


def _headers(known: Facts) -> dict[str, str]:
    file = known.file
    return {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{file.lfn.rpartition("/")[2]}"',
        "ETag": f'"{file.sha256}"',
        "X-Lightkeeper-Size": str(file.size),
        "X-Lightkeeper-Sha256": file.sha256,
        "X-Lightkeeper-Adler32": file.adler32,
    }


def _metadata(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the metadata are not JSON: {error}", hint='write them like {"data_level": 1}') from None
    if not isinstance(told, dict):
        raise Invalid("the metadata must be a map", hint='write them like {"data_level": 1}')
    return told


async def _blocks(request: Request) -> AsyncIterator[bytes]:
    """The body in blocks that are worth a change of thread."""
    block = bytearray()
    async for part in request.stream():
        block += part
        if len(block) >= CHUNK:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


def _from(blocks: AsyncIterator[bytes]) -> Iterator[bytes]:
    """Blocks that come on the event loop, for the thread that asks: the next is received when the last is written, so
    that a slow storage slows down who sends."""

    async def following() -> bytes | None:
        return await anext(blocks, None)

    while (block := from_thread.run(following)) is not None:
        yield block
