"""What pilots ask: greet, claim, alive, finish, fail, goodbye. Each call shows the pilot's secret."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header
from pydantic import AfterValidator, Field

from lightkeeper.api.body import Body
from lightkeeper.context import Context
from lightkeeper.steps import run
from lightkeeper.steps.queue import Queue
from lightkeeper.store.jobs import PilotRow


def _without_nul(text: str) -> str:
    """What tools print may hold anything; PostgreSQL keeps no NUL."""
    return text.replace("\0", "�").encode(errors="replace").decode()


Text = Annotated[str, AfterValidator(_without_nul)]
Number64 = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[int, Field(ge=-(2**31), lt=2**31)]


class Claim(Body):
    """How many jobs the pilot wants at the most, and which it has; others that it was given are told again."""

    most: int = Field(1, ge=1, le=1000)
    holding: list[Number64] | None = None


class Alive(Body):
    """The pilot's jobs and what each is at."""

    jobs: dict[int, Text] = Field(default_factory=dict)


class Output(Body):
    """An uploaded output; `parameter`: of the tool, when only the run gave the file its name."""

    name: Text
    parameter: Text | None = None
    size: int = Field(ge=0, lt=2**63)
    sha256: str
    adler32: str


class BadReplica(Body):
    """An input that did not read as the catalogue says; `silent`: its storage gave no answer."""

    lfn: Text
    storage: Text
    why: Text
    silent: bool = False


Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]


class Used(Body):
    """What the tool of a job used: seconds, and bytes at the peak."""

    cpu_seconds: Amount
    wall_seconds: Amount
    memory: Number64
    disk: Number64


class Finished(Body):
    """Outputs lie in the job's temporary area on `storage`."""

    storage: Text
    outputs: list[Output]
    provenance: list[Text]
    environment: dict[Text, Text] = Field(default_factory=dict)
    log: Text
    used: Used | None = None
    bad_replicas: tuple[BadReplica, ...] = ()


class AllFinished(Body):
    """The same for several jobs."""

    jobs: Annotated[dict[int, Finished], Field(max_length=1000)]


class Failure(Body):
    """Why a job failed."""

    minor_status: Text = Field(max_length=200)
    application_status: Text = Field(max_length=2000)
    exit_code: Number | None = None
    log: Text = ""
    used: Used | None = None
    bad_replicas: tuple[BadReplica, ...] = ()


def make_router(ctx: Context) -> APIRouter:
    """Routes below /api/v1/pilot."""
    router = APIRouter(prefix="/api/v1/pilot")
    queue = Queue()

    def this_pilot(authorization: Annotated[str, Header()] = "") -> PilotRow:
        return run.greet(ctx, authorization.removeprefix("Bearer "))

    pilot_from_secret = Depends(this_pilot)

    @router.post("/hello")
    def hello(pilot: PilotRow = pilot_from_secret) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        settings = ctx.settings
        return {
            "name": pilot.name,
            "site": pilot.site,
            "heartbeat": settings.heartbeat.total_seconds(),
            "idle": settings.pilot_idle.total_seconds(),
            "silence": settings.pilot_silence.total_seconds(),
        }

    @router.post("/claim")
    def claim(body: Claim, pilot: PilotRow = pilot_from_secret) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return {"jobs": run.claim(ctx, pilot, most=body.most, holding=body.holding, queue=queue)}

    @router.post("/alive")
    def alive(body: Alive, pilot: PilotRow = pilot_from_secret) -> dict[str, list[int]]:  # pyright: ignore[reportUnusedFunction]
        return {"stop": run.alive(ctx, pilot, body.jobs)}

    @router.post("/finish")
    def finish_all(body: AllFinished, pilot: PilotRow = pilot_from_secret) -> dict[str, list[int]]:  # pyright: ignore[reportUnusedFunction]
        reports = {job_id: report.model_dump() for job_id, report in body.jobs.items()}
        return {"refused": run.finish_all(ctx, pilot, reports)}

    @router.post("/jobs/{job_id}/finish")
    def finish(job_id: int, body: Finished, pilot: PilotRow = pilot_from_secret) -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        run.finish(ctx, pilot, job_id, body.model_dump())
        return {"status": "taken"}

    @router.post("/jobs/{job_id}/fail")
    def fail(job_id: int, body: Failure, pilot: PilotRow = pilot_from_secret) -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        run.report_failure(ctx, pilot, job_id, body.model_dump())
        return {"status": "taken"}

    @router.post("/goodbye")
    def goodbye(pilot: PilotRow = pilot_from_secret) -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        run.goodbye(ctx, pilot)
        return {"status": "taken"}

    return router
