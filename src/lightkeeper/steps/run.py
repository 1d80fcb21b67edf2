"""Step 6: pilots claim jobs, run them and hand outputs back; one transaction ends a job.

Before: transform.py queued jobs.    After: the outputs go the way of every file: replicate.py, transform.py, audit.py.
Called by the API for pilots; worker: keep_pilots every 2 s, accept_reported every 5 s. Safe to run twice: a job belongs
to one pilot, a task accepts one attempt, and what a pilot reported is finished without it.

Outputs lie in the job's own temporary area until they were read back here. They are renamed to their names under the
lock of their task, in the transaction that registers them: no other attempt can be accepted meanwhile.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar, cast

from lightkeeper import __version__
from lightkeeper.context import Context
from lightkeeper.domain.catalog import Media, NewFile, SiteKind, StorageElement
from lightkeeper.domain.errors import Conflict, Corrupt, Invalid, LightkeeperError, NotFound, Refused, Unavailable
from lightkeeper.domain.limits import MB, Limits, Used, capped, limits_of
from lightkeeper.domain.names import Fixity, Lfn, printable
from lightkeeper.domain.provenance import RanActivity
from lightkeeper.domain.sharing import suits
from lightkeeper.domain.states import Health, Job, Pilot
from lightkeeper.domain.work import ExpectedOutput, FoundOutput, JobInput, JobOrder, JobRecipe, parse_software
from lightkeeper.ports import CollectingJobType, PilotOrder, Storage
from lightkeeper.steps import admit, suspicion
from lightkeeper.steps.queue import Queue
from lightkeeper.store import (
    catalog,
    companions,
    db,
    healing,
    jobs,
    promotion,
    provenance,
    stage,
    topology,
    transfers,
    transitions,
    usage,
)
from lightkeeper.store.jobs import ClaimedJob, CompletingJob, PilotRow
from lightkeeper.store.suspicion import FailedRead

JOBS = "/.lightkeeper/jobs"


# --- for pilots ------------------------------------------------------------------------------------------------
def greet(ctx: Context, secret: str) -> PilotRow:
    """The pilot that shows this secret; raises Refused when there is none, or it is no longer live."""
    with ctx.db.transaction() as conn:
        pilot = jobs.pilot_by_secret(conn, _digest(secret))
        if pilot is None:
            raise Refused("no live pilot has this secret", hint="a pilot that was given up for lost must end")
        if pilot.state is Pilot.SUBMITTED:
            transitions.move(conn, [pilot.pilot_id], Pilot.SUBMITTED, Pilot.RUNNING)
    return pilot


def claim(
    ctx: Context, pilot: PilotRow, *, most: int = 1, holding: Sequence[int] | None = None, queue: Queue | None = None
) -> list[dict[str, Any]]:
    """The next jobs for a pilot, each with everything it needs to run it; none when nothing waits for it.

    `holding` are the jobs that the pilot knows it has: others that it was given come first, since the answer that told
    it of them was lost.
    """
    queue = queue or Queue()
    with ctx.db.transaction() as conn:
        jobs.alive(conn, pilot.pilot_id, {})
        begun = jobs.held(conn, pilot.pilot_id, holding) if holding is not None else []
        if not begun and (taken := queue.take(conn, pilot.offer, most)):
            begun = jobs.begin(conn, taken, pilot.pilot_id, pilot.site_id)
        if not begun:
            return []
        inputs = jobs.inputs_of_tasks(conn, [job.task_id for job in begun])
        shared = companions.of_transformations(conn, [job.transformation_id for job in begun])
        read = [*inputs.values(), *(roles.values() for roles in shared.values())]
        ids = sorted({file_id for files in read for file_id in files})
        files = {file.file_id: file for file in catalog.files_by_id(conn, ids)}
        copies = catalog.replicas_of(conn, ids)
        online = stage.online_copies(conn, ids)
        storages = {s.name: s for s in topology.storages(conn)}
    sources: dict[int, list[StorageElement]] = {}
    for copy in sorted(copies, key=lambda c: (c.site != pilot.site, storages[c.storage].media is Media.TAPE)):
        storage = storages[copy.storage]
        usable = storage.site_kind is SiteKind.DATA_CENTRE and storage.readable
        if usable and (copy.file_id, storage.storage_id) in online:
            sources.setdefault(copy.file_id, []).append(storage)
    orders: list[dict[str, Any]] = []
    for job in begun:
        roles = shared.get(job.transformation_id, {})
        read = {*inputs.get(job.task_id, ()), *roles.values()}
        own = sorted((files[i] for i in read if i in files), key=lambda file: file.lfn)
        try:
            recipe = _recipe(ctx, job, own, roles)
            upload = _upload_to(pilot.site, storages.values())
        except Unavailable as error:
            fail(ctx, job.job_id, "Storing output data", error.message, None)
            continue
        except LightkeeperError as error:
            fail(ctx, job.job_id, "Preparing the job", error.message, None)
            continue
        orders.append(_order(ctx, job, recipe, own, sources, upload) | {"limits": _limits(ctx, job, pilot)})
    ctx.log.info("jobs claimed", jobs=[job.job_id for job in begun], pilot=pilot.name, site=pilot.site)
    return orders


def _order(
    ctx: Context,
    job: ClaimedJob,
    recipe: JobRecipe,
    files: Sequence[catalog.FileRow],
    sources: Mapping[int, Sequence[StorageElement]],
    upload: StorageElement,
) -> dict[str, Any]:
    """What a pilot is told of a job."""
    return {
        "job_id": job.job_id,
        "attempt": job.attempt,
        "task_id": job.task_id,
        "transformation": job.transformation,
        "cwl": recipe.cwl,
        "inputs": dict(recipe.inputs),
        "sandbox": dict(recipe.sandbox),
        "environment": dict(recipe.environment),
        "outputs": [output.name for output in recipe.outputs],
        "collected": list(recipe.collected),
        "container": recipe.container,
        "software": _software(ctx, recipe),
        "provenance_logs": list(recipe.provenance_logs),
        "input_files": [
            {
                "lfn": file.lfn,
                "size": file.size,
                "sha256": file.sha256,
                "sources": [_place(s.by(p)) for s in sources.get(file.file_id, []) for p in s.protocols if p.answers],
            }
            for file in files
        ],
        "upload": _place(upload) | {"directory": f"{JOBS}/{job.job_id}"},
    }


def _limits(ctx: Context, job: ClaimedJob, pilot: PilotRow) -> dict[str, float]:
    """What a job may use on its pilot."""
    says = ctx.settings
    default = Limits(
        wall_time=says.job_wall_time.total_seconds(),
        memory=says.job_memory_mb * MB,
        processes=says.job_processes,
        disk=says.job_disk_mb * MB,
        files=says.job_files,
        log=says.job_log_kb * 1024,
        grace=says.job_grace.total_seconds(),
    )
    needs, has = (megabytes and megabytes * MB for megabytes in (job.memory_mb, pilot.memory_mb))
    return asdict(limits_of(default, job.limits, needs=needs, has=has))


def _software(ctx: Context, recipe: JobRecipe) -> dict[str, str] | None:
    """Where the software of a job is, as far as that is declared."""
    declared = ctx.settings.software.get(recipe.needs)
    return asdict(parse_software(declared)) | {"name": recipe.needs} if declared is not None else None


def alive(ctx: Context, pilot: PilotRow, statuses: Mapping[int, str]) -> list[int]:
    """Note that a pilot and its jobs are alive; return the jobs it must stop because they are its no more."""
    with ctx.db.transaction() as conn:
        return jobs.alive(conn, pilot.pilot_id, statuses)


def finish(ctx: Context, pilot: PilotRow, job_id: int, report: Mapping[str, Any]) -> None:
    """The same for one job; raises Refused when it is not this pilot's."""
    if finish_all(ctx, pilot, {job_id: report}):
        raise Refused(f"job {job_id} is not this pilot's any more")


def finish_all(ctx: Context, pilot: PilotRow, reports: Mapping[int, Mapping[str, Any]]) -> list[int]:
    """A pilot has uploaded outputs of jobs: accept them. Once this has been noted the pilot is not needed any more.
    Returns the jobs that are not this pilot's; what it tells again, because an answer was lost, is done already.

    Each of `reports`: storage, outputs [{name, size, sha256, adler32}], provenance [text], log, used, bad_replicas as
    below.
    """
    kept = {
        job_id: {key: report.get(key) for key in ("storage", "outputs", "provenance", "environment")}
        for job_id, report in reports.items()
    }
    with ctx.db.transaction() as conn:
        taken = jobs.reported(conn, kept, pilot.pilot_id)
        _keep(ctx, conn, {job_id: reports[job_id] for job_id in taken})
        for job_id in taken:
            _suspect(ctx, conn, job_id, reports[job_id]["bad_replicas"])
        others = sorted(reports.keys() - set(taken))
        before = jobs.reported_before(conn, others, pilot.pilot_id) if others else []
    accept(ctx, *taken)
    return [job_id for job_id in others if job_id not in before]


def report_failure(ctx: Context, pilot: PilotRow, job_id: int, report: Mapping[str, Any]) -> None:
    """A pilot says that a job failed. `report`: minor_status, application_status, exit_code, log, used, and
    bad_replicas [{lfn, storage, why, silent}]: copies that did not read as the catalogue says, or gave no answer."""
    with ctx.db.transaction() as conn:
        if job_id not in jobs.jobs_on_pilots(conn, [pilot.pilot_id]):
            raise Refused(f"job {job_id} is not this pilot's any more")
        _keep(ctx, conn, {job_id: report})
        _suspect(ctx, conn, job_id, report["bad_replicas"])
    fail(ctx, job_id, report["minor_status"], report["application_status"], report.get("exit_code"))


def _keep(ctx: Context, conn: db.Connection, reports: Mapping[int, Mapping[str, Any]]) -> None:
    """What tools printed and used, as pilots tell."""
    most = ctx.settings.job_log_kb * 1024
    logs = {job_id: str(report.get("log", "")).replace("\0", "�") for job_id, report in reports.items()}
    jobs.put_logs(conn, {job_id: capped(log, most) for job_id, log in logs.items()})
    used = {job_id: Used(**report["used"]) for job_id, report in reports.items() if report.get("used")}
    if used:
        usage.put(conn, used)


def goodbye(ctx: Context, pilot: PilotRow) -> None:
    """A pilot ends in order."""
    with ctx.db.transaction() as conn:
        transitions.move(conn, [pilot.pilot_id], Pilot.RUNNING, Pilot.ENDED)


def _suspect(ctx: Context, conn: db.Connection, job_id: int, bad_replicas: Sequence[Mapping[str, Any]]) -> None:
    """Copies of the job's own inputs that its pilot could not read count no more until they are audited."""
    if not bad_replicas:
        return
    ids = {file.lfn: file.file_id for file in catalog.files_by_id(conn, jobs.inputs_of_job(conn, job_id))}
    storages = {s.name: s.storage_id for s in topology.storages(conn)}
    for bad in bad_replicas:
        if bad["lfn"] in ids and bad["storage"] in storages:
            told = FailedRead(ids[Lfn(bad["lfn"])], storages[bad["storage"]], f"job {job_id}", bad["why"])
            suspicion.failed(ctx, conn, told, wrong=not bad["silent"])
    transfers.unsettle(conn, list(ids.values()))


# --- accepting ---------------------------------------------------------------------------------------------------
def accept_reported(ctx: Context) -> int:
    """Finish the jobs that were reported while nobody was there to accept them; return how many."""
    with ctx.db.transaction() as conn:
        reported = jobs.completing_jobs(conn, older_than=timedelta(seconds=10))
    return sum(_is_accepted(ctx, job_id) for job_id in reported)


def _is_accepted(ctx: Context, job_id: int) -> bool:
    """Whether a reported job came to an end; what nobody foresaw fails that job alone."""
    try:
        return accept(ctx, job_id) == 1
    except Exception as error:  # a report that the database refuses would otherwise hold up every later one
        ctx.log.error("accepting failed", job=job_id, exc_info=error)
        told = f"{type(error).__name__}: {printable(str(error))}"
        _fail_from(ctx, job_id, Job.COMPLETING, "Accepting output data", told, None)
        return True


@dataclass(frozen=True, slots=True)
class _Ready:
    """A job whose outputs were read back and are what they should be."""

    job: CompletingJob
    recipe: JobRecipe
    fixities: Mapping[str, Fixity]
    activities: Sequence[RanActivity]
    element: StorageElement
    input_ids: Mapping[Lfn, int]


def accept(ctx: Context, *job_ids: int) -> int:
    """Verify, promote and register outputs of reported jobs, or fail them with the reason. Returns how many ended:
    where a storage does not answer it is tried again."""
    with ctx.db.transaction() as conn:
        found = jobs.completing(conn, job_ids)
        shared = companions.of_transformations(conn, [job.transformation_id for job in found])
        inputs = jobs.inputs_of_tasks(conn, [job.task_id for job in found])
        read = [*inputs.values(), *(roles.values() for roles in shared.values())]
        files = {f.file_id: f for f in catalog.files_by_id(conn, sorted({i for ids in read for i in ids}))}
        storages = {s.name: s for s in topology.storages(conn)} if found else {}
    ended = len(job_ids) - len(found)
    ready: dict[int, list[_Ready]] = {}
    for job in found:
        roles = shared.get(job.transformation_id, {})
        ids = dict.fromkeys([*inputs.get(job.task_id, ()), *roles.values()])
        own = sorted((files[i] for i in ids), key=lambda file: file.lfn)
        if (one := _attempt(ctx, [job.job_id], lambda: _read_back(ctx, job, own, roles, storages))) is None:  # noqa: B023
            continue
        if isinstance(one, _Ready):
            ready.setdefault(job.transformation_id, []).append(one)
        else:
            ended += 1
    return ended + sum(_end(ctx, together) for together in ready.values())


def _end(ctx: Context, together: Sequence[_Ready]) -> int:
    """Register outputs of jobs of one transformation in one transaction; when that cannot be, each by itself. How many
    ended."""
    ids = [one.job.job_id for one in together]
    if len(together) > 1:
        try:
            if _register(ctx, together):
                return len(together)
        except LightkeeperError as error:
            ctx.log.info("accepted one by one", jobs=ids, why=error.message)
        return sum(_end(ctx, [one]) for one in together)
    return int(_attempt(ctx, ids, lambda: _register(ctx, together)) is not None)


T = TypeVar("T")


def _attempt(ctx: Context, job_ids: Sequence[int], do: Callable[[], T]) -> T | bool | None:
    """What `do` returns; True when it failed the job, None when a storage does not answer."""
    (job_id,) = job_ids
    try:
        return do()
    except Unavailable as error:
        ctx.log.warning("job not accepted yet", job=job_id, why=error.message)
        return None
    except LightkeeperError as error:
        _fail_from(ctx, job_id, Job.COMPLETING, "Accepting output data", error.message, None)
        return True


def _read_back(
    ctx: Context,
    job: CompletingJob,
    files: Sequence[catalog.FileRow],
    roles: Mapping[str, int],
    storages: Mapping[str, StorageElement],
) -> _Ready:
    recipe = _recipe(ctx, job, files, roles)
    element = _storage_named(str(job.report["storage"]), storages)
    expected = _expected(ctx, job, recipe, files, roles)
    outputs = _verified(ctx, ctx.storage(element), job, expected)
    activities = [a for log in job.report["provenance"] for a in ctx.job_type(job.job_type).activities(log)]
    input_ids = {file.lfn: file.file_id for file in files}
    return _Ready(job, replace(recipe, outputs=expected), outputs, activities, element, input_ids)


def _expected(
    ctx: Context, job: CompletingJob, recipe: JobRecipe, files: Sequence[catalog.FileRow], roles: Mapping[str, int]
) -> tuple[ExpectedOutput, ...]:
    """The outputs that were known before, and those that only the run named."""
    if not recipe.collected:
        return recipe.outputs
    found = [FoundOutput(o["parameter"], o["name"]) for o in job.report["outputs"] if o.get("parameter")]
    if wrong := {output.parameter for output in found} - set(recipe.collected):
        raise Invalid(f"the job has no output '{printable(min(wrong))}'")
    collecting = cast("CollectingJobType", ctx.job_type(job.job_type))
    more = collecting.collect(_job_order(job, files, roles), found, [str(log) for log in job.report["provenance"]])
    return (*recipe.outputs, *more)


def _verified(
    ctx: Context, storage: Storage, job: CompletingJob, expected: Sequence[ExpectedOutput]
) -> dict[str, Fixity]:
    """Read every output back, once, and compare it with what the pilot reported; what is for the archive must also be
    right for its reader."""
    kinds = admit.kinds(ctx, [output.lfn for output in expected])
    reported = {o["name"]: Fixity(o["size"], o["sha256"], o["adler32"]) for o in job.report["outputs"]}
    for output in expected:
        if output.name not in reported:
            raise NotFound(f"the job did not make {output.name}")
        path = _temporary(job.job_id, output)
        try:
            found, product = admit.examine(ctx.product_readers, storage, path, output.lfn)
        except NotFound:  # promoted before a crash of whoever was accepting
            found, product = admit.examine(ctx.product_readers, storage, output.lfn, output.lfn)
        if found != reported[output.name]:
            raise Corrupt(
                f"{output.name} is not what the pilot uploaded: {found.size} bytes, sha256 {found.sha256[:12]}…"
            )
        admit.admit(product, kinds[output.lfn], {})
    return reported


def _register(ctx: Context, together: Sequence[_Ready]) -> bool:
    """Promote and register outputs of jobs of one transformation. False when one of them is no longer Completing:
    somebody else has ended it."""
    with ctx.db.transaction() as conn:
        vocabulary = topology.vocabulary(conn)
    files = [
        NewFile(o.lfn, one.fixities[o.name], o.meta, one.element.storage_id)
        for one in together
        for o in one.recipe.outputs
    ]
    lfns = [file.lfn for file in files]
    if len(set(lfns)) < len(lfns):
        raise Conflict("two jobs, or two outputs of one, have the same name")
    batch = catalog.Batch(files, vocabulary)
    with ctx.db.transaction() as conn:
        names = catalog.name(conn, batch)
    with ctx.db.transaction() as conn:
        current = jobs.completing(conn, [one.job.job_id for one in together])
        if len(current) < len(together):
            return False
        promotion.hold_names(conn, lfns)
        taken = catalog.names_taken(conn, lfns)
        if taken:
            raise Conflict(f"{min(taken)} is registered already: another task made a file of this name")
        made_by: dict[Lfn, int] = {}
        for one in together:
            made_by |= _record_activities(ctx, conn, one.job, one.recipe, one.activities, one.input_ids)
            storage = ctx.storage(one.element)
            for output in one.recipe.outputs:
                temporary = _temporary(one.job.job_id, output)
                if storage.stat(temporary) is not None:
                    storage.rename(temporary, output.lfn)
        if files:
            catalog.register(conn, batch, names, made_by, produced_by=together[0].job.transformation_id)
        jobs.accepted(conn, current)
    ctx.log.info("jobs done", jobs=[one.job.job_id for one in together], outputs=len(files))
    return True


def _record_activities(
    ctx: Context,
    conn: db.Connection,
    job: CompletingJob,
    recipe: JobRecipe,
    activities: Sequence[RanActivity],
    input_ids: Mapping[Lfn, int],
) -> dict[Lfn, int]:
    """One activity for each run that made an output, as its own log tells; returns activity ids by output."""
    made_by: dict[Lfn, int] = {}
    ran_in: dict[str, str] = job.report.get("environment") or {}
    declared = {"environment": ran_in["declared"]} if "declared" in ran_in else {}
    agent = f"job {job.job_id}, attempt {job.attempt} of task {job.task_id}, at {job.site}"
    for activity in activities:
        outputs = [o for o in recipe.outputs if o.name in activity.generated]
        if not outputs:
            continue
        activity_id = provenance.add_activity(
            conn,
            name=activity.name,
            agent=agent,
            software=dict(islice(activity.software.items(), 2)) | declared | {"lightkeeper": __version__},
            started=activity.started,
            ended=activity.ended,
            uuid=activity.uuid,
            job_id=job.job_id,
            environment=dict(activity.software) | ran_in,
            configuration=activity.configuration,
            used=[input_ids[lfn] for output in outputs for lfn in output.sources],
        )
        made_by |= {output.lfn: activity_id for output in outputs}
    for output in recipe.outputs:
        if output.lfn not in made_by:
            if recipe.provenance_logs:
                ctx.log.warning("no provenance log tells of an output", job=job.job_id, output=output.name)
            made_by[output.lfn] = provenance.add_activity(
                conn,
                name=job.job_type,
                agent=agent,
                software=dict(recipe.software) | declared | {"lightkeeper": __version__},
                job_id=job.job_id,
                environment=ran_in,
                configuration=recipe.inputs,
                used=[input_ids[lfn] for lfn in output.sources],
            )
    return made_by


# --- failing -----------------------------------------------------------------------------------------------------
def fail(ctx: Context, job_id: int, minor: str, application: str, exit_code: int | None) -> None:
    """End a Running job as Failed; its task is tried again while attempts are left."""
    _fail_from(ctx, job_id, Job.RUNNING, minor, application, exit_code)


def _fail_from(ctx: Context, job_id: int, source: Job, minor: str, application: str, exit_code: int | None) -> None:
    with ctx.db.transaction() as conn:
        keeper = healing.keeper(conn)
        again, over = jobs.failed(
            conn, [job_id], source, minor, application, exit_code, ctx.settings.retry_after, keeper
        )
        why = f"{minor}: {application}" if application else minor
        transitions.remedied(conn, "task", again, "the task gets another attempt", why)
    ctx.log.warning("job failed", job=job_id, why=application or minor, exit_code=exit_code, again=again, given_up=over)


# --- pilots ------------------------------------------------------------------------------------------------------
def keep_pilots(ctx: Context, api_url: str) -> int:
    """Start pilots at the sites where jobs wait that they can run; return how many."""
    with ctx.db.transaction() as conn:
        sites, lanes = jobs.computing(conn), jobs.lanes(conn)
    started = 0
    for site in sites:
        waiting = sum(lane.waiting for lane in lanes if suits(lane, site.offer))
        for _ in range(min(site.pilots - site.live, waiting)):
            if not _start_pilot(ctx, site, api_url):
                break  # the executor will refuse the others too; it is asked again in a while
            started += 1
    return started


def _start_pilot(ctx: Context, site: jobs.Computing, api_url: str) -> bool:
    """Start a pilot; whether the executor took it. The pilot is in the database before it exists: one whose start was
    not recorded is found and given up."""
    secret, name = secrets.token_urlsafe(32), f"{site.name}-{secrets.token_hex(4)}"
    with ctx.db.transaction() as conn:
        pilot_id = jobs.add_pilot(conn, site.site_id, name, site.executor, _digest(secret))
    order = PilotOrder(name, site.name, api_url, secret, ctx.settings.home / "pilots" / name)
    try:
        handle = ctx.executors[site.executor].start(order)
    except LightkeeperError as error:
        with ctx.db.transaction() as conn:
            transitions.move(conn, [pilot_id], Pilot.SUBMITTED, Pilot.LOST, error.message)
        ctx.log.warning("pilot not started", site=site.name, why=error.message)
        return False
    with ctx.db.transaction() as conn:
        jobs.pilot_started(conn, pilot_id, handle)
    ctx.log.info("pilot started", pilot=name, site=site.name, handle=handle)
    return True


# --- helpers -----------------------------------------------------------------------------------------------------
def _recipe(
    ctx: Context, job: ClaimedJob | CompletingJob, files: Sequence[catalog.FileRow], roles: Mapping[str, int]
) -> JobRecipe:
    return ctx.job_type(job.job_type).recipe(_job_order(job, files, roles))


def _job_order(job: ClaimedJob | CompletingJob, files: Sequence[catalog.FileRow], roles: Mapping[str, int]) -> JobOrder:
    given = {file.file_id: JobInput(file.lfn, file.meta) for file in files}
    shared = {role: given[file_id] for role, file_id in roles.items()}
    own = tuple(given[file.file_id] for file in files if file.file_id not in roles.values())
    return JobOrder(job.transformation_id, job.task_id, job.job_id, job.body, own, shared, job.number)


def _upload_to(site: str, storages: Iterable[StorageElement]) -> StorageElement:
    """Where a pilot at `site` leaves its outputs: the site's own disk, else any data centre's; one in good health
    before the others."""
    disks = [s for s in storages if not s.refuses(0) and s.media is Media.DISK and s.site_kind is SiteKind.DATA_CENTRE]
    if not disks:
        raise Unavailable("no data centre has a disk storage that takes new files", hint="lightkeeper storage list")
    return min(disks, key=lambda s: (s.health is not Health.GOOD, s.site != site, s.storage_id))


def _storage_named(name: str, storages: Mapping[str, StorageElement]) -> StorageElement:
    if name not in storages or storages[name].site_kind is not SiteKind.DATA_CENTRE:
        raise NotFound(f"the pilot uploaded to '{name}', which is no storage of a data centre")
    return storages[name]


def _place(element: StorageElement) -> dict[str, str]:
    return {"storage": element.name, "driver": element.driver, "root": element.root}


def _temporary(job_id: int, output: ExpectedOutput) -> str:
    return f"{JOBS}/{job_id}/{output.name}"


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
