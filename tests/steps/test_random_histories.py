"""Whatever happens in whatever order, no promise is broken: random deliveries, work, rot, loss and crashes.

After every single step all invariants of the database hold; at the end of each history everything is brought to rest
and every byte is read again.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.chaos.clock import pass_time
from tests.conftest import World
from tests.steps.test_work import Hands, go_on

from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.errors import LightkeeperError, NotFound
from lightkeeper.steps import (
    audit,
    delete,
    files,
    heal,
    ingest,
    manifests,
    produce,
    productions,
    replicate,
    rules,
    run,
    topology,
    transfer,
    watch,
)
from lightkeeper.store import invariants
from lightkeeper.testing.faults import CorruptingMover, Network

STEPS = int(os.environ.get("LIGHTKEEPER_TEST_STEPS", "25"))
HISTORIES = int(os.environ.get("LIGHTKEEPER_TEST_HISTORIES", "12"))


CENTRES = ("north", "east", "south")


class Crash(Exception):
    """The process dies here."""


class History(RuleBasedStateMachine):
    """One world and what is done to it."""

    fresh: Callable[[], AbstractContextManager[World]]

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.network = Network()
        world = self.stack.enter_context(type(self).fresh())
        self.world = world.having(storage_drivers={"posix": self.network.driver(PosixStorage)})
        self.away: set[str] = set()
        self.rules: list[str] = []
        self.delivered: dict[str, str] = {}
        self.hands: list[Hands] = []
        self.jobs: list[tuple[Hands, dict[str, Any]]] = []

    def teardown(self) -> None:
        try:
            self._come_to_rest()
        finally:
            self.stack.close()

    # --- what happens
    @initialize()
    def a_production_waits_for_files(self) -> None:
        steps = [{"query": {"level": 0}, "group_size": 2}, {"query": {"level": 1}, "group_size": 2, "parent": 1}]
        produce.submit(self.world.ctx, "p", json.dumps({"steps": steps}), {}, open_=True)

    @rule(number=st.integers(0, 5), content=st.sampled_from(["light", "other light", "size=1"]))
    def a_delivery(self, number: int, content: str) -> None:
        """Also again, and with another content; but the array control does not overwrite what is still on site."""
        path = f"/test/raw/n{number}.plain"
        if not (self.world.root / "mountain" / path[1:]).exists():
            self.world.deliver(path, content)

    @rule()
    def the_worker_ingests(self) -> None:
        watch.scan(self.world.ctx)
        ingest.register_accepted(self.world.ctx)

    @rule()
    def the_worker_replicates(self) -> None:
        replicate.settle(self.world.ctx)

    @rule(corrupted=st.booleans())
    def the_worker_transfers(self, corrupted: bool) -> None:
        mover = CorruptingMover(StreamMover(), first=1) if corrupted else StreamMover()
        transfer.carry_out(self.world.having(mover=mover).ctx)

    @rule()
    def the_worker_deletes(self) -> None:
        delete.delete(self.world.ctx)

    @rule()
    def the_worker_heals(self) -> None:
        go_on(self.world)
        heal.release_abandoned(self.world.ctx)

    @rule()
    def the_worker_rechecks(self) -> None:
        audit.recheck(self.world.ctx)

    @rule()
    def the_worker_audits(self) -> None:
        audit.scrub(self.world.ctx)
        manifests.write_due(self.world.ctx)
        rules.withdraw_expired(self.world.ctx)

    @rule(hours=st.sampled_from([0.1, 2, 200]))
    def time_passes(self, hours: float) -> None:
        pass_time(self.world, hours=hours)

    # --- storages come and go
    @rule(name=st.sampled_from(CENTRES))
    def a_centre_loses_its_network_or_has_it_again(self, name: str) -> None:
        self.network.cut ^= {name}

    @rule(name=st.sampled_from(CENTRES))
    def a_disk_is_full_or_has_room_again(self, name: str) -> None:
        self.network.full ^= {name}

    @rule(name=st.sampled_from(CENTRES))
    def a_disk_is_lost_or_mounted_again(self, name: str) -> None:
        here, there = self.world.root / name, self.world.root / f"{name} away"
        if name in self.away:
            assert not [path for path in here.rglob("*") if path.is_file()], "something was written where no disk is"
            shutil.rmtree(here)
            there.rename(here)
        else:
            here.rename(there)
            here.mkdir()  # the folder where it should be mounted
        self.away ^= {name}

    @rule(
        name=st.sampled_from(CENTRES),
        how=st.sampled_from(["status: {write: false}", "status: {read: false}", "draining: true", ""]),
    )
    def the_topology_says_otherwise(self, name: str, how: str) -> None:
        """What may be done on a storage, until the topology is applied again."""
        with suppress(LightkeeperError):  # its disk is not there
            self._apply(name, how)

    # --- what files are owed, and what they are, changes
    @rule(copies=st.integers(1, 3), level=st.integers(0, 1), lifetime=st.sampled_from([None, 1.0]))
    def a_rule_is_added(self, copies: int, level: int, lifetime: float | None) -> None:
        name = f"rule{len(self.rules)}"
        rules.add(self.world.ctx, rules.NewRule(name, {"level": level}, copies, lifetime=lifetime))
        self.rules.append(name)

    @precondition(lambda self: self.rules)
    @rule(data=st.data())
    def a_rule_is_removed(self, data: st.DataObject) -> None:
        with suppress(NotFound):  # it has expired
            rules.remove(self.world.ctx, data.draw(st.sampled_from(self.rules)))

    @rule(data=st.data(), how=st.sampled_from(["remove", "corrupted", "restore", "supersede"]))
    def a_file_changes(self, data: st.DataObject, how: str) -> None:
        names = [file.lfn for file in self.world.files()]
        if not names:
            return
        lfn, other = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names))
        if how == "remove":
            files.remove(self.world.ctx, [lfn], "test")
        elif how == "corrupted":
            files.mark_corrupted(self.world.ctx, [lfn], "test")
        elif how == "restore":
            files.restore(self.world.ctx, [lfn], "test")
        else:
            files.supersede(self.world.ctx, [(lfn, other)], "test")

    # --- work
    @rule(where=st.sampled_from(["North", "East"]))
    def a_pilot_claims(self, where: str) -> None:
        hands = Hands.at(self.world, where, f"pilot {len(self.hands)}")
        self.hands.append(hands)
        job = hands.claim()
        if job:
            self.jobs.append((hands, job))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), how=st.sampled_from(["finish", "fail", "lost", "finish twice"]))
    def a_job_ends(self, data: st.DataObject, how: str) -> None:
        hands, job = self.jobs.pop(data.draw(st.integers(0, len(self.jobs) - 1)))
        with suppress(LightkeeperError):  # a pilot that was given up is refused
            if how == "fail":
                hands.fail(job)
            elif how == "lost":
                self._forget(hands)
            else:
                hands.finish(job)
            if how == "finish twice":
                hands.finish(job)

    # --- faults
    @precondition(lambda self: self._spare_copies())
    @rule(data=st.data(), how=st.sampled_from(["rot", "loss"]))
    def a_copy_is_damaged_while_others_are_good(self, data: st.DataObject, how: str) -> None:
        storage, lfn = data.draw(st.sampled_from(self._spare_copies()))
        path = self.world.root / storage / lfn.lstrip("/")
        if how == "rot":
            path.write_bytes(b"rotten")
        else:
            path.unlink()
        self._read_again(lfn, storage)

    @rule(
        at=st.sampled_from(
            [
                (transfer.transfers, "arrived"),
                (delete.deletions, "deleted"),
                (ingest.triggers, "registered"),
                (ingest, "_remove_trigger_files"),
                (ingest.triggers, "quarantined"),
                (run.jobs, "accepted"),
            ]
        )
    )
    def a_crash_in_the_middle_of_everything(self, at: tuple[Any, str]) -> None:
        with dying_at(*at):
            for step in (
                self.the_worker_ingests,
                self.the_worker_replicates,
                lambda: self.the_worker_transfers(corrupted=False),
                self.the_worker_deletes,
                self._finish_a_job,
            ):
                with suppress(Crash):
                    step()
        heal.after_restart(self.world.ctx)

    # --- what is promised
    @invariant()
    def every_promise_holds(self) -> None:
        with self.world.ctx.db.transaction() as conn:
            broken = [v for v in invariants.violations(conn) if v.id != "I19"]  # which asks for storages that answer
        assert not broken, broken

    # --- helpers
    def _apply(self, name: str, how: str) -> None:
        more = f", {how}" if how else ""
        root = f'"{self.world.root}/{name}"'
        topology.apply(self.world.ctx, f"storages: {{{name}: {{site: {name.capitalize()}, root: {root}{more}}}}}")

    def _finish_a_job(self) -> None:
        if self.jobs:
            hands, job = self.jobs.pop()
            with suppress(LightkeeperError):
                hands.finish(job)

    def _forget(self, hands: Hands) -> None:
        self.world.value("UPDATE pilot SET seen = now() - interval '1 day' WHERE name = %s", hands.pilot.name)

    def _spare_copies(self) -> list[tuple[str, str]]:
        """Available copies at data centres of files that have two others, or one other and the original."""
        out_of_reach = self.away | self.network.cut
        with self.world.ctx.db.transaction() as conn:
            found = conn.execute("""
                SELECT s.name, d.path || '/' || f.name
                  FROM replica r
                  JOIN storage s USING (storage_id)
                  JOIN file f USING (file_id)
                  JOIN directory d USING (dir_id)
                 WHERE r.state = 'Available' AND s.name <> 'mountain'
                   AND NOT EXISTS (SELECT FROM intent i WHERE i.file_id = r.file_id AND i.state = 'Approved')
                   AND NOT EXISTS (SELECT FROM transfer t WHERE t.file_id = r.file_id AND t.state = 'Running')
                   AND 2 <= (SELECT count(*) FROM replica o WHERE o.file_id = r.file_id AND o.state = 'Available')
                 ORDER BY 1, 2
            """).fetchall()
        return [(storage, lfn) for storage, lfn in found if storage not in out_of_reach]

    def _read_again(self, lfn: str, storage: str) -> None:
        """Damage is found at once here, so that it never hits the last good copy unnoticed."""
        with self.world.ctx.db.transaction() as conn:
            conn.execute(
                """
                INSERT INTO recheck (file_id, storage_id)
                SELECT f.file_id, s.storage_id
                  FROM file f JOIN directory d USING (dir_id), storage s
                 WHERE d.path || '/' || f.name = %s AND s.name = %s
                ON CONFLICT DO NOTHING
                """,
                (lfn, storage),
            )
        audit.recheck(self.world.ctx)

    def _come_to_rest(self) -> None:
        """No more faults: everything that was taken on ends."""
        self.network.cut.clear()
        self.network.full.clear()
        for name in list(self.away):
            self.a_disk_is_lost_or_mounted_again(name)
        for name in CENTRES:
            self._apply(name, "")
        heal.after_restart(self.world.ctx)
        self.world.value("UPDATE pilot SET seen = now() - interval '1 day'")
        self.world.value("UPDATE job SET state_since = now() - interval '1 day' WHERE state = 'Completing'")
        heal.release_abandoned(self.world.ctx)
        run.accept_reported(self.world.ctx)
        productions.close(self.world.ctx, "p")
        for number in range(60):
            if number % 10 == 0:
                pass_time(self.world, hours=2)  # what was given up is tried again
                rules.withdraw_expired(self.world.ctx)
                heal.release_abandoned(self.world.ctx)
                hands = Hands.at(self.world, "North", f"the last, {number}")
            self.world.ingest()
            audit.recheck(self.world.ctx)
            self.world.settle()
            go_on(self.world)
            while job := hands.claim():
                hands.finish(job)
        self.world.settle()
        while manifests.write_due(self.world.ctx):
            pass
        assert self.world.violations() == []
        open_ = self.world.value("SELECT count(*) FROM trigger WHERE state = 'Accepted'")
        failed = self.world.value("SELECT count(*) FROM task WHERE state = 'Failed'")
        state = self.world.value("SELECT state::text FROM production")
        assert open_ == 0
        assert failed or state == "Completed", f"the production is {state}"
        short = self.world.value(
            "SELECT count(*) FROM file f JOIN set_policy USING (set_id) JOIN policy p USING (policy_id)"
            " WHERE p.copies > (SELECT count(DISTINCT site_id) FROM verified_copy c WHERE c.file_id = f.file_id)"
        )
        assert short == 0, "a file is left with fewer copies than it is owed"


@contextmanager
def dying_at(module: Any, name: str) -> Iterator[None]:
    """Whoever calls the function dies there, its transaction with it."""
    original = getattr(module, name)

    def die(*_: object, **__: object) -> None:
        raise Crash

    setattr(module, name, die)
    try:
        yield
    finally:
        setattr(module, name, original)


@pytest.mark.timeout(1800)
@pytest.mark.feature("X-02")
def test_no_history_breaks_a_promise(fresh_worlds: Callable[[], AbstractContextManager[World]]):
    machine = type("ThisHistory", (History,), {"fresh": staticmethod(fresh_worlds)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=HISTORIES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
