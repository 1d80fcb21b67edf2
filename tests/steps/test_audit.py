"""Step 7: every copy is read again, within a budget; what lies on a storage is what the catalogue says; and a disk that
is not there is no disk that is empty."""

import os
import random
import threading
import time
import tracemalloc
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import TOPOLOGY, World

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.errors import Conflict, Invalid, LightkeeperError, NotFound, Refused, Unavailable
from lightkeeper.ports import Entry
from lightkeeper.steps import audit, compare, content, delete, heal, markers, replicate, topology, transfer
from lightkeeper.steps.content import Wanted
from lightkeeper.store import catalog

FILE = "/test/raw/n1.plain"
CENTRES = ("north", "east", "south")


def names(n: int) -> list[str]:
    return [f"/test/raw/n{i:04}.plain" for i in range(n)]


def on_disk(world: World, storage: str, lfn: str) -> Path:
    return world.root / storage / lfn.lstrip("/")


def flip(path: Path, bit: int) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[bit // 8 % len(damaged)] ^= 1 << bit % 8
    path.write_bytes(damaged)


def scrub_now(world: World, *storages: str) -> None:
    """Whole passes over storages."""
    for storage in storages:
        assert audit.begin_scrub(world.ctx, storage)
    while audit.scrub(world.ctx):
        pass
    assert world.value("SELECT count(*) FROM scrub_pass WHERE ended IS NULL") == 0


def heal_copies(world: World) -> None:
    while audit.recheck(world.ctx):
        pass
    world.settle()


def told(world: World, storage: str) -> audit.Scrub:
    return audit.scrubs(world.ctx, storage)[0]


def with_settings(world: World, **settings: Any) -> World:
    return world.having(settings=world.ctx.settings.model_copy(update=settings))


def stray(world: World, storage: str, path: str, content: str = "dark", age: timedelta = timedelta(days=3)) -> Path:
    """A file that somebody wrote behind our back, some time ago."""
    file = on_disk(world, storage, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    os.utime(file, times=(time.time() - age.total_seconds(),) * 2)
    return file


def an_hour_ago(world: World) -> None:
    """Everything that the catalogue knows happened an hour ago."""
    world.value("""
        UPDATE replica SET written_at = written_at - interval '1 h', verified_at = verified_at - interval '1 h',
                           state_since = state_since - interval '1 h'
    """)


# --- scrub -----------------------------------------------------------------------------------------------------
@pytest.mark.feature("S3-005")
def test_a_bit_flipped_in_each_of_fifty_copies_is_found_in_one_pass_and_repaired_from_a_good_copy(world: World):
    chosen = random.Random(12)
    lfns = names(250)
    world.register(*lfns, storage="north")
    world.settle()
    copies = sorted((lfn, storage) for lfn in lfns for storage in world.copies(lfn))
    assert len(copies) == 500
    damaged = chosen.sample(copies, 50)
    twice = {lfn for lfn, _ in damaged if sum(other == lfn for other, _ in damaged) > 1}
    damaged = [(lfn, storage) for lfn, storage in damaged if lfn not in twice]  # nobody can repair those
    for lfn, storage in damaged:
        flip(on_disk(world, storage, lfn), chosen.randrange(1000))
    scrub_now(world, *CENTRES)
    assert sum(told(world, storage).faults for storage in CENTRES) == len(damaged) >= 40
    heal_copies(world)
    for lfn in lfns:
        good = [storage for storage, state in world.copies(lfn).items() if state == "Available"]
        assert len(good) == 2
        assert all(on_disk(world, storage, lfn).read_bytes() == f"content of {lfn}".encode() for storage in good)
    assert world.value("SELECT count(*) FROM intent") == 0, "nothing was deleted"
    assert world.value("SELECT count(*) FROM remedy WHERE what LIKE '%given up%'") == len(damaged)
    scrub_now(world, *CENTRES)
    assert sum(told(world, storage).faults for storage in CENTRES) == 0


def test_a_copy_that_read_wrong_once_and_right_the_second_time_is_kept(world: World):
    world.register(FILE)
    good = on_disk(world, "north", FILE).read_bytes()
    flip(on_disk(world, "north", FILE), 3)
    scrub_now(world, "north")
    assert world.copies(FILE)["north"] == "Suspect"
    on_disk(world, "north", FILE).write_bytes(good)
    heal_copies(world)
    assert world.copies(FILE)["north"] == "Available"


def test_no_more_is_read_than_the_budget_and_one_file(world: World):
    lfns = names(12)
    world.register(*lfns)
    size = len(f"content of {lfns[0]}")
    topology.apply(
        world.ctx, TOPOLOGY.replace("ROOT", str(world.root)).replace('/north"}', '/north", scrub: {rate: 64 B/s}}')
    )
    audit.begin_scrub(world.ctx, "north")
    read = []
    for seconds in range(12):
        while audit.scrub(world.ctx):
            pass
        read.append((seconds, told(world, "north").bytes_read))
        world.value("UPDATE storage_audit SET not_before = not_before - interval '1 s'")
    assert all(done <= 64 * (at + 1) + size for at, done in read), read
    assert read[-1][1] == 12 * size, "and what the budget allows is read"
    while audit.scrub(world.ctx):
        pass
    assert told(world, "north").complete


def test_a_budget_that_was_not_used_is_not_saved_up_for_ever(world: World):
    world.register(*names(10))
    tight = with_settings(world, scrub_rate=2)
    audit.begin_scrub(world.ctx, "north")
    world.value("UPDATE storage_audit SET not_before = now() - interval '1 year'")
    while audit.scrub(tight.ctx):
        pass
    assert 2 * 60 <= told(world, "north").bytes_read <= 2 * 60 + 100


def test_a_pass_goes_on_after_a_restart_where_it_was(world: World, monkeypatch: pytest.MonkeyPatch):
    lfns = names(30)
    world.register(*lfns)
    monkeypatch.setattr(audit, "TURN", 7)
    audit.begin_scrub(world.ctx, "north")
    audit.scrub(world.ctx)
    audit.scrub(world.ctx)
    assert told(world, "north").read == 14
    with world.ctx.db.transaction() as conn:  # killed while it read: the turn was taken and nothing came of it
        assert audit.passes.claim(conn, world.storages[1].storage_id, timedelta(hours=1))
    assert not audit.scrub(world.ctx), "somebody reads there"
    world.value("UPDATE storage_audit SET lease_until = now() - interval '1 s'")
    opened: list[str] = []
    ready = PosixStorage.open

    def noted(self: PosixStorage, path: str) -> Any:
        opened.append(path)
        return ready(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(PosixStorage, "open", noted)
        while audit.scrub(world.ctx):
            pass
    assert [path for path in opened if path != markers.MARKER] == lfns[14:]
    assert told(world, "north").read == 30


def test_of_two_workers_on_a_storage_one_reads_and_a_late_one_changes_nothing(world: World):
    world.register(*names(3))
    audit.begin_scrub(world.ctx, "north")
    element = next(s for s in world.storages if s.name == "north")
    plan = audit.Schedule(timedelta(days=1), 10**6)
    with world.ctx.db.transaction() as conn:
        late = audit.passes.claim(conn, element.storage_id, timedelta(0))
        assert late
    assert audit.scrub(world.ctx), "its lease is over"
    assert not audit._take_turn(world.ctx, element, plan, late)
    assert told(world, "north").read == 3


def test_copies_verified_since_the_pass_began_are_not_read_again(world: World):
    lfns = names(6)
    world.register(*lfns[:3])
    audit.begin_scrub(world.ctx, "north")
    world.register(*lfns[3:])
    while audit.scrub(world.ctx):
        pass
    assert told(world, "north").read == 3


def test_a_pass_begins_when_the_last_one_began_a_period_ago_and_never_on_tape_unless_it_is_said(world: World):
    assert not audit.scrub(world.ctx)
    assert {s.storage: s.state for s in audit.scrubs(world.ctx)}["vault"] == "never"
    world.value("UPDATE storage_audit SET began = began - interval '89 days'")
    assert not audit.scrub(world.ctx)
    world.value("UPDATE storage_audit SET began = began - interval '1 day'")
    while audit.scrub(world.ctx):
        pass
    assert world.value("SELECT count(*) FROM scrub_pass WHERE ended IS NOT NULL") == 4
    assert all(s.complete or s.storage == "vault" for s in audit.scrubs(world.ctx))
    world.value("UPDATE storage_audit SET began = began - interval '1 year'")
    assert not audit.scrub(with_settings(world, scrub_every=timedelta(0)).ctx), "never, when the settings say so"


def test_the_schedule_of_a_storage_stands_in_the_topology_and_applies_once(world: World):
    text = TOPOLOGY.replace("ROOT", str(world.root)).replace(
        "media: tape}", "media: tape, scrub: {every: 30 d, rate: 2 MB/s}}"
    )
    assert topology.apply(world.ctx, text) == ["storage vault: scrub as in the settings → every 30 d at 2 MB/s"]
    assert topology.apply(world.ctx, text) == []
    vault = told(world, "vault")
    assert (vault.every_days, vault.rate) == (30, 2_000_000)
    for wrong, why in (("{every: 90}", "not a time"), ("{rate: fast}", "not a rate"), ("{evry: 1 d}", "unknown key")):
        with pytest.raises(Invalid, match=why):
            topology.apply(world.ctx, text.replace("{every: 30 d, rate: 2 MB/s}", wrong))
    for never in ("never", "0"):
        topology.apply(world.ctx, text.replace("every: 30 d", f"every: {never}"))
        assert told(world, "vault").state == "never"


def test_the_days_for_a_full_pass_are_told(world: World):
    world.register(FILE)
    world.value("UPDATE storage_count SET n_bytes = 10000000000000")
    assert round(told(world, "north").days, 2) == 2.31
    world.value("UPDATE storage_count SET n_bytes = %s", len(f"content of {FILE}"))


def test_a_copy_that_alone_cannot_be_read_now_is_passed_over_and_told(world: World, monkeypatch: pytest.MonkeyPatch):
    lfns = names(4)
    world.register(*lfns)
    ready = PosixStorage.open

    def busy(self: PosixStorage, path: str) -> Any:
        if path == lfns[1]:
            raise Unavailable("being staged from tape")
        return ready(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(PosixStorage, "open", busy)
        scrub_now(world, "north")
    assert (told(world, "north").read, told(world, "north").unread, told(world, "north").faults) == (3, 1, 0)
    assert world.copies(lfns[1])["north"] == "Available"


# --- the disk that is not there --------------------------------------------------------------------------------
def unmount(world: World, storage: str) -> Path:
    """An empty folder where the disk was; returns where the disk is."""
    away = world.root / f"{storage}-disk"
    (world.root / storage).rename(away)
    (world.root / storage).mkdir()
    return away


def mount(world: World, storage: str, away: Path) -> None:
    for left in sorted((world.root / storage).rglob("*"), reverse=True):
        left.rmdir() if left.is_dir() else left.unlink()
    (world.root / storage).rmdir()
    away.rename(world.root / storage)


def test_a_storage_that_is_not_mounted_loses_nothing_whoever_looks(world: World):
    lfns = names(20)
    world.register(*lfns)
    world.settle()
    an_hour_ago(world)
    before = {lfn: world.copies(lfn) for lfn in lfns}
    away = unmount(world, "north")
    audit.begin_scrub(world.ctx, "north")
    assert not audit.scrub(world.ctx)
    assert "is not mounted, or it is another one" in told(world, "north").trouble
    with pytest.raises(Unavailable, match="the disk of north is not mounted"):
        compare.compare(world.ctx, "north")
    content.suspect(world.ctx, lfns[0], "north", "somebody says so")
    assert audit.recheck(world.ctx) == 0
    (violation,) = [v for v in world.violations() if "north" in v]
    assert "is not mounted" in violation
    assert {lfn: world.copies(lfn) for lfn in lfns} == before
    mount(world, "north", away)
    world.value("UPDATE storage_audit SET not_before = now()")
    while audit.scrub(world.ctx):
        pass
    assert (told(world, "north").read, told(world, "north").faults, told(world, "north").trouble) == (20, 0, "")


def test_a_disk_that_goes_while_it_is_read_or_listed_loses_nothing(world: World, monkeypatch: pytest.MonkeyPatch):
    lfns = names(5)
    world.register(*lfns)
    an_hour_ago(world)
    ready_open, ready_list = PosixStorage.open, PosixStorage.list
    away: list[Path] = []

    def going(self: PosixStorage, path: str) -> Any:
        if path == lfns[2] and not away:
            away.append(unmount(world, "north"))
        return ready_open(self, path)

    def gone(self: PosixStorage, prefix: str = "/") -> Iterator[Entry]:
        found = list(ready_list(self, prefix))
        away.append(unmount(world, "north"))
        yield from found[:2]

    audit.begin_scrub(world.ctx, "north")
    with monkeypatch.context() as patch:
        patch.setattr(PosixStorage, "open", going)
        assert not audit.scrub(world.ctx)
    mount(world, "north", away.pop())
    with monkeypatch.context() as patch:
        patch.setattr(PosixStorage, "list", gone)
        with pytest.raises(Unavailable):
            compare.compare(world.ctx, "north")
    mount(world, "north", away.pop())
    assert world.value("SELECT count(*) FROM history WHERE kind = 'replica'") == 0


def test_another_disk_at_the_place_of_one_is_not_taken_for_it(world: World):
    world.register(FILE)
    away = unmount(world, "north")
    PosixStorage("x", world.root / "north").write(
        markers.MARKER, [(world.root / "east/.lightkeeper/storage").read_bytes()]
    )
    element = next(s for s in world.storages if s.name == "north")
    with pytest.raises(Unavailable, match="marker of another storage"):
        markers.ensure(world.ctx, element)
    with pytest.raises(Conflict, match="it is storage 'east' of this or another instance"):
        audit.mark(world.ctx, "north")
    mount(world, "north", away)


def test_a_root_that_is_another_storage_is_refused(world: World):
    text = f"sites: {{New: {{}}}}\nstorages:\n  new: {{site: New, root: {world.root}/north}}\n"
    with pytest.raises(Conflict, match="it is storage 'north'"):
        topology.apply(world.ctx, text)


def test_a_new_disk_is_the_storages_when_a_person_says_so_and_what_is_gone_is_made_again(world: World):
    lfns = names(6)
    world.register(*lfns)
    world.settle()
    an_hour_ago(world)
    unmount(world, "north")
    audit.mark(world.ctx, "north")
    assert compare.compare(world.ctx, "north").counts.lost == 6
    heal_copies(world)
    assert all(list(world.copies(lfn).values()).count("Available") == 2 for lfn in lfns)


def forget_marker(world: World, storage: str) -> None:
    """As a storage was before there were markers."""
    (world.root / storage / ".lightkeeper/storage").unlink(missing_ok=True)
    world.value("UPDATE storage_audit SET marked = NULL FROM storage s WHERE s.storage_id = storage_audit.storage_id "
                "AND s.name = %s", storage)  # fmt: skip


def test_a_storage_of_before_gets_its_marker_when_its_copies_are_there_and_not_when_it_is_empty(world: World):
    world.register(*names(30))
    forget_marker(world, "north")
    away = unmount(world, "north")
    element = next(s for s in world.storages if s.name == "north")
    stray(world, "north", "/lost+found/x")
    stray(world, "north", names(1)[0], "written while the disk was away")
    with pytest.raises(Unavailable, match="0 of 20 copies that should be there are"):
        markers.ensure(world.ctx, element)
    assert not (world.root / "north/.lightkeeper/storage").exists()
    mount(world, "north", away)
    topology.apply(world.ctx, TOPOLOGY.replace("ROOT", str(world.root)))
    assert (world.root / "north/.lightkeeper/storage").exists()
    assert told(world, "north").trouble == ""


def test_a_crash_between_the_database_and_the_disk_is_mended_by_the_next_call(world: World):
    element = next(s for s in world.storages if s.name == "north")
    world.value("UPDATE storage_audit SET marked = NULL")
    markers.ensure(world.ctx, element)
    assert world.value("SELECT count(marked) FROM storage_audit") == 1


def test_the_root_of_an_empty_storage_may_change_and_change_back(world: World):
    (world.root / "elsewhere").mkdir()
    text = TOPOLOGY.replace("ROOT", str(world.root))
    topology.apply(world.ctx, text.replace(f"{world.root}/north", f"{world.root}/elsewhere"))
    assert (world.root / "elsewhere/.lightkeeper/storage").exists()
    topology.apply(world.ctx, text)
    assert compare.compare(world.ctx, "north").counts.lost == 0


# --- listing against catalogue ---------------------------------------------------------------------------------
@pytest.mark.feature("X-03")
def test_dark_and_lost_files_are_found_exactly(world: World):
    lfns = names(50)
    world.register(*lfns)
    world.settle()
    an_hour_ago(world)
    dark = [f"/test/raw/dark{i}.plain" for i in range(7)] + ["/elsewhere/a b's [file]", "/top"]
    for path in dark:
        stray(world, "north", path)
    stray(world, "north", "/test/raw/new.plain", age=timedelta(hours=1))
    lost = lfns[3:6]
    on_disk(world, "north", lost[0]).unlink()
    on_disk(world, "north", lost[1]).write_bytes(b"shorter")
    on_disk(world, "north", lost[2]).unlink()
    found = compare.compare(world.ctx, "north")
    assert found.dark == sorted(dark)
    assert [copy.lfn for copy in found.lost] == lost
    assert (found.counts.listed, found.counts.young, found.counts.dark, found.counts.lost) == (58, 1, 9, 3)
    assert [one.path for one in compare.dark(world.ctx, "north")] == sorted(dark)
    assert {world.copies(lfn)["north"] for lfn in lost} == {"Suspect"}
    heal_copies(world)
    assert all(list(world.copies(lfn).values()).count("Available") == 2 for lfn in lfns)
    assert compare.compare(world.ctx, "east").counts.dark == 0
    on_disk(world, "north", dark[0]).unlink()
    again = compare.compare(world.ctx, "north")
    assert (again.counts.dark, again.counts.lost) == (8, 0)
    assert len(compare.dark(world.ctx, "north")) == 8
    world.value("UPDATE comparison SET began = now() - interval '8 days'")
    assert compare.compare_due(world.ctx) == 5


def test_deliveries_that_are_not_announced_yet_are_not_dark_and_leftovers_of_freed_files_are(world: World):
    world.deliver(FILE)
    world.ingest()
    world.settle()
    leftover = world.deliver(FILE, trigger=False)
    world.deliver("/test/raw/n2.plain", trigger=False)
    world.deliver("/test/raw/n3.plain")
    for file in (world.root / "mountain").rglob("*.plain"):
        os.utime(file, times=(1, 1))
    found = compare.compare(world.ctx, "mountain")
    assert found.dark == [FILE]
    with pytest.raises(Refused, match="belongs to the array control"):
        compare.delete(world.ctx, "mountain", [FILE], "left over")
    assert leftover.exists()


def test_what_is_on_its_way_is_not_accused(world: World, monkeypatch: pytest.MonkeyPatch):
    """Arrivals, a transfer that was renamed and not recorded, a put at its last moment; without any grace."""
    eager = with_settings(world, dark_after=timedelta(0))
    world.register(FILE)
    replicate.settle(world.ctx)
    target = world.value("SELECT s.name FROM transfer JOIN storage s ON s.storage_id = target_id")
    stray(world, target, "/.lightkeeper/arrivals/1.1")
    stray(world, target, FILE, "arrived a moment ago, not recorded yet")
    assert compare.compare(eager.ctx, target).counts.dark == 0
    on_disk(world, target, FILE).unlink()
    world.settle()

    compared = threading.Event()
    seen: list[int] = []
    ready = catalog.register

    def slowly(*arguments: Any, **more: Any) -> Any:
        result = ready(*arguments, **more)
        compared.wait(1)
        return result

    renamed = PosixStorage.rename

    def watched(self: PosixStorage, source: str, to: str) -> None:
        renamed(self, source, to)

        def look() -> None:
            seen.append(compare.compare(eager.ctx, "north").counts.dark)
            compared.set()

        looking.append(threading.Thread(target=look))
        looking[0].start()
        compared.wait(1)  # it waits for us

    looking: list[threading.Thread] = []
    with monkeypatch.context() as patch:
        patch.setattr(PosixStorage, "rename", watched)
        patch.setattr(catalog, "register", slowly)
        content.put(world.ctx, Wanted("/test/put/a", "north", {"level": 2}), [b"put"])
    looking[0].join()
    assert seen == [0]
    world.settle()


def test_a_copy_that_arrives_or_is_freed_while_a_storage_is_listed_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    world.register(FILE)
    an_hour_ago(world)
    ready = PosixStorage.list

    def meanwhile(self: PosixStorage, prefix: str = "/") -> Iterator[Entry]:
        found = list(ready(self, prefix))
        world.register("/test/raw/late.plain")
        yield from found

    with monkeypatch.context() as patch:
        patch.setattr(PosixStorage, "list", meanwhile)
        assert compare.compare(world.ctx, "north").counts.lost == 0


def test_a_listing_that_breaks_off_is_no_listing(world: World, monkeypatch: pytest.MonkeyPatch):
    world.register(*names(5))
    an_hour_ago(world)
    stray(world, "north", "/dark")
    ready = PosixStorage.list

    def broken(self: PosixStorage, prefix: str = "/") -> Iterator[Entry]:
        yield next(ready(self, prefix))
        raise Unavailable("the disk fell asleep")

    with monkeypatch.context() as patch:
        patch.setattr(PosixStorage, "list", broken)
        with pytest.raises(Unavailable, match="fell asleep"):
            compare.compare(world.ctx, "north")
        assert compare.compare_due(world.ctx) == 0
    assert compare.dark(world.ctx, "north") == []
    assert world.value("SELECT count(*) FROM replica WHERE state <> 'Available'") == 0


def test_a_storage_is_compared_by_one_at_a_time(world: World):
    element = next(s for s in world.storages if s.name == "north")
    with world.ctx.db.session() as session, compare.comparison.alone(session, element.storage_id) as ours:
        assert ours
        with pytest.raises(Conflict, match="is being compared already"):
            compare.compare(world.ctx, "north")
    compare.compare(world.ctx, "north")


def test_twenty_thousand_files_are_compared_in_constant_memory(world: World, monkeypatch: pytest.MonkeyPatch):
    def listing(n: int) -> Any:
        def entries(_self: PosixStorage, _prefix: str = "/") -> Iterator[Entry]:
            for i in range(n):
                yield Entry(f"/test/dark/{i // 1000:03}/a-file-with-a-long-name-{i:06}.fits.fz", i, 1.0)

        return entries

    monkeypatch.setattr(compare, "BLOCK", 1000)

    def highest(n: int) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(PosixStorage, "list", listing(n))
            tracemalloc.start()
            assert compare.compare(world.ctx, "north").counts.dark == n
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return peak

    highest(1000)
    assert highest(20_000) < 1.5 * highest(2000)


def test_names_that_are_no_text_are_counted_and_left_alone(world: World):
    raw = os.fsencode(world.root / "north") + b"/caf\xe9"
    Path(os.fsdecode(raw)).write_text("x")
    os.utime(raw, times=(1, 1))
    counts = compare.compare(world.ctx, "north").counts
    assert (counts.listed, counts.unnamed, counts.dark) == (1, 1, 0)


# --- dark files ------------------------------------------------------------------------------------------------
def refusals(dealt: compare.Dealt) -> str:
    return "; ".join(failure.error for failure in dealt.failed)


def test_a_dark_file_is_deleted_with_a_line_of_history_and_never_by_itself(world: World):
    file = stray(world, "north", "/left/over.txt")
    compare.compare(world.ctx, "north")
    assert compare.delete(world.ctx, "north", ["/left/over.txt"], "asked its owner", dry_run=True).done
    assert file.exists()
    assert compare.delete(world.ctx, "north", ["/left/over.txt"], "asked its owner").done == ["/left/over.txt"]
    assert not file.exists()
    assert world.value("SELECT why FROM history WHERE target = 'Deleted'") == "/left/over.txt, 4 bytes: asked its owner"
    assert compare.dark(world.ctx, "north") == []
    assert "is not among the dark files" in refusals(compare.delete(world.ctx, "north", ["/left/over.txt"], "again"))


PLAIN = '{"level": 1}\nthe same'
"""What a reader of such files takes."""


def test_what_is_not_dark_any_more_is_not_deleted(world: World):
    paths = [f"/test/raw/{name}.plain" for name in ("changed", "put", "registered", "coming", "young", "removed")]
    for path in paths:
        stray(world, "north", path, PLAIN if path == paths[1] else f"content of {path}")
    compare.compare(world.ctx, "north")
    changed, put, registered, coming, young, _ = (on_disk(world, "north", path) for path in paths)
    changed.write_text("somebody needs it after all")
    content.put(world.ctx, Wanted(paths[1], "north", {"level": 1}), [put.read_bytes()])
    world.register(paths[2])
    world.register(paths[3], storage="east")
    element = next(s for s in world.storages if s.name == "north")
    world.value(
        "INSERT INTO transfer (file_id, target_id) SELECT f.file_id, %s FROM file f WHERE f.name = 'coming.plain'",
        element.storage_id,
    )
    os.utime(young, times=(time.time(),) * 2)
    world.value("UPDATE dark_file SET modified = to_timestamp(%s) WHERE path = %s", young.stat().st_mtime, paths[4])
    dealt = compare.delete(world.ctx, "north", paths, "tidy up")
    assert dealt.done == [paths[5]]
    said = {failure.path: failure.error for failure in dealt.failed}
    assert "somebody wrote it since" in said[paths[0]]
    assert "the catalogue has a copy there" in said[paths[1]]
    assert "the catalogue has a copy there" in said[paths[2]]
    assert "a transfer brings it" in said[paths[3]]
    assert "younger than the time of grace" in said[paths[4]]
    assert all(file.exists() for file in (changed, put, registered, coming, young))
    world.settle()


def test_a_put_and_a_deletion_of_one_name_wait_for_each_other(world: World, monkeypatch: pytest.MonkeyPatch):
    """The deletion has looked; the put of the same content comes before it is carried out."""
    path = "/test/raw/a.plain"
    stray(world, "north", path, PLAIN)
    compare.compare(world.ctx, "north")
    ready = PosixStorage.delete
    putting: list[threading.Thread] = []
    failed: list[LightkeeperError] = []

    def put() -> None:
        try:
            content.put(world.ctx, Wanted(path, "north", {"level": 1}), [PLAIN.encode()])
        except LightkeeperError as error:
            failed.append(error)

    def slowly(self: PosixStorage, target: str) -> bool:
        if target == path and not putting:
            putting.append(threading.Thread(target=put))
            putting[0].start()
            time.sleep(0.5)
            assert putting[0].is_alive(), "it waits for the name"
        return ready(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(PosixStorage, "delete", slowly)
        assert compare.delete(world.ctx, "north", [path], "tidy up").done
        putting[0].join()
    assert failed == []
    assert world.copies(path) == {"north": "Available"}
    assert on_disk(world, "north", path).read_text() == PLAIN
    world.settle()


def test_a_dark_file_is_adopted_with_metadata_and_is_a_file_like_others(world: World):
    paths = ["/test/raw/a.plain", "/test/raw/b.plain", "/odd name"]
    for path in paths:
        stray(world, "north", path, PLAIN)
    stray(world, "north", "/test/raw/damaged.plain", PLAIN + " size=5")
    compare.compare(world.ctx, "north")
    assert len(compare.adopt(world.ctx, "north", paths[:2], {"level": 1}, dry_run=True).done) == 2
    assert world.files() == []
    dealt = compare.adopt(world.ctx, "north", paths, {"level": 1, "night": "2030-01-02"})
    assert dealt.done == paths[:2]
    assert "is not a file name of the catalogue" in refusals(dealt)
    assert [file.meta["level"] for file in world.files()] == [1, 1]
    world.settle()
    assert len(world.copies(paths[0])) == 2, "its policy holds for it"
    damaged = compare.adopt(world.ctx, "north", ["/test/raw/damaged.plain"], {"level": 1})
    assert "is not taken into the archive" in refusals(damaged), "the rule of every product that comes in"
    assert {one.path for one in compare.dark(world.ctx, "north")} == {"/odd name", "/test/raw/damaged.plain"}
    with pytest.raises(Invalid, match="unknown metadata key"):
        compare.adopt(world.ctx, "north", ["/odd name"], {"levl": 1})


def test_a_dark_file_under_a_name_with_another_content_is_not_adopted(world: World):
    world.register(FILE, storage="east")
    stray(world, "north", FILE, "something else")
    world.value("DELETE FROM unsettled")
    compare.compare(world.ctx, "north")
    assert "registered already with another content" in refusals(compare.adopt(world.ctx, "north", [FILE], {}))
    assert compare.delete(world.ctx, "north", [FILE], "not ours").done == [FILE]
    heal.clear_temporaries(world.ctx)


def test_unknown_and_disabled_storages_are_told(world: World):
    with pytest.raises(NotFound, match="'nroth' does not exist"):
        compare.compare(world.ctx, "nroth")
    off = TOPOLOGY.replace("ROOT", str(world.root)).replace('/north"}', '/north", enabled: false}')
    topology.apply(world.ctx, off)
    for call in (compare.compare, audit.begin_scrub):
        with pytest.raises(Refused, match="is disabled"):
            call(world.ctx, "north")
    assert told(world, "north").state == "disabled"


def test_a_transfer_or_a_deletion_does_not_touch_a_disk_that_is_not_mounted(world: World):
    world.deliver(FILE)
    world.ingest()
    for _ in range(3):
        replicate.settle(world.ctx)
        transfer.carry_out(world.ctx)
    away = unmount(world, "mountain")
    delete.delete(world.ctx)
    assert world.copies(FILE)["mountain"] == "Available"
    mount(world, "mountain", away)
    world.settle()
    assert "mountain" not in world.copies(FILE)
    world.register("/test/raw/n2.plain")
    away = {name: unmount(world, name) for name in ("east", "south")}
    replicate.settle(world.ctx)
    transfer.carry_out(world.ctx)
    assert world.copies("/test/raw/n2.plain") == {"north": "Available"}
    for name, disk in away.items():
        mount(world, name, disk)
    world.settle()
    assert len(world.copies("/test/raw/n2.plain")) == 2
