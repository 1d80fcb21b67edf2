"""Steps 4 to 6: a production's files become tasks, each file once; a task accepts one attempt, whatever dies."""

import json
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import NoPilots, World

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.errors import Conflict, Invalid, Refused, Unavailable
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.steps import heal, produce, productions, report, run, transform
from lightkeeper.store import jobs, reports
from lightkeeper.store.reports import TransformationSummary


def submit(world: World, *steps: dict[str, Any], name: str = "p", open_: bool = False) -> None:
    produce.submit(world.ctx, name, json.dumps({"steps": steps}), {}, open_=open_)


def transformation(world: World, step: int = 1) -> TransformationSummary:
    with world.ctx.db.transaction() as conn:
        return next(t for t in reports.transformations(conn) if t.step == step)


def tasks(world: World) -> list[set[int]]:
    with world.ctx.db.transaction() as conn:
        rows = conn.execute("SELECT array_agg(file_id) FROM task_input GROUP BY task_id ORDER BY task_id").fetchall()
    return [set(row[0]) for row in rows]


@dataclass
class Hands:
    """A pilot whose work is done by the test."""

    world: World
    pilot: jobs.PilotRow

    @classmethod
    def at(cls, world: World, site: str, name: str = "hands") -> "Hands":
        secret = f"secret of {name}"
        with world.ctx.db.transaction() as conn:
            (site_id,) = conn.execute("SELECT site_id FROM site WHERE name = %s", (site,)).fetchone() or (0,)
            pilot_id = jobs.add_pilot(conn, site_id, name, "none", run._digest(secret))
            jobs.pilot_started(conn, pilot_id, name)
        return cls(world, run.greet(world.ctx, secret))

    def claim(self) -> dict[str, Any] | None:
        return next(iter(run.claim(self.world.ctx, self.pilot)), None)

    def upload(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do the job's work and return the report."""
        place = job["upload"]
        content = f"made by task {job['task_id']}".encode()
        (name,) = job["outputs"]
        PosixStorage(place["storage"], place["root"]).write(f"{place['directory']}/{name}", [content])
        fixity = fixity_of([content])
        made = {"name": name, "size": fixity.size, "sha256": fixity.sha256, "adler32": fixity.adler32}
        return {"storage": place["storage"], "outputs": [made], "provenance": [], "log": "done", "bad_replicas": []}

    def finish(self, job: dict[str, Any]) -> None:
        run.finish(self.world.ctx, self.pilot, job["job_id"], self.upload(job))

    def fail(self, job: dict[str, Any], why: str = "exit code 1: broken") -> None:
        told = {"minor_status": "Application Finished With Errors", "application_status": why, "exit_code": 1}
        run.report_failure(self.world.ctx, self.pilot, job["job_id"], told | {"log": why, "bad_replicas": []})


def go_on(world: World) -> None:
    """What the worker does between jobs."""
    transform.make_tasks(world.ctx)
    while heal.look_after_work(world.ctx):
        transform.make_tasks(world.ctx)
    transform.submit_jobs(world.ctx)


def do_all(world: World, hands: Hands) -> int:
    """Claim and finish until nothing waits and everything is settled; return the number of jobs."""
    done = 0
    while True:
        go_on(world)
        job = hands.claim()
        if job is None:
            world.settle()
            go_on(world)
            if world.value("SELECT count(*) FROM job_queue") == 0:
                return done
            continue
        hands.finish(job)
        done += 1


# --- limits ----------------------------------------------------------------------------------------------------
def test_a_job_is_told_what_it_may_use_and_the_figures_of_a_failed_one_are_kept(world: World):
    world.register("/test/raw/n1.plain")
    limits = {"memory": 20_000_000_000, "wall_time": 60}
    submit(world, {"query": {"level": 0}, "group_size": 1, "limits": limits})
    world.value("UPDATE site SET memory_mb = 16000 WHERE name = 'North'")
    hands = Hands.at(world, "North")
    go_on(world)
    job = hands.claim()
    assert job
    assert (job["limits"]["memory"], job["limits"]["wall_time"]) == (16_000_000_000, 60)
    assert job["limits"]["processes"] == world.ctx.settings.job_processes
    used = {"cpu_seconds": 2.5, "wall_seconds": 61.25, "memory": 3_000_000_000, "disk": 7}
    told = {"minor_status": "Wall time limit exceeded", "application_status": "it ran for 61 seconds", "exit_code": -15}
    run.report_failure(world.ctx, hands.pilot, job["job_id"], told | {"log": "", "bad_replicas": [], "used": used})
    with world.ctx.db.transaction() as conn:
        (line,) = reports.jobs(conn)
    assert (line.cpu_seconds, line.wall_seconds, line.memory, line.disk) == (2.5, 61.25, 3_000_000_000, 7)
    assert world.value("SELECT reassigned FROM task") == 1, "it counts as a failure of the work"


# --- grouping --------------------------------------------------------------------------------------------------
@pytest.mark.feature("S1-017", "S1-039", "S0-048")
def test_120_files_in_groups_of_50_are_two_tasks_and_the_last_20_come_at_the_flush(world: World):
    world.register(*(f"/test/raw/n{n}.plain" for n in range(120)))
    submit(world, {"query": {"level": 0}, "group_size": 50}, open_=True)
    transform.make_tasks(world.ctx)
    assert [len(task) for task in tasks(world)] == [50, 50]
    assert transformation(world).unused == 20
    with world.ctx.db.transaction() as conn:
        conn.execute("UPDATE transformation SET open = false")
    go_on(world)
    assert sorted(len(task) for task in tasks(world)) == [20, 50, 50]
    assert transformation(world).flushes == 1


def test_tasks_never_mix_values_of_the_keys_they_are_grouped_by(world: World):
    for kind in ("muon", "shower"):
        world.register(*(f"/test/raw/{kind}{n}.plain" for n in range(5)), kind=kind)
    submit(world, {"query": {"level": 0}, "group_size": 3, "group_by": "kind"})
    go_on(world)
    mixed = world.value(
        "SELECT count(*) FROM (SELECT task_id FROM task_input JOIN file USING (file_id) JOIN meta_set USING (set_id)"
        " GROUP BY task_id HAVING count(DISTINCT meta ->> 'kind') > 1) m"
    )
    assert mixed == 0
    assert sorted(len(task) for task in tasks(world)) == [2, 2, 3, 3]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.integers(1, 7), min_size=1, max_size=4), group_size=st.integers(1, 6), by_kind=st.booleans())
def test_every_file_is_in_exactly_one_task_however_it_comes(
    world: World, batches: list[int], group_size: int, by_kind: bool
):
    with world.ctx.db.transaction() as conn:
        number = conn.execute("SELECT count(*) FROM production").fetchone()
    assert number
    name, night = f"p{number[0]}", f"night {number[0]}"
    world.register(f"/test/{name}/first.plain", night=night)
    step: dict[str, Any] = {"query": {"night": night}, "group_size": group_size}
    submit(world, step | ({"group_by": "kind"} if by_kind else {}), name=name, open_=True)
    for batch, size in enumerate(batches):
        names = [f"/test/{name}/b{batch}n{n}.plain" for n in range(size)]
        world.register(*names, night=night, kind="even" if batch % 2 else "odd")
        transform.make_tasks(world.ctx)
    world.value("UPDATE transformation SET open = false RETURNING 1")
    go_on(world)
    with world.ctx.db.transaction() as conn:
        mine = conn.execute(
            "SELECT task_id, array_agg(file_id) FROM task_input JOIN file USING (file_id) JOIN meta_set USING (set_id)"
            " WHERE meta ->> 'night' = %s GROUP BY task_id",
            (night,),
        ).fetchall()
    taken = [file_id for _, files in mine for file_id in files]
    assert len(taken) == len(set(taken)) == 1 + sum(batches)
    assert all(len(files) <= group_size for _, files in mine)


def test_a_file_waits_for_its_task_until_a_data_centre_has_a_verified_copy(world: World):
    world.deliver("/test/raw/n1.plain")
    world.ingest()
    submit(world, {"query": {"level": 0}, "group_size": 1})
    go_on(world)
    assert tasks(world) == []
    assert "1 file waits for a verified copy" in report.transformation(world.ctx, 1).waits_for
    world.settle()
    go_on(world)
    assert len(tasks(world)) == 1


def test_files_that_come_later_are_taken_only_when_asked(world: World):
    world.register("/test/raw/n1.plain")
    submit(world, {"query": {"level": 0}, "group_size": 1}, name="closed")
    submit(world, {"query": {"level": 0}, "group_size": 1}, name="opened", open_=True)
    world.register("/test/raw/n2.plain")
    transform.make_tasks(world.ctx)
    with world.ctx.db.transaction() as conn:
        files = {t.production: t.files for t in reports.transformations(conn)}
    assert files == {"closed": 1, "opened": 2}


# --- productions -----------------------------------------------------------------------------------------------
@pytest.mark.feature("S0-007", "S0-045", "S0-049", "S1-018", "S1-038")
def test_a_production_of_two_steps_ends_on_its_own(world: World):
    world.register(*(f"/test/raw/n{n}.plain" for n in range(5)))
    submit(world, {"query": {"level": 0}, "group_size": 2}, {"query": {"level": 1}, "group_size": 2, "parent": 1})
    assert do_all(world, Hands.at(world, "North")) == 3 + 2
    assert [str(transformation(world, step).status) for step in (1, 2)] == ["Completed", "Completed"]
    assert world.value("SELECT state::text FROM production") == "Completed"


@pytest.mark.feature("S1-038")
def test_a_child_takes_only_what_its_parent_made(world: World):
    world.register("/test/raw/n1.plain")
    world.register("/test/old/level1.plain", level=1)
    submit(world, {"query": {"level": 0}, "group_size": 1}, {"query": {"level": 1}, "group_size": 9, "parent": 1})
    do_all(world, Hands.at(world, "North"))
    assert transformation(world, 2).files == 1


def test_two_productions_with_the_same_metadata_do_not_take_each_others_files(world: World):
    world.register("/test/raw/n1.plain")
    steps = [{"query": {"level": 0}, "group_size": 1}, {"query": {"level": 1}, "group_size": 9, "parent": 1}]
    submit(world, *steps, name="one")
    submit(world, *steps, name="two")
    do_all(world, Hands.at(world, "North"))
    with world.ctx.db.transaction() as conn:
        assert [t.files for t in reports.transformations(conn)] == [1, 1, 1, 1]


def test_submitting_the_same_twice_is_submitting_once(world: World):
    world.register("/test/raw/n1.plain")
    for _ in range(2):
        submit(world, {"query": {"level": 0}, "group_size": 1})
    assert world.value("SELECT count(*) FROM transformation") == 1
    with pytest.raises(Conflict, match="another document"):
        submit(world, {"query": {"level": 0}, "group_size": 2})


def test_a_production_without_any_input_is_refused_and_leaves_nothing_behind(world: World):
    with pytest.raises(Invalid, match="no registered file matches"):
        submit(world, {"query": {"level": 0}, "group_size": 1})
    assert world.value("SELECT count(*) FROM production") == 0


def test_ten_and_more_steps_keep_their_order(world: World):
    world.register("/test/raw/n1.plain")
    steps = [{"query": {"level": n}, "group_size": 1} | ({"parent": n} if n else {}) for n in range(12)]
    submit(world, *steps)
    assert do_all(world, Hands.at(world, "North")) == 12
    assert world.value("SELECT count(*) FROM transformation WHERE state = 'Completed'") == 12


# --- jobs ------------------------------------------------------------------------------------------------------
def one_task(world: World) -> Hands:
    world.register("/test/raw/n1.plain")
    submit(world, {"query": {"level": 0}, "group_size": 1})
    go_on(world)
    return Hands.at(world, "North")


def test_the_outputs_of_a_job_are_registered_with_metadata_replica_and_provenance_at_once(world: World):
    hands = one_task(world)
    job = hands.claim()
    assert job
    assert world.value("SELECT count(*) FROM file") == 1, "nothing half-done is visible"
    hands.finish(job)
    story = report.why_file(world.ctx, f"/test/products/1/{job['outputs'][0]}")
    assert story.file.meta["level"] == 1
    assert [r.storage for r in story.replicas] == ["north"]
    assert [(s.lfn, s.depth) for s in story.made_from][1:] == [("/test/raw/n1.plain", 1)]
    assert not list((world.root / "north/.lightkeeper/jobs").rglob("*.joined"))


@pytest.mark.feature("S1-046", "S1-048", "S1-056")
def test_a_failed_job_is_tried_again_and_after_the_last_attempt_a_person_is_told(world: World):
    hands = one_task(world)
    for attempt in (1, 2, 3, 4):
        job = hands.claim()
        assert job
        assert job["attempt"] == attempt
        hands.fail(job)
        go_on(world)
    assert hands.claim() is None
    assert transformation(world).problematic == 1
    assert "1 of 1 tasks failed in every attempt" in report.transformation(world.ctx, 1).waits_for
    assert world.value("SELECT count(*) FROM remedy WHERE kind = 'task'") == 3
    assert produce.retry(world.ctx, 1) == 1, "he found the reason, and asks for one more"
    do_all(world, hands)
    assert str(transformation(world).status) == "Completed"


def test_no_attempt_is_wasted_while_the_only_copies_of_an_input_are_read_again(world: World):
    one_task(world)
    world.value("DELETE FROM job_queue")
    world.value("DELETE FROM job")
    world.value("DELETE FROM transformation_count WHERE queued <> 0")
    world.value("UPDATE replica SET state = 'Suspect'")
    go_on(world)
    assert world.value("SELECT count(*) FROM job_queue") == 0
    world.value("UPDATE replica SET state = 'Available'")
    go_on(world)
    assert world.value("SELECT count(*) FROM job_queue") == 1


def test_a_lost_pilot_gives_its_job_to_another_and_may_not_come_back(world: World):
    first = one_task(world)
    job = first.claim()
    assert job
    world.value("UPDATE pilot SET seen = now() - interval '1 hour' RETURNING 1")
    heal.release_abandoned(world.ctx)
    go_on(world)
    second = Hands.at(world, "East", "second")
    again = second.claim()
    assert again
    assert (again["task_id"], again["attempt"]) == (job["task_id"], 2)
    with pytest.raises(Refused, match="not this pilot's any more"):
        first.finish(job)
    second.finish(again)
    assert world.value("SELECT count(*) FROM file") == 2
    assert world.value("SELECT count(*) FROM job WHERE state = 'Done'") == 1
    with pytest.raises(Refused):
        run.greet(world.ctx, "secret of hands")


def test_a_report_that_was_noted_is_finished_without_the_pilot(world: World, monkeypatch: pytest.MonkeyPatch):
    hands = one_task(world)
    job = hands.claim()
    assert job
    with monkeypatch.context() as patch:
        patch.setattr(run, "accept", lambda *_: None)
        hands.finish(job)
    assert world.value("SELECT state::text FROM job") == "Completing"
    world.value("UPDATE job SET state_since = now() - interval '1 minute' RETURNING 1")
    assert run.accept_reported(world.ctx) == 1
    assert world.value("SELECT state::text FROM job") == "Done"


def test_a_crash_between_promotion_and_commit_is_finished_later(world: World, monkeypatch: pytest.MonkeyPatch):
    hands = one_task(world)
    job = hands.claim()
    assert job

    class Crash(Exception):
        pass

    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(run.catalog, "register", crash)
        with pytest.raises(Crash):
            hands.finish(job)
    assert world.value("SELECT count(*) FROM file") == 1
    run.accept(world.ctx, job["job_id"])
    assert world.value("SELECT state::text FROM job") == "Done"
    assert world.value("SELECT count(*) FROM file") == 2


def test_outputs_that_are_not_what_the_pilot_reported_are_refused_and_made_again(world: World):
    hands = one_task(world)
    job = hands.claim()
    assert job
    told = hands.upload(job)
    place = job["upload"]
    PosixStorage(place["storage"], place["root"]).write(f"{place['directory']}/{job['outputs'][0]}", [b"rotten"])
    run.finish(world.ctx, hands.pilot, job["job_id"], told)
    assert world.value("SELECT count(*) FROM file") == 1
    assert "is not what the pilot uploaded" in world.value("SELECT application_status FROM job")
    go_on(world)
    again = hands.claim()
    assert again
    hands.finish(again)
    assert world.value("SELECT count(*) FROM file") == 2


def test_an_input_that_does_not_read_as_it_should_counts_no_more(world: World):
    hands = one_task(world)
    world.settle()
    job = hands.claim()
    assert job
    bad = [{"lfn": "/test/raw/n1.plain", "storage": "north", "why": "reads as something else", "silent": False}]
    run.finish(world.ctx, hands.pilot, job["job_id"], hands.upload(job) | {"bad_replicas": bad})
    assert world.copies("/test/raw/n1.plain")["north"] == "Suspect"
    world.settle()
    assert sorted(world.copies("/test/raw/n1.plain").values()) == ["Available", "Available", "Suspect"]


def test_a_job_goes_to_the_site_that_holds_its_input_but_an_idle_pilot_elsewhere_takes_it_too(world: World):
    world.register("/test/raw/n.plain", storage="north")
    world.register("/test/raw/e.plain", storage="east")
    submit(world, {"query": {"level": 0}, "group_size": 1})
    go_on(world)
    north, east = Hands.at(world, "North", "n"), Hands.at(world, "East", "e")
    first, second = east.claim(), east.claim()
    assert first
    assert second
    assert [f["lfn"] for f in first["input_files"]] == ["/test/raw/e.plain"]
    assert [f["lfn"] for f in second["input_files"]] == ["/test/raw/n.plain"]
    assert north.claim() is None
    east.finish(first)
    east.finish(second)


def test_a_pilot_is_told_which_of_its_jobs_are_its_no_more(world: World):
    hands = one_task(world)
    job = hands.claim()
    assert job
    assert run.alive(world.ctx, hands.pilot, {job["job_id"]: "Executing Payload"}) == []
    assert world.value("SELECT minor_status FROM job") == "Executing Payload"
    world.value("UPDATE job_alive SET seen = now() - interval '1 hour' RETURNING 1")
    heal.release_abandoned(world.ctx)
    assert run.alive(world.ctx, hands.pilot, {job["job_id"]: "Executing Payload"}) == [job["job_id"]]
    go_on(world)


def test_two_claims_never_get_the_same_job(world: World):
    world.register(*(f"/test/raw/n{n}.plain" for n in range(20)))
    submit(world, {"query": {"level": 0}, "group_size": 1})
    go_on(world)
    north, east = Hands.at(world, "North", "n"), Hands.at(world, "East", "e")
    claimed = [(hands, job) for _ in range(10) for hands in (north, east) if (job := hands.claim())]
    assert len({job["job_id"] for _, job in claimed}) == 20
    for hands, job in claimed:
        hands.finish(job)


def test_pilots_are_started_where_jobs_wait_and_no_more_than_may_run(world: World):
    world.register(*(f"/test/raw/n{n}.plain" for n in range(9)))
    submit(world, {"query": {"level": 0}, "group_size": 1})
    go_on(world)
    assert run.keep_pilots(world.ctx, "http://nowhere") == 4
    assert run.keep_pilots(world.ctx, "http://nowhere") == 0
    assert world.value("SELECT count(*) FROM pilot WHERE state = 'Submitted'") == 4


def test_a_pilot_whose_start_was_not_recorded_is_given_up(world: World):
    Hands.at(world, "North")
    world.value("UPDATE pilot SET handle = NULL, seen = now() - interval '2 minutes' RETURNING 1")
    heal.release_abandoned(world.ctx)
    assert world.value("SELECT state::text FROM pilot") == "Lost"


def test_leases_and_ages_are_those_of_the_database_clock(world: World):
    hands = one_task(world)
    job = hands.claim()
    assert job
    with world.ctx.db.transaction() as conn:
        assert jobs.silent_jobs(conn, timedelta(seconds=30)) == []
    hands.finish(job)


def test_what_rests_too_long_in_a_passing_state_is_told(world: World):
    hands = one_task(world)
    with world.ctx.db.transaction() as conn:
        assert reports.overdue(conn) == []
    assert hands.claim()
    world.value("UPDATE job SET state = 'Completing', state_since = now() - interval '3 hours'")
    with world.ctx.db.transaction() as conn:
        (late,) = reports.overdue(conn)
    assert (late.kind, late.state, late.rows) == ("job", "Completing", 1)
    assert late.longest >= timedelta(hours=3)


def test_an_open_production_ends_when_it_is_closed(world: World):
    world.register("/test/raw/n1.plain")
    submit(world, {"query": {"level": 0}, "group_size": 5}, open_=True)
    go_on(world)
    assert "until it is closed" in report.transformation(world.ctx, 1).waits_for
    assert productions.close(world.ctx, "p") == 1
    do_all(world, Hands.at(world, "North"))
    assert world.value("SELECT state::text FROM production") == "Completed"


def test_a_report_that_cannot_be_accepted_fails_its_own_job_and_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    world.register("/test/raw/n1.plain", "/test/raw/n2.plain")
    submit(world, {"query": {"level": 0}, "group_size": 1})
    go_on(world)
    hands = Hands.at(world, "North")
    first, second = hands.claim(), hands.claim()
    assert first
    assert second
    with monkeypatch.context() as patch:
        patch.setattr(run, "accept", lambda *_: True)
        hands.finish(first)
        hands.finish(second)
    world.value("UPDATE job SET state_since = now() - interval '1 minute' WHERE state = 'Completing'")
    whole = run.accept

    def accept(ctx: Any, job_id: int) -> bool:
        if job_id == first["job_id"]:
            raise KeyError("what nobody foresaw")
        return whole(ctx, job_id)

    monkeypatch.setattr(run, "accept", accept)
    assert run.accept_reported(world.ctx) == 2
    assert world.value("SELECT state::text FROM job WHERE job_id = %s", second["job_id"]) == "Done"
    assert "KeyError" in world.value("SELECT application_status FROM job WHERE job_id = %s", first["job_id"])


def test_an_executor_that_refuses_is_not_asked_again_at_once(world: World):
    class Refusing(NoPilots):
        def start(self, order: object) -> str:
            raise Unavailable("the batch system is down")

    world.register(*(f"/test/raw/n{n}.plain" for n in range(9)))
    submit(world, {"query": {"level": 0}, "group_size": 1})
    go_on(world)
    assert run.keep_pilots(world.having(executors={"none": Refusing()}).ctx, "http://nowhere") == 0
    assert world.value("SELECT count(*) FROM pilot") == 2, "one try at each of the two sites"


def test_a_lost_input_does_not_hold_the_others_and_a_person_is_told(world: World):
    world.register("/test/raw/n1.plain", "/test/raw/n2.plain", "/test/raw/n3.plain")
    world.settle()
    submit(world, {"query": {"level": 0}, "group_size": 5})
    gone = "UPDATE replica SET state = 'Lost' WHERE file_id = (SELECT min(file_id) FROM file)"
    world.value(gone)
    do_all(world, Hands.at(world, "North"))
    assert transformation(world).processed == 2
    assert "1 of its input files has no copy left" in report.transformation(world.ctx, 1).waits_for
    world.value("UPDATE replica SET state = 'Available' WHERE state = 'Lost'")
    do_all(world, Hands.at(world, "North", "again"))


def test_what_failed_attempts_left_behind_is_removed_after_an_hour_and_nothing_else(world: World):
    world.register("/test/raw/n1.plain", "/test/raw/n2.plain")
    submit(world, {"query": {"level": 0}, "group_size": 1})
    go_on(world)
    hands = Hands.at(world, "North")
    failed, running = hands.claim(), hands.claim()
    assert failed
    assert running
    hands.upload(failed)
    hands.upload(running)
    hands.fail(failed)
    north = PosixStorage("north", world.root / "north")
    north.write("/.lightkeeper/arrivals/99.1", [b"of a worker that died"])

    def left() -> set[str]:
        return {e.path for area in ("jobs", "arrivals") for e in north.list(f"/.lightkeeper/{area}")}

    heal.clear_temporaries(world.ctx)
    assert len(left()) == 3, "nothing is old enough"
    for path in left():
        os.utime(north.local_path(path), (0, 0))
    heal.clear_temporaries(world.ctx)
    assert left() == {f"/.lightkeeper/jobs/{running['job_id']}/{running['outputs'][0]}"}
    hands.finish(running)
    go_on(world)
    do_all(world, hands)
