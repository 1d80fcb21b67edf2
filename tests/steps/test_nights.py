"""A night: what was expected, came, was refused, is preserved and freed; closed with a receipt that can be checked."""

import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from tests.conftest import World

from lightkeeper import signing
from lightkeeper.domain.errors import Conflict, Corrupt, Invalid, NotFound
from lightkeeper.domain.names import parse_lfn
from lightkeeper.domain.nights import Stream, gaps, lacks
from lightkeeper.domain.states import Night, Replica
from lightkeeper.steps import audit, nights, quarantine, topology
from lightkeeper.store import nights as store
from lightkeeper.store import transfers, transitions
from lightkeeper.store.nights import Expected

NIGHT = "2030-01-02"


def counted(world: World) -> list[str]:
    """What fsck says of the counters, with everything counted that is due."""
    nights.count_all(world.ctx)
    assert world.value("SELECT count(*) FROM night_due") == 0
    return [v.detail for v in audit.fsck(world.ctx).violations if v.id == "I10"]


def preserved_night(world: World, n: int = 3) -> None:
    for number in range(n):
        world.deliver(
            f"/test/{NIGHT}/n{number}.plain", kind="LSTN-01" if number else "ARRAY", number=max(0, number - 1)
        )
    world.ingest()
    world.settle()


@pytest.mark.feature("S0-022")
def test_a_night_is_counted_by_what_came_is_preserved_and_freed(world: World):
    for number in range(3):
        world.deliver(
            f"/test/{NIGHT}/n{number}.plain", kind="LSTN-01" if number else "ARRAY", number=max(0, number - 1)
        )
    world.ingest()
    (night,) = nights.find(world.ctx)
    assert (night.night, night.files, night.on_site, night.preserved, night.freed) == (NIGHT, 3, 3, 0, 0)
    assert night.to_free == 3
    world.settle()
    report = nights.show(world.ctx, NIGHT)
    assert (report.summary.on_site, report.summary.preserved, report.summary.freed) == (0, 3, 3)
    assert [(part.name, part.files) for part in report.elements] == [("ARRAY", 1), ("LSTN-01", 2)]
    assert sum(part.bytes for part in report.divisions) == report.summary.bytes
    assert report.lacks == []
    assert counted(world) == []


def test_a_refused_delivery_stays_in_the_story_of_its_night_when_it_is_discarded(world: World):
    world.deliver(f"/test/{NIGHT}/bad.plain", "size=1")
    world.ingest()
    quarantine.discard(world.ctx, quarantine.Which(pattern="*"), "maria", "a test")
    (night,) = nights.find(world.ctx)
    assert (night.files, night.refused) == (0, 1)
    (refused,) = nights.refused(world.ctx, NIGHT)
    assert "1 bytes" in refused.reason
    assert refused.reason.endswith("; its file was discarded")


def test_a_refused_delivery_is_told_with_its_night_and_reason(world: World):
    world.deliver(f"/test/{NIGHT}/bad.plain", content="size=1")
    world.deliver("/test/nowhere/bad.plain", content="size=1")
    world.ingest()
    (night,) = nights.find(world.ctx)
    assert (night.files, night.refused) == (0, 1)
    (refused,) = nights.refused(world.ctx, NIGHT)
    assert "1 bytes" in refused.reason


def test_a_copy_that_is_lost_is_no_more_counted_as_preserving(world: World):
    preserved_night(world)
    file = world.files()[0]
    with world.ctx.db.transaction() as conn:
        storage = next(s for s in world.storages if s.name == next(iter(world.copies(file.lfn))))
        copy = (file.file_id, storage.storage_id)
        transitions.move_replicas(conn, [copy], Replica.AVAILABLE, Replica.SUSPECT)
        transitions.move_replicas(conn, [copy], Replica.SUSPECT, Replica.LOST)
        transfers.unsettle(conn, [file.file_id])
    assert nights.show(world.ctx, NIGHT).lacks == ["1 file has too few verified copies"]
    assert counted(world) == []
    world.settle()
    assert nights.show(world.ctx, NIGHT).lacks == []


def test_a_policy_that_asks_for_more_is_seen_at_once(world: World):
    preserved_night(world)
    assert nights.find(world.ctx)[0].preserved == 3
    topology.apply(world.ctx, "policies: {raw: {files: {level: 0}, copies: 3, free_on_site: true}}")
    assert nights.find(world.ctx)[0].preserved == 0
    world.settle()
    assert nights.find(world.ctx)[0].preserved == 3
    assert counted(world) == []


def test_policies_of_some_files_and_rules_on_lists_count_for_their_files_only(world: World):
    topology.apply(world.ctx, "policies: {first: {files: {level: 0, number: 0}, copies: 3}}")
    for number in range(3):
        world.deliver(f"/test/{NIGHT}/n{number}.plain", number=number)
    world.ingest()
    topology.apply(world.ctx, "policies: {first: {files: {level: 0, number: 0}, copies: 2}}")
    world.settle()
    assert nights.find(world.ctx)[0].preserved == 3
    topology.apply(world.ctx, "policies: {first: {files: {level: 0, number: 0}, copies: 3}}")
    assert nights.find(world.ctx)[0].preserved == 2
    with world.ctx.db.transaction() as conn:
        policy = conn.execute("SELECT policy_id FROM policy WHERE name = 'first'").fetchone()
        ids = [file.file_id for file in world.files() if file.meta["number"] == 1]
        conn.execute("INSERT INTO file_policy (policy_id, file_id) SELECT %s, unnest(%s::bigint[])", (*policy, ids))
    assert nights.find(world.ctx)[0].preserved == 1
    assert counted(world) == []
    world.value("DELETE FROM file_policy")


def test_a_storage_that_is_given_up_counts_no_more(world: World):
    preserved_night(world)
    north = f'storages: {{north: {{site: North, root: "{world.root}/north", enabled: false}}}}'
    topology.apply(world.ctx, north)
    kept = sum("north" not in world.copies(file.lfn) for file in world.files())
    assert kept < 3
    assert nights.find(world.ctx)[0].preserved == kept
    assert counted(world) == []


def test_counters_that_drift_are_found(world: World):
    preserved_night(world)
    nights.count_all(world.ctx)
    world.value("UPDATE night_count SET n_files = n_files + 1")
    assert any(NIGHT in told for told in counted(world))
    world.value("UPDATE night_count SET n_files = n_files - 1")


# --- what was expected -----------------------------------------------------------------------------------------
def test_a_list_tells_what_did_not_come_and_what_came_otherwise(world: World):
    names = [f"/test/{NIGHT}/n{number}.plain" for number in range(4)]
    wrong = sha256(b"").hexdigest()
    expected = [Expected(parse_lfn(name), sha256=wrong if name == names[0] else None) for name in names]
    assert nights.expect(world.ctx, NIGHT, expected, dry_run=True) == 4
    assert nights.find(world.ctx) == []
    assert nights.expect(world.ctx, NIGHT, expected) == 4
    assert nights.expect(world.ctx, NIGHT, expected) == 0, "saying it again changes nothing"
    assert nights.show(world.ctx, NIGHT).missing == 4
    preserved_night(world)
    report = nights.show(world.ctx, NIGHT)
    assert (report.expected, report.by_list, report.missing, report.summary.differing) == (4, True, 1, 1)
    assert nights.missing(world.ctx, NIGHT) == [names[3]]
    assert "1 expected file did not come" in report.lacks
    assert nights.expect_nothing(world.ctx, NIGHT) == 4
    assert nights.show(world.ctx, NIGHT).by_list is False


def test_without_a_list_the_numbers_of_a_stream_tell_what_is_missing(world: World):
    for number in (0, 1, 4):
        world.deliver(f"/test/{NIGHT}/n{number}.plain", kind="LSTN-01", number=number)
    world.ingest()
    report = nights.show(world.ctx, NIGHT)
    assert (report.by_list, report.expected, report.missing) == (False, 5, 2)
    assert [gap.what for gap in report.gaps] == ["LSTN-01: 2 of the numbers up to 4"]


def test_a_telescope_that_triggered_is_expected_to_send_its_data():
    of_telescope = Stream("7", "Event", "LSTN-01", "Telescope", 2, 1, "1", ())
    triggers = Stream("7", "Event", "ARRAY", "Trigger", 1, 0, None, ("1", "2", "10"))
    assert [(gap.files, gap.what) for gap in gaps([of_telescope, triggers])] == [(2, "data of 2, 10, which took part")]


def test_streams_of_different_divisions_are_numbered_for_themselves():
    events = Stream("7", "Event", "LSTN-01", "Telescope", 3, 3, "1", ())
    service = Stream("7", "Service", "LSTN-01", "Telescope", 1, 0, "1", ())
    assert [gap.what for gap in gaps([events, service])] == ["LSTN-01 Event Telescope: 1 of the numbers up to 3"]


def test_a_name_that_is_no_night_is_refused(world: World):
    with pytest.raises(Invalid):
        nights.expect(world.ctx, "../etc", [])


# --- closing ---------------------------------------------------------------------------------------------------
def test_a_night_that_is_not_complete_is_closed_only_for_a_reason(world: World):
    world.deliver(f"/test/{NIGHT}/n0.plain")
    world.ingest()
    with pytest.raises(Conflict, match="1 file has too few verified copies"):
        nights.close(world.ctx, NIGHT, by="maria")
    with pytest.raises(Invalid, match="reason"):
        nights.close(world.ctx, NIGHT, by="maria", as_it_is=True)
    closed = nights.close(world.ctx, NIGHT, by="maria", why="the mountain burns", as_it_is=True)
    assert closed.summary.state is Night.CLOSED
    _, _, path = nights.receipt(world.ctx, NIGHT)
    assert "# lacks: 1 file has too few verified copies" in path.read_text()
    assert "# why: the mountain burns" in path.read_text()


def test_a_dry_run_closes_nothing(world: World):
    preserved_night(world)
    assert nights.close(world.ctx, NIGHT, by="maria", dry_run=True).summary.state is Night.OPEN
    with pytest.raises(NotFound, match="not closed"):
        nights.receipt(world.ctx, NIGHT)


def test_a_receipt_names_every_file_and_can_be_checked_by_standard_programs(world: World):
    preserved_night(world)
    world.deliver(f"/test/{NIGHT}/bad.plain", content="size=1")
    world.ingest()
    nights.close(world.ctx, NIGHT, by="maria")
    receipt, signature, path = nights.receipt(world.ctx, NIGHT)
    text = path.read_text()
    assert sha256(path.read_bytes()).hexdigest() == receipt.sha256
    assert [f"{f.sha256}  {f.lfn[1:]}" for f in world.files()] == [line for line in text.splitlines() if line[0] != "#"]
    assert f"# refused /test/{NIGHT}/bad.plain: the file says it has 1 bytes" in text
    home = world.ctx.settings.home
    key, signed = home / "public.pem", home / "receipt.sig"
    key.write_text(nights.public_key(world.ctx))
    signed.write_bytes(signature)
    openssl = ["openssl", "dgst", "-sha256", "-verify", str(key), "-signature", str(signed), str(path)]
    assert subprocess.run(openssl, capture_output=True, check=True).stdout == b"Verified OK\n"
    listed = [line for line in text.splitlines() if line[0] != "#"]
    assert (receipt.files, len(listed)) == (3, 3)
    copy = next(iter(world.copies(world.files()[0].lfn)))
    whole = home / "all"
    whole.mkdir()
    for file in world.files():
        target = whole / file.lfn[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((world.root / next(iter(world.copies(file.lfn))) / file.lfn[1:]).read_bytes())
    assert copy != "mountain"
    checked = subprocess.run(["sha256sum", "-c", "--strict", str(path)], cwd=whole, capture_output=True, check=True)
    assert checked.stdout.count(b": OK") == 3


def test_a_receipt_that_was_changed_is_found(world: World):
    preserved_night(world)
    nights.close(world.ctx, NIGHT, by="maria")
    _, signature, path = nights.receipt(world.ctx, NIGHT)
    key = nights.public_key(world.ctx)
    with path.open("rb") as file:
        signing.verify(key, signing.digest_of(file), signature)
    changed = path.read_bytes().replace(b"n1.plain", b"n2.plain")
    with pytest.raises(Corrupt, match="signature"):
        signing.verify(key, sha256(changed).digest(), signature)
    assert (world.ctx.settings.home / "keys" / "receipts.pem").stat().st_mode & 0o077 == 0


def test_a_file_that_comes_late_opens_the_night_again_and_the_next_receipt_replaces_the_first(world: World):
    preserved_night(world)
    nights.close(world.ctx, NIGHT, by="maria")
    first, _, path = nights.receipt(world.ctx, NIGHT)
    world.deliver(f"/test/{NIGHT}/late.plain")
    world.ingest()
    (night,) = nights.find(world.ctx)
    assert (night.state, night.files, night.receipt) == (Night.OPEN, 4, 1)
    world.settle()
    closed = nights.close(world.ctx, NIGHT, by="maria")
    assert [receipt.revision for receipt in closed.receipts] == [2, 1]
    assert f"# replaces: revision 1, sha256 {first.sha256}" in nights.receipt(world.ctx, NIGHT)[2].read_text()
    assert nights.receipt(world.ctx, NIGHT, 1)[2] == path, "the first one is kept"


def test_a_closed_night_is_not_closed_twice(world: World):
    preserved_night(world)
    nights.close(world.ctx, NIGHT, by="maria")
    with pytest.raises(Conflict, match="is closed"):
        nights.close(world.ctx, NIGHT, by="maria")


def test_a_complete_night_closes_by_itself_when_nothing_came_for_a_while(world: World):
    preserved_night(world)
    nights.count_all(world.ctx)
    assert nights.close_complete(world.ctx) == []
    world.value("UPDATE night SET changed = now() - interval '13 hours'")
    by_hand = world.having(settings=world.ctx.settings.model_copy(update={"close_nights_after": timedelta(0)}))
    assert nights.close_complete(by_hand.ctx) == []
    assert nights.close_complete(world.ctx) == [NIGHT]
    assert nights.show(world.ctx, NIGHT).receipts[0].closed_by == "lightkeeper"
    assert nights.close_complete(world.ctx) == []


def test_a_night_with_too_few_copies_does_not_close_by_itself(world: World):
    world.deliver(f"/test/{NIGHT}/n0.plain")
    world.ingest()
    nights.count_all(world.ctx)
    world.value("UPDATE night SET changed = now() - interval '13 hours'")
    assert nights.close_complete(world.ctx) == []


def test_what_was_refused_does_not_keep_a_night_open():
    at = datetime(2030, 1, 3, tzinfo=UTC)
    night = store.Summary(NIGHT, Night.OPEN, at, at, 5, 5, 0, 0, 5, 5, 0, 3, None, 0, 0, None)
    assert lacks(night, 0, 0) == []
    assert lacks(replace(night, removed=1, preserved=4), 0, 0) == [], "what was removed is owed nothing"


# --- counters of deliveries ------------------------------------------------------------------------------------
def test_every_end_of_a_delivery_is_counted_by_the_hour(world: World):
    path = f"/test/{NIGHT}/n0.plain"
    world.deliver(path)
    world.deliver(f"/test/{NIGHT}/bad.plain", content="size=1")
    world.ingest()
    world.deliver(path)  # once more, with the same content
    world.ingest()
    with world.ctx.db.transaction() as conn:
        found = dict(conn.execute("SELECT outcome, (n_deliveries, n_bytes > 0) FROM ingest_log").fetchall())
    assert found == {"success": ("1", "t"), "skipped": ("1", "f"), "failed": ("1", "f")}
    world.settle()
    assert world.value("SELECT sum(n_files) FROM deletion_log") == 1
    assert counted(world) == []
