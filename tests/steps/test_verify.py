"""Step 1: files are read by processes of their own, so that a hostile one takes only itself to the quarantine."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue

import pytest
from tests.conftest import World
from tests.steps.hostile import HostileObservatory
from tests.steps.test_ingest import files, reasons

from lightkeeper.domain.delivering import ATTEMPTS, Found
from lightkeeper.steps import ingest, watch
from lightkeeper.steps.reading import Reading
from lightkeeper.steps.verify import Order, _take, pickled, verifier

NEIGHBOURS = {f"/test/raw/good-{n}.plain" for n in range(40)}


@pytest.fixture
def hostile(world: World) -> World:
    """A world whose reader does what files tell it to, with 40 good files delivered."""
    settings = world.ctx.settings.model_copy(
        update={"ingest_memory_mb": 128, "ingest_silence": timedelta(seconds=3), "trigger_patience": timedelta(0)}
    )
    world = world.having(observatories=(HostileObservatory(),), settings=settings)
    for path in sorted(NEIGHBOURS):
        world.deliver(path)
    return world


def children() -> set[int]:
    """Processes of this one that read deliveries."""
    found: set[int] = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"verifying" in (process / "cmdline").read_bytes():
                found.add(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.feature("S3-048")
@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("crash", "ended with SIGSEGV"),
        ("leave", "ended with status 3"),
        ("swell", "takes more memory than a file may"),
        ("spin", "came to no end within 3 s"),
    ],
)
def test_a_file_that_ends_its_process_is_refused_after_three_attempts_and_no_other_file_is(
    hostile: World, what: str, why: str
):
    path = f"/test/raw/{what}-1.plain"
    hostile.deliver(path)
    hostile.ingest()
    assert files(hostile) == NEIGHBOURS
    assert set(reasons(hostile)) == {path}
    assert why in reasons(hostile)[path]
    assert f"so {ATTEMPTS} processes ended" in reasons(hostile)[path]


def test_a_storage_that_gives_a_file_for_ever_holds_up_no_other_and_the_file_is_tried_again(hostile: World):
    hostile.deliver("/test/raw/sleep-1.plain")
    began = time.monotonic()
    hostile.ingest()
    assert files(hostile) == NEIGHBOURS
    assert reasons(hostile) == {}, "it is not the file's fault"
    assert time.monotonic() - began < 60
    waits = hostile.value("SELECT not_before > now() FROM trigger WHERE path LIKE '%%sleep%%' AND state = 'Accepted'")
    assert waits is True


def test_more_files_that_hang_than_there_are_processes_hold_up_no_other(hostile: World):
    for n in range(4):
        hostile.deliver(f"/test/raw/sleep-{n}.plain")
    turns = ingest.Ingest()
    watch.scan(hostile.ctx)
    until = time.monotonic() + 60
    while files(hostile) != NEIGHBOURS:
        turns.turn(hostile.ctx)
        assert time.monotonic() < until
    assert {claim.path.split("/")[-1][:5] for claim, _ in turns.in_hand.values()} <= {"sleep"}


def test_a_reader_can_write_no_file_and_what_it_prints_is_no_answer(hostile: World, tmp_path: Path):
    hostile.deliver("/test/raw/write-1.plain")
    hostile.deliver("/test/raw/babble-1.plain")
    hostile.ingest()
    assert "File too large" in reasons(hostile)["/test/raw/write-1.plain"]
    assert files(hostile) == {*NEIGHBOURS, "/test/raw/babble-1.plain"}


def test_a_process_that_is_killed_by_others_costs_no_file(hostile: World):
    hostile.ingest()
    for pid in children():
        os.kill(pid, signal.SIGKILL)
    more = {f"/test/raw/more-{n}.plain" for n in range(20)}
    for path in more:
        hostile.deliver(path)
    hostile.ingest()
    assert files(hostile) == NEIGHBOURS | more


def test_an_answer_that_is_none_is_known_as_such():
    wrong_name, unheard_of = '["file", ["../x", null, {}, []], "", null, 0]', '["gone", null, "", null, 0]'
    for told in ("7", "[7]", "[[0, []]]", f"[[0, {wrong_name}]]", f"[[0, {unheard_of}]]", '{"a": 1}', "\0", "[" * 9999):
        assert not _take(told.encode(), {})
    assert _take(b'[[0, ["missing", null, "", null, 0]]]', {}), "of a file that is not its own"


def test_a_reading_is_the_same_after_it_was_told(world: World):
    world.deliver("/test/raw/n1.plain", kind="muon", number=7)
    answers: SimpleQueue[list[tuple[int, Reading]]] = SimpleQueue()
    storage = world.ctx.local_storage(next(s for s in world.storages if s.name == "mountain"))
    verifier(world.ctx).read([Order(5, pickled(storage), "/test/raw/n1.plain", answers)])
    ((number, reading),) = answers.get(timeout=30)
    assert number == 5
    assert reading.found is Found.FILE
    assert reading.product
    assert reading.product.lfn == "/test/raw/n1.plain"
    assert reading.product.meta == {"level": 0, "night": "2030-01-02", "kind": "muon", "number": 7}
    assert reading.product.fixity
    assert reading.trigger is not None
