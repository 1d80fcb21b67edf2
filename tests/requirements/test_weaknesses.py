"""Weaknesses of the ingest that came before, numbered as the requirements number them: each one is gone."""

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest
from tests.requirements.conftest import Site

from lightkeeper.steps import audit, compare, content, delete, files, ingest, quarantine, replicate, transfer, watch
from lightkeeper.steps.folders import Folders
from lightkeeper.steps.quarantine import Which
from lightkeeper.store import triggers


def announced(site: Site, lfn: str, text: str = "") -> None:
    """Replace the trigger of a file by one with a text."""
    site.trigger(lfn).unlink(missing_ok=True)
    site.trigger(lfn).write_text(text)


@pytest.mark.parametrize("kind", ["corrupt", "plain text", "unknown PBFHEAD"])
@pytest.mark.feature("S3-030")
def test_weakness_01_it_fails_closed(site: Site, kind: str):
    (lfn,) = site.night(files=1)
    content = site.local(lfn).read_bytes()
    if kind == "corrupt":
        content = content[:-3000] + bytes([content[-3000] ^ 1]) + content[-2999:]
    elif kind == "plain text":
        content = b"observed nothing\n"
    else:
        content = content.replace(b"DL0v1.Telescope.DataStream", b"DL9v1.Telescope.DataStream")
    site.local(lfn).write_bytes(content)
    site.ingest()
    site.settle()
    assert (site.lfns(), set(site.reasons())) == (set(), {lfn})
    assert not [path for name in ("pic", "desy", "cscs") for path in (site.root / name).rglob("*.fits.fz")]


def test_weakness_02_a_crash_between_the_two_copies_leaves_no_file_with_one(site: Site):
    (lfn,) = site.night(files=1)
    site.ingest()
    replicate.settle(site.ctx)
    transfer.carry_out(site.ctx)
    assert sum(name != "ONSITE" for name in site.copies(lfn)) == 1
    # Whoever did that is gone; nothing but the database knows of it.
    site.settle()
    assert sum(name != "ONSITE" for name in site.copies(lfn)) == 2


def test_weakness_03_a_delivery_that_failed_often_is_tried_again_without_a_restart(site: Site):
    (lfn,) = site.night(files=1)
    site.onsite.rename(site.root / "away")
    patient = Site(
        site.having(settings=site.ctx.settings.model_copy(update={"trigger_patience": timedelta(days=1)})).ctx,
        site.root,
    )
    (element,) = [s for s in site.storages if s.ingest]
    with site.ctx.db.transaction() as conn:
        triggers.accept(conn, element.storage_id, [lfn])
    duty = ingest.Ingest()
    for _ in range(15):
        site.value("UPDATE trigger SET not_before = now(), lease_until = NULL RETURNING 1")
        while duty(patient.ctx):
            pass
    assert site.lfns() == set()
    (site.root / "away").rename(site.onsite)
    site.value("UPDATE trigger SET not_before = now(), lease_until = NULL RETURNING 1")
    while duty(patient.ctx):
        pass
    assert site.lfns() == {lfn}


def test_weakness_04_no_second_memory_blocks_or_doubles_a_delivery(site: Site):
    (lfn,) = site.night(files=1)
    watch.scan(site.ctx)
    with site.ctx.db.transaction() as conn:
        (stale,) = triggers.claim(conn, 1, timedelta(0))
    site.ingest()
    with site.ctx.db.transaction() as conn:
        assert triggers.still_ours(conn, [stale]) == set(), "the slower one changes nothing"
    assert (site.lfns(), site.states()) == ({lfn}, {"Registered": 1})


def test_weakness_05_work_is_not_lost_with_the_worker_that_had_it(site: Site):
    names = site.night(files=3)
    watch.scan(site.ctx)
    dying = ingest.Ingest()
    dying.turn(site.ctx)  # it has taken them in hand, and is gone
    with site.ctx.db.transaction() as conn:
        triggers.release_leases(conn)
    site.ingest()
    assert site.lfns() == set(names)


@pytest.mark.parametrize(
    ("trigger", "why"),
    [
        ({"size": 1}, "its trigger says size 1"),
        ({"sha256": "0" * 64}, "its trigger says sha256 000"),
        ({"adler32": "1"}, "its trigger says adler32 00000001"),
    ],
)
def test_weakness_06_size_and_checksums_that_a_trigger_tells_must_be_right(site: Site, trigger: dict, why: str):
    (lfn,) = site.night(files=1)
    announced(site, lfn, json.dumps(trigger))
    site.ingest()
    assert why in site.reasons()[lfn]


def test_weakness_06_a_trigger_must_lead_to_its_own_file(site: Site):
    one, other = site.night(files=2)
    site.trigger(one).unlink()
    site.trigger(one).symlink_to(Path(other).name)
    site.ingest()
    assert "which is another file" in site.reasons()[one]
    assert site.lfns() == {other}


def test_weakness_06_a_file_that_is_still_written_waits(site: Site):
    (lfn,) = site.night(files=1)
    whole = site.local(lfn).read_bytes()
    site.local(lfn).write_bytes(whole[:20_000])
    patient = Site(
        site.having(settings=site.ctx.settings.model_copy(update={"trigger_patience": timedelta(minutes=5)})).ctx,
        site.root,
    )
    watch.scan(patient.ctx)
    ingest.register_accepted(patient.ctx)
    assert (site.lfns(), site.reasons()) == (set(), {})
    site.local(lfn).write_bytes(whole)
    site.value("UPDATE trigger SET not_before = now(), lease_until = NULL RETURNING 1")
    patient.ingest()
    assert site.lfns() == {lfn}


def test_weakness_07_the_quarantine_is_where_the_settings_say_is_made_and_not_scanned(site: Site):
    named = Site(
        site.having(settings=site.ctx.settings.model_copy(update={"quarantine": Path("INVALID_DL0")})).ctx, site.root
    )
    (lfn,) = site.night(files=0, bad=1)
    named.ingest()
    (one,) = quarantine.find(site.ctx, Which())
    assert one.quarantine == f"/.lightkeeper/INVALID_DL0/{one.number}{lfn}"
    assert (site.onsite / one.quarantine[1:]).exists()
    for _ in range(2):
        assert watch.scan(named.ctx) == 0


def test_weakness_08_a_trigger_is_found_by_its_event_without_another_look(site: Site, monkeypatch: pytest.MonkeyPatch):
    site.night(files=1)
    duty = watch.Watch()
    while duty(site.ctx):
        pass
    looks: list[Folders] = []
    look = Folders.look
    monkeypatch.setattr(Folders, "look", lambda self: looks.append(self) or look(self))
    before = site.value("SELECT count(*) FROM trigger")
    site.night(files=1, day=1)  # in folders that were not there before
    for _ in range(20):
        duty(site.ctx)
        if site.value("SELECT count(*) FROM trigger") > before:
            break
    assert site.value("SELECT count(*) FROM trigger") == before + 1
    assert looks == []
    site.ingest()


@pytest.mark.feature("S3-025")
def test_weakness_09_an_on_site_copy_is_protected_until_two_others_are_verified_and_then_freed(site: Site):
    (lfn,) = site.night(files=1)
    site.ingest()
    told = files.unregister(site.ctx, [lfn], "by mistake", at="ONSITE")
    assert told.failed, "the only copy is not given up by a command either"
    for copies in range(1, 3):
        replicate.settle(site.ctx)
        delete.delete(site.ctx)
        assert site.local(lfn).exists(), f"{copies - 1} copies are not enough"
        transfer.carry_out(site.ctx)
    (off_site, *_) = [name for name in site.copies(lfn) if name != "ONSITE"]
    there = {s.name: Path(s.root) for s in site.storages}[off_site] / lfn[1:]
    there.write_bytes(b"\0" * there.stat().st_size)
    content.suspect(site.ctx, lfn, off_site, "it is black")
    audit.recheck(site.ctx)
    replicate.settle(site.ctx)
    delete.delete(site.ctx)
    assert site.local(lfn).exists(), "a copy with other bytes is none"
    site.settle()
    assert not site.local(lfn).exists(), "freed when two are verified again"
    assert list(site.copies(lfn).values()) == ["Available", "Available"]


def test_weakness_09_no_command_deletes_a_file_that_the_observatory_took(site: Site):
    (lfn,) = site.night(files=1)
    site.ingest()
    (failed,) = files.remove(site.ctx, [lfn], "room is needed").failed
    assert "cannot be made again" in failed.error


def test_weakness_10_a_file_that_was_written_and_never_registered_is_detected(site: Site):
    (lfn,) = site.night(files=1, triggers=False)
    site.ingest()
    assert site.lfns() == set(), "on site, without a trigger, it is left alone"
    there = site.root / "pic" / lfn[1:]
    there.parent.mkdir(parents=True)
    site.local(lfn).rename(there)
    os.utime(there, (1_000_000_000, 1_000_000_000))
    assert compare.compare(site.ctx, "PIC-disk").dark == [lfn], "at a data centre it is told of"


def test_weakness_10_what_was_registered_and_not_told_is_known_when_it_is_announced_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    (lfn,) = site.night(files=1)
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_remove_trigger_files", lambda *_: None)
        site.ingest()
    assert site.trigger(lfn).is_symlink()
    site.ingest()
    assert not site.trigger(lfn).is_symlink()
    assert site.value("SELECT count(*) FROM file") == 1
