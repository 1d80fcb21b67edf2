"""The HTTP contract: CLI, web, pilots and Python users go through it. Routes parse, call one step, and show.

Reading is open to this machine, to which the API is bound; changing needs the operator's token; pilots show the secret
they were started with. Errors are `{"error": {"code", "message", "hint"}}` with a fitting status.
"""

import hmac
from dataclasses import asdict
from http import HTTPStatus
from typing import Annotated, Any

import psycopg
from fastapi import Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import JSONResponse

from lightkeeper import __version__, web
from lightkeeper.api import (
    content,
    datasets,
    deletions,
    files,
    find,
    ingest,
    keeper,
    metrics,
    nights,
    pilots,
    productions,
    quality,
    rules,
    stage,
    transfers,
    transformations,
)
from lightkeeper.api import storages as audits
from lightkeeper.api.body import Body
from lightkeeper.context import Context
from lightkeeper.domain.errors import LightkeeperError, Refused
from lightkeeper.domain.names import printable
from lightkeeper.domain.states import Health
from lightkeeper.steps import audit, report, topology
from lightkeeper.steps import quality as quality_step
from lightkeeper.steps import rules as rules_step
from lightkeeper.store import reports
from lightkeeper.store.deletions import stopped

STATUS = {
    "invalid": HTTPStatus.UNPROCESSABLE_ENTITY,
    "not_found": HTTPStatus.NOT_FOUND,
    "conflict": HTTPStatus.CONFLICT,
    "refused": HTTPStatus.FORBIDDEN,
    "unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
}


class TopologyDocument(Body):
    """A topology document as text."""

    document: str
    dry_run: bool = False


def make_api(ctx: Context, token: str) -> FastAPI:
    """The API of one instance; `token` is the operator's."""
    app = FastAPI(title="Lightkeeper", version=__version__, docs_url=None, redoc_url=None)

    @app.exception_handler(LightkeeperError)
    def _(_request: Request, error: LightkeeperError) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        content = {"error": {"code": error.code, "message": error.message, "hint": error.hint}}
        return JSONResponse(content, STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR))

    @app.exception_handler(RequestValidationError)
    def _(_request: Request, error: RequestValidationError) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        first = error.errors()[0]  # its input is not told: it may be anything, also what JSON cannot say
        told = f"{printable('.'.join(map(str, first['loc'])))}: {printable(first['msg'])}"
        return JSONResponse({"error": {"code": "invalid", "message": told, "hint": ""}}, STATUS["invalid"])

    @app.exception_handler(UnicodeEncodeError)
    def _(_request: Request, _error: UnicodeEncodeError) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        told = "a text holds half a character"
        return JSONResponse({"error": {"code": "invalid", "message": told, "hint": ""}}, STATUS["invalid"])

    @app.exception_handler(psycopg.DataError)
    def _(_request: Request, error: psycopg.DataError) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        told = f"a value is not one that the database can hold: {str(error).splitlines()[0]}"
        return JSONResponse({"error": {"code": "invalid", "message": told, "hint": ""}}, STATUS["invalid"])

    @app.exception_handler(psycopg.OperationalError)
    def _(_request: Request, error: psycopg.OperationalError) -> JSONResponse:  # pyright: ignore[reportUnusedFunction]
        told = f"the database does not answer now: {str(error).splitlines()[0]}"
        return JSONResponse({"error": {"code": "unavailable", "message": told, "hint": ""}}, STATUS["unavailable"])

    # A page from elsewhere must not read us through the name of its own server (DNS rebinding).
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]", "testserver"])

    def operator(authorization: Annotated[str, Header()] = "") -> None:
        if not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise Refused(
                "this changes something, so it needs the operator's token",
                hint="it lies in the home's run folder",
            )

    @app.get("/api/v1/health")
    def health() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        return {"status": "ok", "version": __version__}

    @app.get("/api/v1/status")
    def status() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        late = [{"rule": rule.name, "why": rule.late} for rule in rules_step.late(ctx)]
        alarms = [alarm.told for alarm in quality_step.alarms(ctx)]
        with ctx.db.transaction() as conn:
            return asdict(reports.totals(conn)) | {
                "overdue": [asdict(o) for o in reports.overdue(conn)],
                "late": late,
                "quality_alarms": alarms,
                "deletions_stopped": [asdict(s) for s in stopped(conn)],
                "storages_in_trouble": [
                    {"storage": s.storage, "health": s.health, "since": s.since, "why": s.why}
                    for s in reports.storage_use(conn)
                    if s.enabled and s.health != Health.GOOD
                ],
            }

    # --- topology
    @app.post("/api/v1/topology", dependencies=[Depends(operator)])
    def apply(body: TopologyDocument) -> dict[str, list[str]]:  # pyright: ignore[reportUnusedFunction]
        return {"changes": topology.apply(ctx, body.document, dry_run=body.dry_run)}

    @app.get("/api/v1/storages")
    def storages() -> list[dict[str, Any]]:  # pyright: ignore[reportUnusedFunction]
        with ctx.db.transaction() as conn:
            return [asdict(s) for s in reports.storage_use(conn)]

    # --- files

    @app.get("/api/v1/files/why")
    def why(lfn: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(report.why_file(ctx, lfn))

    # --- what happened
    @app.get("/api/v1/summary")
    def summary() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(report.summary(ctx))

    @app.get("/api/v1/healed")
    def healed() -> list[dict[str, Any]]:  # pyright: ignore[reportUnusedFunction]
        with ctx.db.transaction() as conn:
            return [asdict(h) for h in reports.healed(conn)]

    @app.get("/api/v1/fsck")
    def fsck(read_bytes: bool = False) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return asdict(audit.fsck(ctx, read_bytes=read_bytes))

    app.include_router(find.make_router(ctx, operator))
    app.include_router(productions.make_router(ctx, operator))
    app.include_router(metrics.make_router(ctx))
    app.include_router(transformations.make_router(ctx, operator))
    app.include_router(transformations.make_jobs_router(ctx, operator))
    app.include_router(nights.make_router(ctx, operator))
    app.include_router(quality.make_router(ctx, operator))
    app.include_router(ingest.make_router(ctx, operator))
    app.include_router(rules.make_router(ctx, operator))
    app.include_router(transfers.make_router(ctx, operator))
    app.include_router(stage.make_router(ctx, operator))
    app.include_router(deletions.make_router(ctx, operator))
    app.include_router(datasets.make_router(ctx, operator))
    app.include_router(files.make_router(ctx, operator))
    app.include_router(content.make_router(ctx, operator))
    app.include_router(audits.make_router(ctx, operator))
    app.include_router(keeper.make_router(ctx, operator))
    app.include_router(pilots.make_router(ctx))
    web.add_pages(app, ctx)
    return app
