"""Step 1: whatever is announced, and however, it ends as registered, or in the quarantine with the reason."""

import hashlib
import json
import os
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from tests.chaos.clock import pass_time
from tests.conftest import World
from tests.steps.test_ingest import FILE, files, quarantine, reasons

from lightkeeper.steps import ingest, watch

SEED = int(os.environ.get("LIGHTKEEPER_TEST_SEED", "1"))


def trigger_of(file: Path) -> Path:
    return file.with_name(file.name + ".trigger")


@pytest.fixture
def patient(world: World) -> World:
    """A world that waits five minutes for what is not complete."""
    return world.having(settings=world.ctx.settings.model_copy(update={"trigger_patience": timedelta(minutes=5)}))


# --- what a trigger says -----------------------------------------------------------------------------------------
def test_a_trigger_that_says_size_and_sums_is_kept_to(world: World):
    good, bad = (
        world.deliver("/test/raw/good.plain", trigger=False),
        world.deliver("/test/raw/bad.plain", trigger=False),
    )
    content = good.read_bytes()
    told = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest().upper(), "obs_id": 7}
    trigger_of(good).write_text(json.dumps(told))
    trigger_of(bad).write_text(json.dumps(told | {"size": 1, "sha256": "0" * 64}))
    world.ingest()
    assert files(world) == {"/test/raw/good.plain"}
    assert f"its trigger says size 1, its bytes have {len(content)}" in reasons(world)["/test/raw/bad.plain"]
    assert "its trigger says sha256 000000" in reasons(world)["/test/raw/bad.plain"]


def test_a_trigger_that_points_to_another_file_is_refused(world: World):
    world.deliver("/test/raw/other.plain", trigger=False)
    trigger_of(world.deliver(FILE, trigger=False)).symlink_to("other.plain")
    world.ingest()
    assert files(world) == set()
    assert "its trigger points to other.plain, which is another file" in reasons(world)[FILE]


def test_a_trigger_may_point_to_its_file_as_the_array_control_sees_it(world: World):
    trigger_of(world.deliver(FILE, trigger=False)).symlink_to(f"/data/elsewhere{FILE}")
    world.ingest()
    assert files(world) == {FILE}


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda trigger: trigger.write_bytes(b"x" * 10_000_000), "has 10000000 bytes"),
        (lambda trigger: trigger.write_text("[1]"), "neither empty nor a JSON object"),
        (lambda trigger: trigger.write_text("{" * 30_000), "neither empty nor a JSON object"),
        (os.mkfifo, "neither a file nor a link"),
    ],
)
def test_a_trigger_that_is_none_is_refused(world: World, make: Callable[[Path], object], why: str):
    make(trigger_of(world.deliver(FILE, trigger=False)))
    world.ingest()
    assert why in reasons(world)[FILE]
    assert set(quarantine(world)) == {"n1.plain", "n1.plain.trigger", "n1.plain.reason"}


def test_a_half_written_trigger_is_waited_for(patient: World):
    trigger = trigger_of(patient.deliver(FILE, trigger=False))
    trigger.write_text('{"size": ')
    patient.ingest()
    assert reasons(patient) == {}
    trigger.write_text("{}")
    patient.value("UPDATE trigger SET not_before = now()")
    patient.ingest()
    assert files(patient) == {FILE}


# --- files that are not complete -----------------------------------------------------------------------------------
def test_a_half_written_file_is_waited_for_while_it_changes_and_refused_when_it_does_not(patient: World):
    growing, dead = patient.deliver(FILE, "size=100"), patient.deliver("/test/raw/dead.plain", "size=100")
    patient.ingest()
    assert reasons(patient) == {}
    with growing.open("a") as file:
        file.write("." * (100 - growing.stat().st_size))
    patient.value("UPDATE trigger SET not_before = now()")
    os.utime(dead, (0, 0))
    patient.ingest()
    assert (files(patient), reasons(patient)) == ({FILE}, {}), "the trigger of the other one is new"
    pass_time(patient, seconds=10)
    for left in (dead, trigger_of(dead)):
        os.utime(left, (0, 0), follow_symlinks=False)
    patient.ingest()
    assert files(patient) == {FILE}
    assert "has" in reasons(patient)["/test/raw/dead.plain"]


def test_a_late_trigger_is_a_delivery_like_any_other(world: World):
    file = world.deliver(FILE, trigger=False)
    pass_time(world, hours=48)
    trigger_of(file).touch()
    world.ingest()
    assert files(world) == {FILE}


def test_a_clock_that_is_wrong_by_hours_changes_nothing(patient: World):
    for hours in (-2, 2):
        file = patient.deliver(f"/test/raw/of{hours}.plain")
        bad = patient.deliver(f"/test/raw/bad{hours}.plain", "size=1")
        for path in (file, bad):
            at = path.stat().st_mtime + hours * 3600
            os.utime(path, (at, at))
    patient.ingest()
    assert files(patient) == {"/test/raw/of-2.plain", "/test/raw/of2.plain"}
    pass_time(patient, minutes=6)
    patient.ingest()
    assert set(reasons(patient)) == {"/test/raw/bad-2.plain", "/test/raw/bad2.plain"}, "patience has an end"


# --- anything, in any order ------------------------------------------------------------------------------------------
def happens(world: World, chance: random.Random, names: list[str]) -> None:
    """Something that the array control, or somebody else, does to one of a few files."""
    name = chance.choice(names)
    file = world.root / "mountain" / name[1:]
    trigger = trigger_of(file)
    file.parent.mkdir(parents=True, exist_ok=True)

    def announce() -> None:
        trigger.unlink(missing_ok=True)
        if chance.random() < 0.5:
            trigger.touch()
        else:
            trigger.symlink_to(file.name)

    match chance.randrange(12):
        case 0 | 1 | 2:
            world.deliver(name, chance.choice(["light", "light", "dark"]), trigger=False)
            announce()
        case 3:
            announce()
        case 4:
            world.deliver(name, "size=1", trigger=False)
            announce()
        case 5:
            file.write_bytes(b"")
        case 6:
            trigger.unlink(missing_ok=True)
            trigger.write_text(chance.choice(["{", '{"size": 1}', "{}", "x" * 100_000]))
        case 7:
            trigger.unlink(missing_ok=True)
            trigger.symlink_to(chance.choice(["elsewhere.plain", "..", "/etc/passwd", file.name]))
        case 8 if file.exists():
            file.rename(file.with_name("renamed-" + file.name))
        case 9 if file.exists():
            with file.open("ab") as out:
                out.write(b"more")
        case 10:
            trigger.unlink(missing_ok=True)
        case _:
            watch.scan(world.ctx)
            ingest.register_accepted(world.ctx)


def histories(fresh_worlds: Callable[[], object], number: int, steps: int) -> None:
    chance = random.Random(SEED)
    for _ in range(number):
        with fresh_worlds() as world:  # type: ignore[attr-defined]
            names = [f"/test/raw/n{n}.plain" for n in range(4)]
            for _ in range(steps):
                happens(world, chance, names)
            announced = {
                "/" + str(trigger.relative_to(world.root / "mountain")).removesuffix(".trigger")
                for trigger in (world.root / "mountain/test").rglob("*.trigger")
            }
            for _ in range(3):
                pass_time(world, hours=1)
                world.ingest()
            assert world.value("SELECT count(*) FROM trigger WHERE state = 'Accepted'") == 0
            assert not list((world.root / "mountain/test").rglob("*.trigger")), "a trigger is left"
            ended = {path for (path,) in rows(world, "SELECT path FROM trigger")}
            assert announced <= ended
            assert all(reason for (reason,) in rows(world, "SELECT reason FROM trigger WHERE state = 'Quarantined'"))
            contents = rows(world, "SELECT count(DISTINCT sha256) FROM file GROUP BY dir_id, name")
            assert all(count == 1 for (count,) in contents)
            broken = [v for v in world.violations() if " is dark since " not in v]
            assert [v for v in broken if not v.startswith(("I1 ", "I13 "))] == [], "what others overwrote is not ours"


def rows(world: World, query: str) -> list[tuple[object, ...]]:
    with world.ctx.db.transaction() as conn:
        return conn.execute(query).fetchall()  # type: ignore[arg-type]


@pytest.mark.feature("S3-048")
def test_whatever_is_announced_ends_as_registered_or_refused_with_the_reason(fresh_worlds):
    histories(fresh_worlds, 3, 40)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_ten_thousand_things_that_happen_to_deliveries_break_no_promise(fresh_worlds):
    histories(fresh_worlds, int(os.environ.get("LIGHTKEEPER_TEST_HISTORIES", "100")), 100)
