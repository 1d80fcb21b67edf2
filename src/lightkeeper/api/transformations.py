"""Transformations, their files and tasks; and jobs."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from lightkeeper.api.body import Body, as_json
from lightkeeper.context import Context
from lightkeeper.domain.errors import NotFound
from lightkeeper.steps import finalize as final
from lightkeeper.steps import operations, produce, report, transformations
from lightkeeper.store import reports, sharing

Limit = Annotated[int, Query(ge=1, le=1_000_000)]
Names = Annotated[list[str], Field(max_length=100_000)]
Why = Annotated[str, Field(min_length=1, max_length=2000)]


class Given(Body):
    """Transformations by number or name, or by the name of their production, with * and ?."""

    names: Names
    why: Why
    dry_run: bool = False


class Status(Given):
    """The same, and the state they are to have; `kill`: jobs that run are ended."""

    status: str
    kill: bool = False


class Files(Body):
    """Files to be taken into a transformation."""

    transformation: str
    names: Names
    dry_run: bool = False


class FileStatus(Body):
    """The state that files of a transformation are to have: named, or those in a state now, or of tasks in one."""

    transformation: str
    status: str
    why: Why
    names: Names | None = None
    now: str | None = None
    task_status: str | None = None
    dry_run: bool = False


class Final(Body):
    """A transformation or operation to be brought to its end."""

    name: str
    apply: bool = False


class Jobs(Body):
    """Jobs to be ended; `again`: their tasks get another attempt."""

    jobs: Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(max_length=100_000)]
    why: Why
    again: bool = False
    dry_run: bool = False


class Share(Body):
    """A share of the processors; 1 is what everything has that has none of its own."""

    kind: str
    name: str
    share: float = Field(gt=0, le=1000)


class Priority(Given):
    """Transformations whose jobs go earlier, 0, or later, 9."""

    priority: int = Field(ge=0, le=9)


def make_router(ctx: Context, operator: Callable[..., None]) -> APIRouter:
    """Routes of transformations."""
    router = APIRouter(prefix="/api/v1/transformations")
    changing = [Depends(operator)]

    @router.get("")
    def find(  # pyright: ignore[reportUnusedFunction]
        production: str | None = None,
        name: Annotated[list[str] | None, Query()] = None,
        status: str | None = None,
        type_: Annotated[str | None, Query(alias="type")] = None,
        all_: Annotated[bool, Query(alias="all")] = False,
    ) -> Response:
        found = transformations.find(
            ctx, production=production, names=name or (), status=status, type_=type_, all_=all_
        )
        return as_json(found)

    @router.get("/show")
    def show(name: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        if (operation := _operation(name)) is not None:
            return as_json({"operation": operation})
        return as_json(report.transformation(ctx, transformations.one(ctx, name)))

    @router.get("/usage")
    def usage(name: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(report.used(ctx, transformations.one(ctx, name)))

    @router.get("/files")
    def files(  # pyright: ignore[reportUnusedFunction]
        name: str, status: str | None = None, task_status: str | None = None, limit: Limit = 1000
    ) -> Response:
        if _operation(name) is not None:
            return as_json(operations.files_of(ctx, name, None, min(limit, 100_000)))
        of = transformations.one(ctx, name)
        return as_json(transformations.input_files(ctx, of, status, task_status, limit))

    @router.get("/tasks")
    def tasks(name: str, status: str | None = None, limit: Limit = 1000) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(transformations.tasks(ctx, transformations.one(ctx, name), status, limit))

    @router.post("/status", dependencies=changing)
    def set_status(body: Status) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        changed = transformations.set_status(
            ctx, body.names, body.status, body.why, kill=body.kill, dry_run=body.dry_run
        )
        return asdict(changed)

    @router.post("/priority", dependencies=changing)
    def set_priority(body: Priority) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(transformations.set_priority(ctx, body.names, body.priority, dry_run=body.dry_run))

    @router.post("/clean", dependencies=changing)
    def clean(body: Given) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(transformations.clean(ctx, body.names, body.why, dry_run=body.dry_run))

    @router.post("/delete", dependencies=changing)
    def delete(body: Given) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(transformations.delete(ctx, body.names, body.why, dry_run=body.dry_run))

    @router.post("/files", dependencies=changing)
    def add_files(body: Files) -> dict[str, list[Any]]:  # pyright: ignore[reportUnusedFunction]
        changed = transformations.add_files(ctx, body.transformation, body.names, dry_run=body.dry_run)
        return {"done": changed.done, "already": changed.already, "failed": changed.failed}

    @router.post("/files/status", dependencies=changing)
    def set_files(body: FileStatus) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        changed = transformations.set_files(
            ctx,
            body.transformation,
            body.status,
            body.why,
            names=body.names,
            now=body.now,
            task_state=body.task_status,
            dry_run=body.dry_run,
        )
        return asdict(changed)

    @router.post("/finalize", dependencies=changing)
    def finalize(body: Final) -> Response:  # pyright: ignore[reportUnusedFunction]
        if _operation(body.name) is not None:
            return as_json(operations.finalize(ctx, body.name, apply=body.apply))
        return as_json(final.finalize(ctx, body.name, apply=body.apply))

    @router.post("/{transformation_id}/retry", dependencies=changing)
    def retry(transformation_id: int) -> dict[str, int]:  # pyright: ignore[reportUnusedFunction]
        return {"tasks": produce.retry(ctx, transformation_id)}

    @router.get("/{transformation_id}/report")
    def transformation_report(transformation_id: int) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(report.transformation(ctx, transformation_id))

    def _operation(name: str) -> operations.Progress | None:
        """The operation of that name: it moves files instead of processing them."""
        try:
            return operations.show(ctx, name)
        except NotFound:
            return None

    return router


def make_jobs_router(ctx: Context, operator: Callable[..., None]) -> APIRouter:
    """Routes of jobs and of shares between them."""
    router = APIRouter(prefix="/api/v1")
    changing = [Depends(operator)]

    @router.get("/jobs")
    def find(  # pyright: ignore[reportUnusedFunction]
        transformation: str | None = None,
        status: str | None = None,
        site: str | None = None,
        limit: Limit = 1000,
    ) -> Response:
        of = transformations.resolve(ctx, [transformation]) if transformation else None
        with ctx.db.transaction() as conn:
            return as_json(reports.jobs(conn, limit, of, status, site))

    @router.get("/jobs/{job_id}")
    def show(job_id: int) -> Response:  # pyright: ignore[reportUnusedFunction]
        return as_json(transformations.show_job(ctx, job_id))

    @router.get("/jobs/{job_id}/log")
    def job_log(job_id: int) -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        with ctx.db.transaction() as conn:
            text = reports.job_log(conn, job_id)
        if text is None:
            raise NotFound(f"job {job_id} has left no log", hint="it has not ended yet, or it never began")
        return {"text": text}

    @router.post("/jobs/kill", dependencies=changing)
    def kill(body: Jobs) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        changed = transformations.kill_jobs(ctx, body.jobs, body.why, again=body.again, dry_run=body.dry_run)
        return asdict(changed)

    @router.get("/shares")
    def shares() -> Response:  # pyright: ignore[reportUnusedFunction]
        with ctx.db.transaction() as conn:
            return as_json(sharing.found(conn))

    @router.post("/shares", dependencies=changing)
    def set_share(body: Share) -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        return {"told": transformations.set_share(ctx, body.kind, body.name, body.share)}

    return router
