"""What went wrong at other observatories and experiments, as tests: it cannot happen here. The numbers are those of
the reliability page; R1 to R5 and R8, on deletion, are in test_deletion.py and test_double_workers.py."""

import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.chaos.clock import pass_time
from tests.conftest import World

from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.domain.names import Fixity
from lightkeeper.steps import files, heal, replicate, transfer
from lightkeeper.store import transfers

FILE = "/test/raw/run1.plain"


# --- R6: Rucio 4127, WMCore 9763: checksums without their leading zeros -----------------------------------------
@given(st.binary(max_size=3000))
@example(b"")
@example(b"\x01" * 8)
def test_a_checksum_has_one_form_and_keeps_its_leading_zeros(content: bytes):
    fixity = fixity_of([content])
    assert len(fixity.adler32) == 8
    assert len(fixity.sha256) == 64
    assert fixity.adler32 == fixity.adler32.lower()
    assert int(fixity.adler32, 16) == zlib.adler32(content)


@given(st.integers(0, 2**32 - 1))
def test_no_other_form_of_a_checksum_is_taken(number: int):
    sha256 = "0" * 64
    assert Fixity(1, sha256, f"{number:08x}").adler32 == f"{number:08x}"
    for other in {f"{number:x}", f"{number:08X}", f"0x{number:08x}", f"{number:09x}"} - {f"{number:08x}"}:
        with pytest.raises(Invalid):
            Fixity(1, sha256, other)


def test_a_file_whose_checksum_begins_with_zeros_is_copied_and_told_with_them(world: World):
    for number in range(1000):  # until the sum of the file begins with zeros
        file = world.deliver(FILE, content="x" * number, trigger=False)
        if zlib.adler32(file.read_bytes()) < 1 << 28:
            break
    world.deliver(FILE, content="x" * number)
    world.ingest()
    world.settle()
    (file,) = files.stat(world.ctx, [FILE])[0]
    content = next(p for s in ("north", "east", "south") if (p := world.root / s / FILE[1:]).exists()).read_bytes()
    fixity = fixity_of([content])
    assert (file.file.size, file.file.sha256, file.file.adler32) == (fixity.size, fixity.sha256, fixity.adler32)
    assert file.file.adler32.startswith("0")
    assert file.copies == 2


# --- R7: DIRAC 3922: the status of an old transfer overwrote that of a new one ----------------------------------
def test_news_of_an_older_attempt_change_nothing(world: World):
    world.register(FILE)
    replicate.settle(world.ctx)
    late = transfer.claim(world.ctx)
    pass_time(world, hours=1)
    heal.release_abandoned(world.ctx)
    ours = transfer.claim(world.ctx)
    assert [t.transfer_id for t in late] == [t.transfer_id for t in ours]
    before = world.value("SELECT array_agg(t::text) FROM transfer t")
    with world.ctx.db.transaction() as conn:
        assert transfers.still_ours(conn, late) == set()
        assert not transfers.extend_lease(conn, late, world.ctx.settings.lease)
    failed = [(t, Invalid("late news"), "a fault of the source") for t in late]
    transfer._record(world.ctx, late, [], failed, 1.0, world.storages)
    transfer._record(world.ctx, late, late, [], 1.0, world.storages)
    assert world.value("SELECT array_agg(t::text) FROM transfer t") == before
    assert set(world.copies(FILE)) == {"north"}
    assert world.copies(FILE)["north"] == "Available"
    pass_time(world, hours=1)
    heal.release_abandoned(world.ctx)
    world.settle()


# --- R9: DIRAC 7116: a file that waits for ever in a chain of requests ------------------------------------------
def test_a_file_that_could_be_copied_nowhere_for_a_day_is_copied_when_it_can_be(world: World):
    world.deliver(FILE)
    world.ingest()
    away = [(world.root / name, world.root / f"{name} away") for name in ("north", "east", "south")]
    for here, there in away:
        here.rename(there)
    for _ in range(8):
        world.settle()
        heal.release_abandoned(world.ctx)
        pass_time(world, hours=3)
    assert set(world.copies(FILE)) == {"mountain"}
    for here, there in away:
        there.rename(here)
    for _ in range(6):
        world.settle()
        pass_time(world, minutes=30)
    assert len(world.copies(FILE)) == 2
    assert "mountain" not in world.copies(FILE)


# --- R10: DIRAC 7758: a name that was deleted and made again stays deleted --------------------------------------
def test_a_name_that_comes_back_after_it_was_removed_is_current_and_gets_its_copies(world: World):
    world.register(FILE)
    world.settle()
    files.remove(world.ctx, [FILE], "by mistake")
    world.settle()
    assert world.copies(FILE) == {}
    world.register(FILE)
    world.settle()
    (file,) = files.stat(world.ctx, [FILE])[0]
    assert file.state == "Current"
    assert len(world.copies(FILE)) == 2
    assert set(world.copies(FILE).values()) == {"Available"}
    assert all((world.root / storage / FILE[1:]).exists() for storage in world.copies(FILE))
