"""Tape: copies count once they are on tape, and are read once they were staged; on the shipped tape server."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from tests.conftest import World

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.adapters.storage_tape_rest import TapeRestStorage
from lightkeeper.domain.catalog import NewFile
from lightkeeper.domain.errors import Invalid, NotFound, Refused, Unavailable
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.domain.names import parse_lfn
from lightkeeper.domain.states import Replica
from lightkeeper.steps import (
    audit,
    catalogue,
    compare,
    content,
    delete,
    produce,
    replicate,
    run,
    stage,
    topology,
    transfer,
    transform,
)
from lightkeeper.steps import files as file_steps
from lightkeeper.steps.catalogue import Wanted
from lightkeeper.steps.stage import NewOrder
from lightkeeper.store import catalog, provenance, transitions
from lightkeeper.store import topology as topology_store
from lightkeeper.store.transfers import add_transfers
from lightkeeper.testing.tape_server import Machine, TapeServer

FAST = Machine(mount_seconds=0, file_seconds=0, migrate_after=0, bytes_per_second=1e12, keep=False, drives=1)
TAPE = """
storages:
  silo: {site: South, driver: tape, media: tape, root: "ROOT", MORE}
"""
OBS = [f"/test/2030-01-02/obs{n}.plain" for n in range(8)]


@dataclass
class TapeWorld:
    """A world with a tape storage `silo`, and its server."""

    world: World
    server: TapeServer
    broken: list[str] = field(default_factory=list)
    """What fsck may say at the end."""

    @property
    def ctx(self) -> Any:
        return self.world.ctx

    @property
    def tape(self) -> TapeRestStorage:
        return TapeRestStorage("silo", self.server.root)

    @property
    def silo(self) -> Any:
        return next(s for s in self.world.storages if s.name == "silo")

    def only_on_tape(self, *names: str, size: int = 40, **meta: Any) -> dict[str, int]:
        """Files whose only copies lie on tape."""
        files = []
        for name in names:
            whole = name.encode().ljust(size, b".")
            self.tape.write(name, [whole])
            own = {"level": 0, "night": "2030-01-02"} | meta
            files.append(NewFile(parse_lfn(name), fixity_of([whole]), own, self.silo.storage_id))
        with self.ctx.db.transaction() as conn:
            activity = provenance.add_activity(conn, name="test", agent="test", software={})
            batch = catalog.Batch(files, topology_store.vocabulary(conn))
            known = catalog.name(conn, batch)
        with self.ctx.db.transaction() as conn:
            result = catalog.register(conn, batch, known, activity, produced_by=None)
        until(lambda: all(where.on_tape for where in self.tape.localities(names).values()))
        self.server.library.control({"drop": True})
        return {**result.added, **result.known}

    def wait(self, true: Any, *, work: Any = None) -> None:
        """Let the stage duty, and what else is given, do its work until it is so."""
        end = time.monotonic() + 60
        while not true():
            stage.stage(self.ctx)
            if work:
                work()
            assert time.monotonic() < end, self.ctx.log.lines[-10:]
            time.sleep(0.01)

    def states(self) -> dict[str, int]:
        with self.ctx.db.transaction() as conn:
            found = conn.execute("SELECT state::text, count(*) FROM recall GROUP BY 1").fetchall()
        return dict(found)

    def statistics(self) -> dict[str, Any]:
        return self.server.library.statistics()


def until(true: Any) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def with_tape(fresh_worlds: Any, tmp_path: Any) -> Iterator[Callable[..., TapeWorld]]:
    """Makes a world with a tape storage; at the end of the test everything in it must be in order."""
    with ExitStack() as stack:

        def make(machine: Machine = FAST, buffer: str = "", attributes: str = "", **settings: Any) -> TapeWorld:
            world = stack.enter_context(fresh_worlds())
            given = world.ctx.settings.model_copy(update={"stage_every": timedelta(0)} | settings)
            drivers = {"posix": PosixStorage, "tape": TapeRestStorage}
            world.ctx = world.having(storage_drivers=drivers, settings=given).ctx
            server = stack.enter_context(TapeServer(tmp_path / "silo", machine))
            more = [f"buffer: {buffer}"] * bool(buffer) + [f"attributes: {{{attributes}}}"] * bool(attributes)
            topology.apply(world.ctx, TAPE.replace("ROOT", server.root).replace("MORE", ", ".join(more)))
            made = TapeWorld(world, server)
            stack.callback(lambda: check(made))
            return made

        def check(made: TapeWorld) -> None:
            assert made.world.violations() == made.broken

        yield make


@pytest.fixture
def tape(with_tape: Callable[..., TapeWorld]) -> TapeWorld:
    return with_tape(attributes="real: yes")


def archive_rule(tape: TapeWorld) -> None:
    """Every file is owed one copy in the silo."""
    topology.apply(tape.ctx, "policies:\n  archive: {files: {level: 0}, copies: 1, media: tape, at: real=yes}\n")


def copied(tape: TapeWorld) -> None:
    """Replicate, transfer, stage and delete until nothing is left to do."""
    ctx = tape.ctx
    while replicate.settle(ctx) + transfer.carry_out(ctx) + delete.delete(ctx):
        pass


# --- to tape ---------------------------------------------------------------------------------------------------
SLOW = Machine(migrate_after=3600, mount_seconds=0, file_seconds=0)


@pytest.mark.feature("S2-005")
def test_a_copy_on_tape_counts_when_it_is_on_tape_and_not_when_it_lies_in_the_buffer(with_tape: Any):
    tape = with_tape(SLOW, attributes="real: yes")
    tape.world.register(OBS[0])
    archive_rule(tape)
    copied(tape)
    assert tape.world.copies(OBS[0])["silo"] == "Buffered"
    assert stage.archive(tape.ctx) == 0
    copied(tape)  # a second copy is not made meanwhile
    assert (
        tape.world.value(
            "SELECT count(*) FROM transfer t JOIN storage s ON s.storage_id = t.target_id WHERE s.name = 'silo'"
        )
        == 1
    )
    assert tape.world.value("SELECT count(*) FROM verified_copy v JOIN tape_storage USING (storage_id)") == 0
    tape.server.library.machine = FAST
    until(lambda: stage.archive(tape.ctx) == 1)
    assert tape.world.copies(OBS[0])["silo"] == "Available"
    assert tape.world.value("SELECT count(*) FROM verified_copy v JOIN tape_storage USING (storage_id)") == 1
    read_back, on_tape = tape.world.value(
        "SELECT array[verified_at, state_since] FROM replica JOIN tape_storage USING (storage_id)"
    )
    assert read_back < on_tape  # the bytes were read once, in the buffer; no tape was mounted to read them again
    assert tape.statistics()["staged"] == 0


def test_a_copy_that_the_storage_loses_before_it_is_on_tape_is_made_again(with_tape: Any):
    tape = with_tape(SLOW, attributes="real: yes")
    tape.world.register(OBS[0])
    archive_rule(tape)
    copied(tape)
    tape.tape.delete(OBS[0])
    stage.archive(tape.ctx)
    assert tape.world.copies(OBS[0])["silo"] == "Lost"
    copied(tape)
    assert tape.world.copies(OBS[0])["silo"] == "Buffered"


# --- orders ----------------------------------------------------------------------------------------------------
@pytest.mark.feature("S0-106")
def test_what_an_order_would_stage_is_told_in_files_and_bytes_before_anything_is_asked(tape: TapeWorld):
    tape.only_on_tape(*OBS[:3], size=1000, kind="a")
    tape.world.register(OBS[3], kind="a")
    told = stage.order(tape.ctx, NewOrder(query="kind = a"), dry_run=True)
    size = tape.world.value("SELECT sum(size)::bigint FROM file")
    assert (told.volume.files, told.volume.bytes) == (4, size)
    assert (told.volume.to_stage, told.volume.to_stage_bytes, told.volume.ready) == (3, 3000, 1)
    assert told.order_id is None
    stage.stage(tape.ctx)
    assert tape.statistics()["requests"] == 0
    assert stage.find(tape.ctx) == []


@pytest.mark.feature("S0-105")
def test_a_query_limited_to_tape_finds_what_lies_on_tape_only_there(tape: TapeWorld):
    tape.only_on_tape(*OBS[:3], kind="a")
    tape.world.register(OBS[3], kind="a")
    found = {file.lfn for file in catalogue.find(tape.ctx, Wanted(query="kind = a", at="silo", names=True))}
    assert found == set(OBS[:3])


@pytest.mark.feature("S2-019")
def test_an_order_is_staged_in_one_request_kept_and_released_when_it_ends(tape: TapeWorld):
    tape.only_on_tape(*OBS, kind="a")
    made = stage.order(tape.ctx, NewOrder(query="kind = a"))
    assert stage.show(tape.ctx, made.order_id).state == "under way"
    tape.wait(lambda: stage.show(tape.ctx, made.order_id).state == "complete")
    assert tape.statistics()["requests"] == 1
    assert tape.statistics()["mounts"] <= 2
    opened = content.read_copy(tape.ctx, OBS[0], at="silo")
    assert b"".join(opened.chunks).startswith(OBS[0].encode())
    assert stage.find(tape.ctx)[0].percent == 100
    assert tape.statistics()["pinned"] == len(OBS)
    stage.cancel(tape.ctx, made.order_id)
    tape.wait(lambda: tape.states() == {})
    assert tape.statistics()["pinned"] == 0
    assert tape.statistics()["on_disk"] == 1  # the marker
    assert stage.show(tape.ctx, made.order_id).state == "ended"


def test_an_order_to_a_disk_copies_what_was_staged_and_lets_it_go(tape: TapeWorld):
    tape.only_on_tape(*OBS[:3])
    made = stage.order(tape.ctx, NewOrder(files=tuple(OBS[:3]), to="north"))
    tape.wait(lambda: stage.show(tape.ctx, made.order_id).state == "complete", work=lambda: copied(tape))
    assert tape.world.copies(OBS[0])["north"] == "Available"
    tape.wait(lambda: tape.states() == {})
    assert tape.statistics()["pinned"] == 0


def test_an_order_ends_by_itself_when_its_time_is_over(tape: TapeWorld):
    tape.only_on_tape(OBS[0])
    made = stage.order(tape.ctx, NewOrder(files=(OBS[0],), lifetime=0.0001))
    time.sleep(0.4)
    tape.wait(lambda: stage.show(tape.ctx, made.order_id).state == "ended" and tape.states() == {})


def test_orders_that_cannot_be_are_refused(tape: TapeWorld):
    tape.world.register(OBS[0])
    for new, error in (
        (NewOrder(files=("/test/never",)), NotFound),
        (NewOrder(query="kind = never"), NotFound),
        (NewOrder(files=(OBS[0],), to="nowhere"), NotFound),
        (NewOrder(files=(OBS[0],), to="mountain"), Refused),
        (NewOrder(files=(OBS[0],), lifetime=0), Invalid),
    ):
        with pytest.raises(error):
            stage.order(tape.ctx, new)
    with pytest.raises(NotFound):
        stage.show(tape.ctx, 7)
    assert stage.find(tape.ctx) == []


# --- the buffer ------------------------------------------------------------------------------------------------
@pytest.mark.feature("S0-107")
def test_never_more_is_asked_for_than_the_buffer_holds_and_the_rest_follows(with_tape: Any):
    machine = Machine(mount_seconds=0, file_seconds=0.01, migrate_after=0, bytes_per_second=1e12, drives=2, keep=False)
    tape = with_tape(machine, buffer="2500 B")
    tape.only_on_tape(*OBS, size=1000)
    order = stage.order(tape.ctx, NewOrder(files=tuple(OBS), to="north"))
    highest = 0

    def work() -> None:
        nonlocal highest
        copied(tape)
        held = tape.world.value(
            "SELECT coalesce(sum(size), 0)::bigint FROM recall WHERE state IN ('Asked', 'Online', 'Releasing')"
        )
        highest = max(highest, held)

    tape.wait(lambda: stage.show(tape.ctx, order.order_id).state == "complete", work=work)
    assert 0 < highest <= 2500
    assert tape.statistics()["staged"] == len(OBS)


def test_what_the_buffer_can_never_hold_fails_with_the_reason_and_the_others_go_on(with_tape: Any):
    tape = with_tape(buffer="2500 B")
    tape.only_on_tape(OBS[0], size=3000)
    tape.only_on_tape(OBS[1], size=1000)
    made = stage.order(tape.ctx, NewOrder(files=tuple(OBS[:2])))
    tape.wait(lambda: tape.states() == {"Failed": 1, "Online": 1})
    told = stage.show(tape.ctx, made.order_id)
    assert told.state == "stuck"
    assert "3.0 kB are needed at once; the buffer of silo is 2.5 kB" in told.reasons[0]["why"]


# --- readers ---------------------------------------------------------------------------------------------------
def test_a_transfer_whose_only_source_lies_on_tape_waits_until_it_was_staged(tape: TapeWorld):
    ids = tape.only_on_tape(OBS[0])
    topology.apply(tape.ctx, "policies:\n  made: {files: {level: 0}, copies: 1, at: site=North}\n")
    with tape.ctx.db.transaction() as conn:
        conn.execute("INSERT INTO unsettled SELECT file_id FROM file ON CONFLICT DO NOTHING")
    replicate.settle(tape.ctx)
    assert transfer.carry_out(tape.ctx) == 0
    assert tape.states() == {"Waiting": 1}
    tape.wait(lambda: tape.world.copies(OBS[0]).get("north") == "Available", work=lambda: copied(tape))
    assert tape.world.value("SELECT max(attempts)::int FROM transfer WHERE file_id = %s", ids[OBS[0]]) == 1
    tape.wait(lambda: tape.states() == {})


def test_a_disk_copy_is_read_before_a_tape_is_mounted(tape: TapeWorld):
    tape.world.register(OBS[0])
    archive_rule(tape)
    copied(tape)
    until(lambda: stage.archive(tape.ctx) >= 0 and "Buffered" not in tape.world.copies(OBS[0]).values())
    topology.apply(tape.ctx, "policies:\n  made: {files: {level: 0}, copies: 2}\n")
    with tape.ctx.db.transaction() as conn:
        conn.execute("INSERT INTO unsettled SELECT file_id FROM file ON CONFLICT DO NOTHING")
    copied(tape)
    stage.look_after_wishes(tape.ctx)
    assert len([s for s in tape.world.copies(OBS[0]) if s in ("north", "east", "south")]) == 2
    assert tape.states() == {}


@pytest.mark.feature("S0-107", "S0-108", "S2-047")
def test_a_job_starts_when_its_inputs_were_staged_and_reads_them_from_the_buffer(tape: TapeWorld):
    tape.only_on_tape(*OBS[:4], kind="a")
    document = '{"steps": [{"query": {"kind": "a"}, "group_size": 2}]}'
    produce.submit(tape.ctx, "again", document, {})
    assert transform.make_tasks(tape.ctx) == 2
    assert transform.submit_jobs(tape.ctx) == 0
    assert tape.states() == {"Waiting": 4}
    tape.wait(lambda: tape.states() == {"Online": 4})
    assert tape.statistics()["requests"] == 1
    assert transform.submit_jobs(tape.ctx) == 2
    pilot = a_pilot(tape)
    for _ in range(2):
        (job,) = run.claim(tape.ctx, pilot)
        assert [source["storage"] for file in job["input_files"] for source in file["sources"]] == ["silo", "silo"]
        driver = tape.ctx.storage_drivers[job["input_files"][0]["sources"][0]["driver"]]
        with driver("silo", job["input_files"][0]["sources"][0]["root"]).open(job["input_files"][0]["lfn"]) as file:
            assert file.read().startswith(job["input_files"][0]["lfn"].encode())
        run.report_failure(
            tape.ctx, pilot, job["job_id"],
            {"minor_status": "x", "application_status": "", "exit_code": 1, "log": "", "bad_replicas": []},
        )  # fmt: skip
    stage.stage(tape.ctx)
    assert tape.states() == {"Online": 4}  # another attempt will read them
    with tape.ctx.db.transaction() as conn:
        conn.execute("UPDATE transformation SET state = 'Stopped'")
    tape.wait(lambda: tape.states() == {})
    assert tape.statistics()["pinned"] == 0


def test_inputs_are_staged_when_their_disks_cannot_be_read(tape: TapeWorld):
    tape.world.register(*OBS[:2], kind="a")
    archive_rule(tape)
    copied(tape)
    until(lambda: stage.archive(tape.ctx) >= 0 and tape.world.copies(OBS[0])["silo"] == "Available")
    until(lambda: stage.archive(tape.ctx) >= 0 and tape.world.copies(OBS[1])["silo"] == "Available")
    root = tape.world.root
    for name, site in (("north", "North"), ("east", "East"), ("south", "South")):
        off = f'storages:\n  {name}: {{site: {site}, root: "{root}/{name}", status: {{read: false}}}}\n'
        topology.apply(tape.ctx, off)
    produce.submit(tape.ctx, "again", '{"steps": [{"query": {"kind": "a"}, "group_size": 2}]}', {})
    assert transform.make_tasks(tape.ctx) == 1
    assert transform.submit_jobs(tape.ctx) == 0
    tape.wait(lambda: tape.states() == {"Online": 2})
    assert transform.submit_jobs(tape.ctx) == 1
    with tape.ctx.db.transaction() as conn:
        conn.execute("UPDATE transformation SET state = 'Stopped'")


def test_of_two_tasks_that_the_buffer_cannot_hold_together_one_comes_whole(with_tape: Any):
    tape = with_tape(buffer="3000 B")
    tape.only_on_tape(*OBS[:4], size=1000, kind="a")
    produce.submit(tape.ctx, "again", '{"steps": [{"query": {"kind": "a"}, "group_size": 2}]}', {})
    transform.make_tasks(tape.ctx)
    tape.wait(lambda: tape.states() == {"Online": 2, "Waiting": 2})
    assert transform.submit_jobs(tape.ctx) == 1
    with tape.ctx.db.transaction() as conn:
        conn.execute("UPDATE transformation SET state = 'Stopped'")


def a_pilot(tape: TapeWorld) -> Any:
    with tape.ctx.db.transaction() as conn:
        conn.execute("""
            INSERT INTO pilot (site_id, name, executor, secret, handle)
            SELECT site_id, 'one', 'none', sha256('s'::bytea), 'h' FROM site WHERE name = 'North'""")
    return run.greet(tape.ctx, "s")


# --- what goes wrong -------------------------------------------------------------------------------------------
def test_a_file_that_cannot_be_staged_is_tried_again_and_then_has_a_reason(tape: TapeWorld):
    tape.only_on_tape(*OBS[:2])
    tape.server.library.control({"fail": {f"/tape{OBS[0]}": "media error"}, "times": 2})
    made = stage.order(tape.ctx, NewOrder(files=tuple(OBS[:2])))
    tape.wait(lambda: stage.show(tape.ctx, made.order_id).state == "complete")
    stage.cancel(tape.ctx, made.order_id)
    tape.wait(lambda: tape.states() == {})
    tape.server.library.control({"drop": True, "fail": {f"/tape{OBS[0]}": "media error"}})
    made = stage.order(tape.ctx, NewOrder(files=tuple(OBS[:2])))
    tape.wait(lambda: stage.show(tape.ctx, made.order_id).state == "stuck")
    assert stage.show(tape.ctx, made.order_id).reasons == [
        {"storage": "silo", "why": "cannot be staged: media error", "files": 1}
    ]
    tape.server.library.control({"fail": {f"/tape{OBS[0]}": ""}})
    again = stage.order(tape.ctx, NewOrder(files=tuple(OBS[:2])))  # asked for again: tried again
    tape.wait(lambda: stage.show(tape.ctx, again.order_id).state == "complete")


def test_a_copy_that_the_tape_lost_is_suspect_then_lost_and_made_again_from_another(tape: TapeWorld):
    tape.world.register(OBS[0])
    archive_rule(tape)
    with tape.ctx.db.transaction() as conn:
        file = catalog.files_by_lfn(conn, [OBS[0]])[0]
        add_transfers(conn, [(file.file_id, tape.silo.storage_id, None, 5)])
    copied(tape)
    until(lambda: stage.archive(tape.ctx) >= 0 and tape.world.copies(OBS[0])["silo"] == "Available")
    tape.server.library.control({"drop": True, "lose": [f"/tape{OBS[0]}"]})
    with tape.ctx.db.transaction() as conn:
        catalog.recheck(conn, [(file.file_id, tape.silo.storage_id)])
    stage.archive(tape.ctx)
    assert tape.world.copies(OBS[0])["silo"] in ("Suspect", "Available", "Lost")
    tape.wait(
        lambda: tape.world.copies(OBS[0])["silo"] == "Lost",
        work=lambda: (stage.archive(tape.ctx), audit.recheck(tape.ctx)),
    )
    with tape.ctx.db.transaction() as conn:
        add_transfers(conn, [(file.file_id, tape.silo.storage_id, None, 5)])
    copied(tape)
    until(lambda: stage.archive(tape.ctx) >= 0 and tape.world.copies(OBS[0])["silo"] == "Available")


def test_a_suspect_copy_on_tape_is_staged_read_and_decided(tape: TapeWorld):
    ids = tape.only_on_tape(*OBS[:2])
    tape.world.register("/test/other.plain")
    tape.server.library.control({"damage": [f"/tape{OBS[0]}"]})
    with tape.ctx.db.transaction() as conn:
        for name in OBS[:2]:
            transitions.move_replicas(
                conn, [(ids[name], tape.silo.storage_id)], Replica.AVAILABLE, Replica.SUSPECT, "test"
            )
    tape.wait(
        lambda: (tape.world.copies(OBS[0]), tape.world.copies(OBS[1])) == ({"silo": "Lost"}, {"silo": "Available"}),
        work=lambda: (stage.archive(tape.ctx), audit.recheck(tape.ctx)),
    )
    tape.broken = [f"I1 {OBS[0]}"]


def test_a_storage_that_forgets_every_request_is_asked_again(tape: TapeWorld):
    tape.only_on_tape(*OBS[:3])
    tape.server.library.control({"away": ["VOL0001"]})
    made = stage.order(tape.ctx, NewOrder(files=tuple(OBS[:3])))
    tape.wait(lambda: tape.states() == {"Asked": 3})
    tape.server.library.control({"forget": True, "away": []})
    tape.wait(lambda: stage.show(tape.ctx, made.order_id).state == "complete")
    tape.server.library.control({"forget": True, "drop": True})
    tape.world.value("UPDATE stage_request SET not_before = now()")
    tape.wait(lambda: tape.statistics()["pinned"] == 3 and tape.states() == {"Online": 3})


def test_a_storage_that_does_not_answer_is_left_alone_for_a_while_and_told_of(tape: TapeWorld):
    tape.only_on_tape(OBS[0])
    tape.server.library.control({"unavailable": True})
    made = stage.order(tape.ctx, NewOrder(files=(OBS[0],)))
    stage.stage(tape.ctx)
    assert "503" in stage.tapes(tape.ctx)[0].trouble
    assert tape.states() == {"Asked": 1}
    tape.server.library.control({"unavailable": False})
    tape.wait(lambda: stage.show(tape.ctx, made.order_id).state == "complete")
    assert stage.tapes(tape.ctx)[0].trouble == ""


def test_pins_are_renewed_for_as_long_as_somebody_needs_them(with_tape: Any):
    tape = with_tape(stage_lifetime=timedelta(seconds=1.5))
    tape.only_on_tape(*OBS[:2])
    stage.order(tape.ctx, NewOrder(files=tuple(OBS[:2])))
    tape.wait(lambda: tape.states() == {"Online": 2})
    end = time.monotonic() + 3.5
    while time.monotonic() < end:
        stage.stage(tape.ctx)
        assert tape.states() == {"Online": 2}
        time.sleep(0.05)
    assert tape.statistics()["requests"] >= 3
    assert tape.statistics()["staged"] == 2  # never mounted again


def test_a_pin_that_could_not_be_renewed_in_time_is_no_pin(with_tape: Any):
    tape = with_tape(stage_lifetime=timedelta(seconds=1))
    tape.only_on_tape(OBS[0])
    stage.order(tape.ctx, NewOrder(files=(OBS[0],)))
    tape.wait(lambda: tape.states() == {"Online": 1})
    time.sleep(1.1)
    tape.server.library.control({"drop": True, "unavailable": True})
    stage.stage(tape.ctx)
    assert "Online" not in tape.states()
    tape.server.library.control({"unavailable": False})
    tape.wait(lambda: tape.states() == {"Online": 1})


# --- killed at any point ---------------------------------------------------------------------------------------
class Killed(BaseException):
    """The worker dies here: nothing it would do next is done."""


class Mortal(TapeRestStorage):
    """A tape storage whose user dies before, or after, one of its calls."""

    left = 10**9

    @classmethod
    def _step(cls) -> None:
        cls.left -= 1
        if cls.left == 0:
            raise Killed

    def _call(self, *args: Any) -> Any:
        self._step()
        answer = super()._call(*args)
        self._step()
        return answer


def test_killed_at_any_call_to_the_storage_it_goes_on_and_nothing_is_left_behind(with_tape: Any):
    tape = with_tape(stage_batch=2)
    tape.only_on_tape(*OBS[:5])
    drivers = {"posix": PosixStorage, "tape": Mortal}
    tape.world.ctx = tape.world.having(storage_drivers=drivers).ctx
    point = kills = 0
    while True:
        point += 1
        Mortal.left = point
        died = 0
        made = stage.order(tape.ctx, NewOrder(files=tuple(OBS[:5])))

        def true(order: int = made.order_id) -> bool:
            nonlocal died
            try:
                stage.stage(tape.ctx)
            except Killed:
                died += 1
                tape.world.value("UPDATE tape_storage SET lease_until = NULL")  # what the end of the lease does
            return stage.show(tape.ctx, order).state == "complete"

        until(true)
        stage.cancel(tape.ctx, made.order_id)

        def gone() -> bool:
            true()
            return tape.states() == {}

        until(gone)
        kills += died
        if not died:
            break
    assert kills >= 10
    Mortal.left = 10**9
    assert tape.world.value("SELECT count(*) FROM stage_request WHERE closed IS NULL") in (0, 1, 2, 3)


def test_an_answer_that_is_lost_is_asked_for_again_and_mounts_nothing_twice(tape: TapeWorld):
    tape.only_on_tape(*OBS[:3])
    mounts = tape.statistics()["mounts"]
    tape.server.library.control({"silent": 2})  # once more at once by the connection's own retry
    made = stage.order(tape.ctx, NewOrder(files=tuple(OBS[:3])))
    tape.wait(lambda: stage.show(tape.ctx, made.order_id).state == "complete")
    assert tape.statistics()["requests"] >= 2
    assert tape.statistics()["staged"] == 3
    assert tape.statistics()["mounts"] - mounts <= 1


def test_two_workers_ask_for_each_file_once(tape: TapeWorld):
    tape.only_on_tape(*OBS)
    made = stage.order(tape.ctx, NewOrder(files=tuple(OBS)))
    workers = [threading.Thread(target=lambda: [stage.stage(tape.ctx) for _ in range(10)]) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    tape.wait(lambda: stage.show(tape.ctx, made.order_id).state == "complete")
    assert tape.statistics()["requests"] == 1


def test_a_worker_that_slept_past_its_turn_records_nothing(tape: TapeWorld):
    tape.only_on_tape(OBS[0])
    made = stage.order(tape.ctx, NewOrder(files=(OBS[0],)))

    class Slow(TapeRestStorage):
        def stage(self, paths: Any, lifetime: Any) -> str:
            handle = super().stage(paths, lifetime)
            tape.world.value("UPDATE tape_storage SET epoch = epoch + 1, lease_until = NULL")  # somebody took over
            return handle

    with suppress(Unavailable):
        stage.stage(tape.world.having(storage_drivers={"posix": PosixStorage, "tape": Slow}).ctx)
    assert tape.world.value("SELECT count(handle) FROM stage_request") == 0
    tape.wait(lambda: stage.show(tape.ctx, made.order_id).state == "complete")


# --- audit and deletion ----------------------------------------------------------------------------------------
def test_looking_for_copies_on_tape_mounts_nothing(tape: TapeWorld):
    tape.only_on_tape(*OBS[:4])
    before = tape.statistics()
    assert audit.fsck(tape.ctx, read_bytes=True).violations == []
    found = compare.compare(tape.ctx, "silo")
    assert (found.counts.lost, found.counts.dark) == (0, 0)
    audit.scrub(tape.ctx)
    audit.recheck(tape.ctx)
    stage.archive(tape.ctx)
    stage.stage(tape.ctx)
    assert tape.statistics()["requests"] == before["requests"]
    assert tape.statistics()["mounts"] == before["mounts"]
    tape.server.library.control({"lose": [f"/tape{OBS[0]}"]})
    violations = [v.detail for v in audit.fsck(tape.ctx).violations]
    assert violations == [f"{OBS[0]} on silo: is not on tape but lost"]
    tape.broken = [f"I13 {OBS[0]} on silo: is not on tape but lost"]


def test_a_scrub_of_tape_that_was_asked_for_stages_what_it_reads(tape: TapeWorld):
    tape.only_on_tape(*OBS[:3])
    tape.world.value("UPDATE replica SET verified_at = '2020-01-01', written_at = '2020-01-01'")
    audit.begin_scrub(tape.ctx, "silo")

    def work() -> None:
        audit.scrub(tape.ctx)
        stage.archive(tape.ctx)
        audit.recheck(tape.ctx)

    read = "SELECT count(*) FROM replica WHERE verified_at > now() - interval '1 hour'"
    tape.wait(lambda: tape.world.value(read) == 3, work=work)
    tape.wait(lambda: tape.states() == {}, work=work)


def test_putting_a_file_straight_onto_tape_is_refused(tape: TapeWorld):
    with pytest.raises(Refused, match="is on tape"):
        content.check_place(tape.ctx, "silo", {"level": 0})


def test_a_removed_file_leaves_the_tape(tape: TapeWorld):
    tape.only_on_tape(OBS[0])
    file_steps.remove(tape.ctx, [OBS[0]], "not needed")
    copied(tape)
    assert tape.world.copies(OBS[0]) == {}
    assert tape.tape.stat(OBS[0]) is None
