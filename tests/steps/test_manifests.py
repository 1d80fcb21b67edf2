"""Step 7, for the day when the catalogue is lost: manifests beside the data, and a catalogue made again from them."""

import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.conftest import World
from tests.steps.test_audit import names, on_disk, with_settings

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain import manifest
from lightkeeper.domain.errors import Corrupt, Refused
from lightkeeper.steps import audit, compare, delete, files, heal, manifests, recovery, replicate, topology
from lightkeeper.store import provenance
from lightkeeper.store.db import Database

FILE = "/test/raw/n1.plain"
FreshWorlds = Callable[[], AbstractContextManager[World]]


def tell(world: World) -> None:
    """Everything that is due is told."""
    now = with_settings(world, manifest_after=timedelta(0))
    world.value("UPDATE manifest_due SET since = since - interval '2 d'")
    while manifests.write_due(now.ctx):
        pass
    assert world.value("SELECT count(*) FROM manifest_due") == 0


def told(world: World, storage: str) -> list[Path]:
    """Manifests on a storage, oldest first."""
    return sorted((world.root / storage / ".lightkeeper" / "manifests").rglob("*.manifest"), key=lambda p: p.name)


def rows(world: World, query: str) -> list[Any]:
    with world.ctx.db.transaction() as conn:
        return conn.execute(query).fetchall()


def element(world: World, name: str) -> Any:
    return next(s for s in world.storages if s.name == name)


def lost_catalogue(old: World, new: World, *storages: str) -> World:
    """A new catalogue beside the data of an old one, as an operator sets it up on the day after."""
    for name in storages:
        shutil.rmtree(new.root / name)
        subprocess.run(["cp", "-a", str(old.root / name), str(new.root / name)], check=True)
        (new.root / name / ".lightkeeper" / "storage").unlink()
        new.value("UPDATE storage_audit SET marked = NULL WHERE storage_id = %s", element(new, name).storage_id)
    return new


def everything(world: World, storage: str) -> list[Any]:
    """The rows of a storage, with all that a manifest must tell."""
    with world.ctx.db.transaction() as conn:
        return conn.execute(
            """
            SELECT d.path || '/' || f.name, sc.name, f.size, encode(f.sha256, 'hex'), f.adler32, f.created,
                   m.state::text, m.meta, f.extra, a.uuid, a.name, a.agent, a.software, a.started, a.ended,
                   (SELECT body FROM document WHERE sha256 = a.configuration),
                   ARRAY(SELECT ud.path || '/' || uf.name FROM used u JOIN file uf USING (file_id)
                           JOIN directory ud USING (dir_id) WHERE u.activity_id = a.activity_id ORDER BY 1),
                   (SELECT bd.path || '/' || b.name FROM supersession x JOIN file b ON b.file_id = x.by_id
                      JOIN directory bd ON bd.dir_id = b.dir_id WHERE x.file_id = f.file_id)
              FROM replica r JOIN storage s USING (storage_id) JOIN file f USING (file_id)
              JOIN directory d USING (dir_id)
              JOIN scope sc USING (scope_id) JOIN meta_set m USING (set_id) JOIN activity a USING (activity_id)
             WHERE s.name = %s ORDER BY 1
            """,
            (storage,),
        ).fetchall()


def a_history(world: World) -> None:
    """Files with everything that a file can have: own metadata, a newer version, a maker with inputs."""
    raw = world.register(*names(6), kind="gamma", zenith=20.0)
    world.register("/test/raw/numbered.plain", number=7)
    with world.ctx.db.transaction() as conn:
        activity = provenance.add_activity(
            conn, name="merge", agent="a test", software={"cat": "9.1"}, configuration={"α": [1, 2]},
            used=[raw[names(6)[0]], raw[names(6)[1]]],
        )  # fmt: skip
    made = world.register("/test/products/joined", "/user/maria/own/old", "/user/maria/own/new", level=1)
    world.value("ALTER TABLE file DISABLE TRIGGER immutable")
    world.value("UPDATE file SET activity_id = %s WHERE file_id = %s", activity, made["/test/products/joined"])
    world.value("ALTER TABLE file ENABLE TRIGGER immutable")
    world.settle()
    files.supersede(world.ctx, [("/user/maria/own/old", "/user/maria/own/new")], "a better one")
    files.mark_corrupted(world.ctx, [names(6)[2]], "the camera was off")


# --- writing ---------------------------------------------------------------------------------------------------
def test_a_manifest_tells_of_every_copy_in_one_file_that_ordinary_tools_check(world: World):
    world.register(*names(50))
    world.settle()
    tell(world)
    held = dict(rows(world, "SELECT name, count(*) FROM replica JOIN storage USING (storage_id) GROUP BY name"))
    assert len(held) == 2
    for storage, n in held.items():
        paths = told(world, storage)
        assert len(paths) == 1, "in batches, not one for each file"
        root = world.root / storage
        relative = str(paths[0].relative_to(root))
        check = subprocess.run(["sha256sum", "-c", relative], cwd=root, capture_output=True, text=True, check=True)
        assert check.stdout.count(": OK") == n
        assert not check.stderr
        own = subprocess.run(["sha256sum", relative], cwd=root, capture_output=True, text=True, check=True).stdout
        assert own[:64] in paths[0].name, "the manifest itself is checked by its name"


def test_what_changes_is_told_in_a_later_manifest_and_the_earlier_one_stays_as_it_was(world: World):
    world.register(FILE, "/test/raw/other.plain")
    tell(world)
    first = {path: path.read_bytes() for path in told(world, "north")}
    files.set_metadata(world.ctx, [FILE], {"kind": "proton"})
    tell(world)
    assert {path: path.read_bytes() for path in told(world, "north")[:1]} == first
    items = list(manifest.read(str(told(world, "north")[1]), told(world, "north")[1].read_bytes()))
    assert [i.lfn for i in items if isinstance(i, manifest.Held)] == [FILE], "the other is not told of again"
    assert next(i for i in items if isinstance(i, manifest.MetaSet)).meta["kind"] == "proton"
    assert first.keys() and json.loads(told(world, "north")[1].read_text().splitlines()[0][2:])["previous"].endswith(
        told(world, "north")[0].name
    )


def test_a_deleted_a_lost_and_a_forgotten_copy_leave_a_line_each(world: World):
    for n in range(3):
        world.deliver(f"/test/raw/n{n}.plain")
    world.ingest()
    tell(world)
    world.settle()
    on_disk(world, "north", "/test/raw/n0.plain").unlink(missing_ok=True)
    audit.begin_scrub(world.ctx, "north")
    world.value(
        "UPDATE replica SET verified_at = verified_at - interval '1 h', written_at = written_at - interval '2 h'"
    )
    while audit.scrub(world.ctx) + audit.recheck(world.ctx):
        pass
    tell(world)
    gone = {
        (storage, item.lfn)
        for storage in ("mountain", "north")
        for path in told(world, storage)
        for item in manifest.read(str(path), path.read_bytes())
        if isinstance(item, manifest.Gone)
    }
    assert {lfn for storage, lfn in gone if storage == "mountain"} == {f"/test/raw/n{n}.plain" for n in range(3)}
    lost = world.value("SELECT count(*) FROM replica WHERE state = 'Lost'")
    assert len([1 for storage, _ in gone if storage == "north"]) == lost
    world.settle()
    tell(world)


def test_a_name_that_was_forgotten_and_registered_again_is_there_whatever_the_order_of_its_lines(world: World):
    world.register(FILE)
    with world.ctx.db.transaction() as conn:
        from lightkeeper.store import changes

        changes.forget(conn, [world.value("SELECT file_id FROM file")], "by mistake")
    world.register(FILE)
    world.value("ALTER TABLE manifest_due ALTER due_id SET GENERATED BY DEFAULT")
    world.value("UPDATE manifest_due SET due_id = due_id + 9999 WHERE name IS NULL")  # the line of its end comes last
    tell(world)
    items = [i for path in told(world, "north") for i in manifest.read(str(path), path.read_bytes())]
    assert [type(i) for i in items if isinstance(i, manifest.Held | manifest.Gone)] == [manifest.Held]


def test_a_storage_that_is_away_gets_its_manifest_when_it_is_back(world: World):
    world.register(FILE, storage="north")
    world.register("/test/raw/there.plain", storage="east")
    (world.root / "north").rename(world.root / "away")
    now = with_settings(world, manifest_after=timedelta(0))
    assert manifests.write_due(now.ctx) == 1
    assert told(world, "east")
    (world.root / "away").rename(world.root / "north")
    assert manifests.write_due(now.ctx) == 1
    assert told(world, "north")


def test_compare_and_the_cleaner_of_temporaries_leave_manifests_alone(world: World):
    world.register(FILE)
    tell(world)
    before = told(world, "north")
    eager = with_settings(world, dark_after=timedelta(0))
    assert compare.compare(eager.ctx, "north").counts.dark == 0
    world.value("UPDATE storage SET enabled = true")
    heal.clear_temporaries(world.ctx)
    PosixStorage("north", world.root / "north").probe()
    assert told(world, "north") == before


class Dies(Exception):
    """The machine stops here."""


class Dying(PosixStorage):
    """A storage whose writer dies before or after its nth operation on manifests."""

    after = 0
    done = 0

    @classmethod
    def step(cls) -> None:
        cls.done += 1
        if cls.done == cls.after:
            raise Dies

    def write(self, path: str, chunks: Any) -> int:
        self.step()
        size = super().write(path, chunks)
        self.step()
        return size

    def open(self, path: str) -> Any:
        if "manifests" in path:
            self.step()
        return super().open(path)


def test_nothing_that_is_due_is_ever_lost_wherever_the_writer_dies(fresh_worlds: FreshWorlds):
    for point in (1, 2, 3):
        with fresh_worlds() as world:
            world.register(*names(5))
            element_ = element(world, "north")
            Dying.done, Dying.after = 0, point
            with pytest.raises(Dies):
                manifests.write(world.having(storage_drivers={"posix": Dying}).ctx, element_)
            assert world.value("SELECT count(*) FROM manifest_due") == 5, "due until it is known to be told"
            assert not manifests.write(world.ctx, element_), "while the dead one's lease lasts"
            world.value("UPDATE manifest SET lease_until = now() - interval '1 s'")
            assert manifests.write(world.ctx, element_)
            assert world.value("SELECT count(*) FROM manifest_due") == 0
            assert world.value("SELECT count(*) FROM recovery") == 0, "its own manifest is no sign of a lost catalogue"
            assert manifests.faults(world.ctx, element_, 10) == []


def test_a_writer_that_was_slow_changes_nothing_after_another_took_over(world: World):
    world.register(FILE)

    class Slow(PosixStorage):
        def write(self, path: str, chunks: Any) -> int:
            world.value("UPDATE manifest SET lease_until = now() - interval '1 s'")
            assert manifests.write(world.ctx, element(world, "north"))
            files.set_metadata(world.ctx, [FILE], {"kind": "later"})
            return super().write(path, chunks)

    manifests.write(world.having(storage_drivers={"posix": Slow}).ctx, element(world, "north"))
    assert world.value("SELECT count(*) FROM manifest WHERE written IS NOT NULL") == 1
    assert world.value("SELECT count(*) FROM manifest_due") == 1, "the change is still to be told"


# --- checking --------------------------------------------------------------------------------------------------
def test_a_manifest_that_was_changed_or_removed_is_told_by_fsck_and_told_again(world: World):
    world.register(*names(3))
    tell(world)
    path = told(world, "north")[0]
    good = path.read_bytes()
    path.write_bytes(good.replace(b"level", b"lev3l"))
    assert any(v.startswith("I19") and "was changed" in v for v in world.violations())
    path.unlink()
    found = world.violations()
    assert any("is not there" in v for v in found)
    assert sum("no manifest tells of" in v for v in found) == 3
    assert audit.tell_again(world.ctx, "north") == 3
    tell(world)
    assert [v for v in world.violations() if "no manifest tells" in v] == []
    path.write_bytes(good)


def test_a_hostile_manifest_is_refused_and_names_no_path_outside(world: World):
    def of(text: str) -> tuple[str, bytes]:
        content = text.encode()
        from datetime import UTC, datetime

        return manifest.path_of(datetime(2030, 1, 2, tzinfo=UTC), manifest.digest_of(content)), content

    first = '# {"manifest": 1}\n# {"set": 0, "state": "Current", "meta": {}}\n'
    activity = (
        '# {"activity": 0, "uuid": "3b241101-e2bb-4255-8caf-4136c566a962", "name": "a", "agent": "b", "software": {},'
        ' "started": "2030-01-02T00:00:00+00:00", "ended": null, "environment": null, "configuration": null,'
        ' "used": []}\n'
    )
    facts = '# {"size": 1, "adler32": "00000001", "set": 0, "activity": 0, "created": "2030-01-02T00:00:00+00:00"}\n'
    assert len(list(manifest.read(*of(first + activity + facts + "0" * 64 + "  a/b\n")))) == 3
    for text in (
        "",
        "hello",
        '# {"manifest": 2}\n',
        first + '# {"gone": "../../etc/passwd"}\n',
        first + '# {"gone": "/a/../b"}\n',
        first + activity + facts + "0" * 64 + "  ../b\n",
        first + activity + facts + "0" * 63 + "  a/b\n",
        first + activity + "0" * 64 + "  a/b\n",
        first + facts + "0" * 64 + "  a/b\n",
        first + activity.replace("3b24", "zzzz"),
        first + "# []\n",
        first + '# {"set": 1, "state": "Odd", "meta": {}}\n',
        first + '# {"set": 1, "state": "Current", "meta": 3}\n',
        first + activity + facts.replace('"size": 1', '"size": -1') + "0" * 64 + "  a/b\n",
        "\udcff".encode(errors="surrogateescape").decode(errors="replace"),
    ):
        with pytest.raises(Corrupt):
            list(manifest.read(*of(text)))
    path, content = of(first)
    with pytest.raises(Corrupt, match="was changed"):
        list(manifest.read(path, content + b"\n"))
    with pytest.raises(Corrupt, match="no manifest"):
        list(manifest.read("/elsewhere", content))
    assert world.files() == []


# --- rebuilding ------------------------------------------------------------------------------------------------
def test_the_rows_of_one_centre_are_made_again_from_its_manifests_alone(world: World, fresh_worlds: FreshWorlds):
    a_history(world)
    tell(world)
    for name in names(6)[:3]:
        files.set_metadata(world.ctx, [name], {"zenith": 40.0})
    tell(world)
    before = everything(world, "north")
    assert len(before) == 10
    with fresh_worlds() as new:
        lost_catalogue(world, new, "north")
        tried = recovery.rebuild(new.ctx, "north", dry_run=True)
        assert (tried.files, tried.differences) == (10, {})
        assert new.files() == []
        assert new.value("SELECT count(*) FROM recovery") == 0
        done = recovery.rebuild(new.ctx, "north")
        assert (done.told, done.files, done.copies, done.differences, done.faults) == (10, 10, 0, {}, [])
        assert everything(new, "north") == before
        assert recovery.status(new.ctx).under_way
        assert new.value("SELECT count(*) FROM verified_copy") == 0, "nothing counts before it was read"
        assert new.value("SELECT count(*) FROM manifest_due") == 0, "and nothing has to be told again"
        while audit.recheck(new.ctx):
            pass
        assert new.value("SELECT count(*) FROM verified_copy") == 10
        again = recovery.rebuild(new.ctx, "north")
        assert (again.files, again.copies, again.agree, again.differences) == (0, 0, 10, {})
        assert new.violations() == []


def test_a_second_centre_adds_its_copies_to_the_rows_that_the_first_one_made(world: World, fresh_worlds: FreshWorlds):
    world.register(*names(20))
    world.settle()
    tell(world)
    copies = {lfn: world.copies(lfn) for lfn in names(20)}
    with fresh_worlds() as new:
        lost_catalogue(world, new, "north", "east", "south")
        first, *others = (recovery.rebuild(new.ctx, storage) for storage in ("north", "east", "south"))
        assert first.files == 20
        assert sum(o.files for o in others) == 0
        assert sum(o.copies for o in others) == 20
        assert {lfn: new.copies(lfn) for lfn in names(20)} == copies
        while audit.recheck(new.ctx):
            pass
        assert new.violations() == []


def test_a_copy_that_was_damaged_meanwhile_is_lost_when_it_is_read(world: World, fresh_worlds: FreshWorlds):
    world.register(*names(4))
    world.settle()
    tell(world)
    with fresh_worlds() as new:
        lost_catalogue(world, new, "north", "east", "south")
        on_disk(new, "north", names(4)[0]).write_text("other bytes")
        for storage in ("north", "east", "south"):
            recovery.rebuild(new.ctx, storage)
        while audit.recheck(new.ctx):
            pass
        assert new.copies(names(4)[0])["north"] == "Lost"
        new.settle()
        assert [*new.copies(names(4)[0]).values()].count("Available") == 2


def test_what_the_catalogue_knows_is_never_overwritten(world: World, fresh_worlds: FreshWorlds):
    lfns = names(5)
    world.register(*lfns, kind="gamma")
    files.mark_corrupted(world.ctx, [lfns[1]], "so it is")
    tell(world)
    with fresh_worlds() as new:
        new.register(lfns[0], kind="proton")
        new.register(lfns[1], kind="gamma")
        new.register(lfns[2], "/test/raw/only-known-here.plain", kind="gamma")
        lost_catalogue(world, new, "north")
        PosixStorage("north", new.root / "north").write(
            "/test/raw/only-known-here.plain", [b"content of /test/raw/only-known-here.plain"]
        )
        new.value("DELETE FROM manifest_due")  # they were told of long ago, in manifests of before
        known = everything(new, "north")
        done = recovery.rebuild(new.ctx, "north")
        assert done.files == 2
        assert done.differences == {"metadata": 1, "state": 1, "provenance": 1}
        assert {(d.what, d.lfn) for d in done.first} == {
            ("metadata", lfns[0]),
            ("state", lfns[1]),
            ("provenance", lfns[2]),
        }
        assert [row for row in everything(new, "north") if row[0] not in lfns[3:]] == known
        tell(new)
        assert sum("no manifest tells" in v for v in new.violations()) == 3, "a person decides about the three"
        assert audit.tell_again(new.ctx, "north") == 6
        tell(new)
        while audit.recheck(new.ctx):
            pass
        assert new.violations() == []


def test_metadata_that_this_catalogue_has_no_keys_for_are_told_of(world: World, fresh_worlds: FreshWorlds):
    world.register(FILE, kind="gamma")
    tell(world)
    with fresh_worlds() as new:
        new.value("DELETE FROM meta_key WHERE name = 'kind'")
        lost_catalogue(world, new, "north")
        for dry_run in (True, False):
            done = recovery.rebuild(new.ctx, "north", dry_run=dry_run)
            assert (done.files, done.differences) == (0, {"refused": 1})
            assert "kind" in done.first[0].why
        assert new.files() == []
        new.value("DELETE FROM manifest")  # this world ends without what it could not take


# --- recovery --------------------------------------------------------------------------------------------------
def test_nothing_is_deleted_during_a_recovery_and_everything_due_is_after_it(world: World):
    world.deliver(FILE)
    world.ingest()
    recovery.begin(world.ctx, "the backup of yesterday")
    world.register("/test/raw/removed.plain", level=1)
    dark = on_disk(world, "east", "/test/dark")
    dark.parent.mkdir(parents=True, exist_ok=True)
    dark.write_text("who knows?")
    world.settle()
    assert set(world.copies(FILE)) > {"mountain"}
    assert world.value("SELECT count(*) FROM intent") == 0
    files.remove(world.ctx, ["/test/raw/removed.plain"], "not needed")
    eager = with_settings(world, dark_after=timedelta(0))
    compare.compare(eager.ctx, "east")
    assert compare.delete(eager.ctx, "east", ["/test/dark"], "away with it").failed
    world.settle()
    assert on_disk(world, "mountain", FILE).exists()
    assert on_disk(world, "north", "/test/raw/removed.plain").exists()
    with pytest.raises(Refused, match="were not compared"):
        recovery.end(world.ctx)
    for storage in ("mountain", "north", "east", "south", "vault"):
        compare.compare(world.ctx, storage)
    assert recovery.end(world.ctx)
    assert not recovery.end(world.ctx)
    world.value("UPDATE unsettled SET not_before = now()")
    world.settle()
    assert not on_disk(world, "mountain", FILE).exists()
    assert not on_disk(world, "north", "/test/raw/removed.plain").exists()
    compare.compare(eager.ctx, "east")
    assert not compare.delete(eager.ctx, "east", ["/test/dark"], "away with it").failed


def test_a_deletion_that_was_approved_before_the_recovery_waits_for_its_end(world: World):
    world.deliver(FILE)
    world.ingest()
    from lightkeeper.steps import transfer

    while replicate.settle(world.ctx) + transfer.carry_out(world.ctx):
        pass
    assert world.value("SELECT count(*) FROM intent WHERE state = 'Approved'") == 1
    recovery.begin(world.ctx, "careful")
    assert delete.delete(world.ctx) == 0
    assert on_disk(world, "mountain", FILE).exists()
    recovery.end(world.ctx, "all is well")
    world.settle()
    assert not on_disk(world, "mountain", FILE).exists()


@contextmanager
def backup(world: World, server: str) -> Iterator[World]:
    """The catalogue as it is now, restored beside the storages whenever that is wanted."""
    name = world.value("SELECT current_database()")
    world.ctx.db.close()
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}_backup TEMPLATE {name}")
    database = Database(psycopg.conninfo.make_conninfo(server, dbname=f"{name}_backup"), max_connections=8)
    world = world.having(db=Database(psycopg.conninfo.make_conninfo(server, dbname=name), max_connections=8).open())
    try:
        yield world.having(db=database)
    finally:
        database.close()
        world.ctx.db.close()
        with psycopg.connect(server, autocommit=True) as conn:
            conn.execute(f"DROP DATABASE {name}_backup WITH (FORCE)")


def a_day_of_work(world: World, chosen: random.Random, day: int) -> None:
    """Files come, change, are freed, removed and damaged."""
    for n in range(8):
        world.deliver(f"/test/raw/d{day}n{n}.plain", content=f"light {day} {n}")
    world.ingest()
    world.settle()
    known = [file.lfn for file in world.files()]
    for lfn in chosen.sample(known, 3):
        files.set_metadata(world.ctx, [lfn], {"zenith": float(chosen.randrange(90))})
    made = [f"/test/made/d{day}n{n}" for n in range(4)]
    world.register(*made, level=1, storage=chosen.choice(("north", "east")))
    world.settle()
    files.remove(world.ctx, [chosen.choice(made)], "not needed any more")
    world.settle()


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.nightly) for n in range(1, 10))])
def test_a_catalogue_of_yesterday_is_reconciled_with_its_storages_and_deletes_nothing_meanwhile(
    fresh_worlds: FreshWorlds, server: str, seed: int
):
    """T26: what came since is registered again, what went since is believed no more."""
    chosen = random.Random(seed)
    storages = ("mountain", "north", "east", "south", "vault")
    with fresh_worlds() as world:
        a_day_of_work(world, chosen, 1)
        tell(world)
        with backup(world, server) as restored:
            now = restored.having(db=Database(world.ctx.db.url, max_connections=8).open())
            a_day_of_work(now, chosen, 2)
            tell(now)
            truth = {storage: everything(now, storage) for storage in storages}
            now.ctx.db.close()
            lie = {path: path.stat().st_mtime_ns for path in world.root.rglob("*") if path.is_file()}
            old = restored
            old.ctx.db.open()
            manifests.look_for_newer(old.ctx)
            assert recovery.status(old.ctx).under_way, "it notices by itself"
            old.settle()  # duties go on meanwhile
            contradicted: set[str] = set()
            for storage in storages:
                done = recovery.rebuild(old.ctx, storage)
                assert done.faults == []
                contradicted |= {one.lfn for one in done.first}
                compare.compare(with_settings(old, dark_after=timedelta(0)).ctx, storage)
            while audit.recheck(old.ctx):
                pass
            old.settle()
            assert recovery.end(old.ctx)
            assert all(path.exists() for path in lie if ".lightkeeper" not in path.parts), "nothing was deleted"
            for storage in storages:
                known = {row[0]: row for row in everything(old, storage)}
                assert [row for row in truth[storage] if row[0] not in contradicted and known.get(row[0]) != row] == []
            while audit.recheck(old.ctx):
                pass
            old.settle()
            for storage in storages:
                audit.tell_again(old.ctx, storage)
            tell(old)
            broken = [v for v in old.violations() if not v.startswith("I13 ") or "is dark since" not in v]
            assert broken == []


def test_a_storage_with_manifests_that_is_taken_up_by_a_new_catalogue_begins_a_recovery(
    world: World, fresh_worlds: FreshWorlds
):
    world.register(*names(3))
    tell(world)
    with fresh_worlds() as new:
        shutil.copytree(world.root / "north", new.root / "west")
        (new.root / "west" / ".lightkeeper" / "storage").unlink()
        west = f'{{version: 1, sites: {{West: {{}}}}, storages: {{west: {{site: West, root: "{new.root}/west"}}}}}}'
        topology.apply(new.ctx, west, dry_run=True)
        assert not recovery.status(new.ctx).under_way
        topology.apply(new.ctx, west)
        assert "west" in recovery.status(new.ctx).why
        assert recovery.rebuild(new.ctx, "west").files == 3
        while audit.recheck(new.ctx):
            pass


def test_a_catalogue_that_is_older_than_its_storages_notices_it_before_it_deletes(world: World, server: str):
    world.register(*names(3))
    tell(world)
    kept = world.value("SELECT max(stamp) FROM manifest")
    world.register(*(f"/test/raw/later{n}.plain" for n in range(4)))
    tell(world)
    # The backup of before: what came since is not in it.
    world.value("DELETE FROM manifest WHERE stamp > %s", kept)
    manifests.look_for_newer(world.ctx)
    status = recovery.status(world.ctx)
    assert status.under_way
    assert "does not know" in status.why
    recovery.end(world.ctx, "it was a test")
    world.value("SELECT now()")
    recovery.rebuild(world.ctx, "north")
    recovery.end(world.ctx, "it was a test")
    manifests.look_for_newer(world.ctx)
    assert not recovery.status(world.ctx).under_way, "it knows them now"
