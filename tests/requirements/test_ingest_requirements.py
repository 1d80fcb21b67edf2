"""Requirements on ingest, I-01 to I-38: each test is named after the one it proves. M and C are in the files beside."""

import hashlib
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path, PurePosixPath

import psycopg
import pytest
from tests.conftest import SHARED, _execute
from tests.requirements.conftest import Site

from lightkeeper.domain.errors import Conflict, Invalid, NotFound
from lightkeeper.domain.names import lfn_below
from lightkeeper.steps import collections, content, ingest, quarantine, replicate, report, watch
from lightkeeper.steps.quarantine import Which
from lightkeeper.store import catalog, provenance, triggers
from lightkeeper.store import topology as topology_store
from lightkeeper_ctao.acada_ingest import checked, only_one
from lightkeeper_ctao.dl0 import Dl0Reader
from lightkeeper_ctao.layout import ELEMENTS, parse_delivery
from lightkeeper_ctao.simulate import hand_in

Until = Callable[[Callable[[], bool]], None]
STREAMS = {"Telescope", "Subarray", "Trigger"}


def bytes_of(site: Site, lfn: str, at: str | None = None) -> bytes:
    return b"".join(content.read_copy(site.ctx, lfn, at=at).chunks)


# --- storage and names ---------------------------------------------------------------------------------------
def test_I_01_the_storage_where_deliveries_are_made_is_there_and_usable(site: Site):
    (element,) = [s for s in site.storages if s.ingest]
    site.ctx.storage(element).probe()
    assert site.ctx.local_storage(element).local_path("/") == site.onsite
    assert [one.directory for one in quarantine.standing(site.ctx)] == [str(site.onsite)]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/data/ctao/acada/DL0/x.fits.fz", "/ctao/acada/DL0/x.fits.fz"),
        ("", "must be absolute"),
        ("ctao/acada/DL0/x.fits.fz", "must be absolute"),
        ("/other/ctao/acada/x.fits.fz", "is not within data_path"),
        ("/data/cta/acada/x.fits.fz", "must start with"),
    ],
)
def test_I_02_the_name_follows_from_the_path(path: str, told: str):
    if told.startswith("/"):
        assert lfn_below(PurePosixPath(path), PurePosixPath("/data")) == told
    elif told == "must start with":  # the observatory's rule, which its reader knows
        lfn = lfn_below(PurePosixPath(path), PurePosixPath("/data"))
        assert told in "; ".join(parse_delivery(lfn)[1])
    else:
        with pytest.raises(Invalid, match=told):
            lfn_below(PurePosixPath(path), PurePosixPath("/data"))


def test_I_03_a_replica_is_known_when_it_is_there_and_not_before(site: Site):
    (lfn, *_) = site.night()
    assert site.copies(lfn) == {}
    site.ingest()
    assert site.copies(lfn) == {"ONSITE": "Available"}
    with pytest.raises(NotFound):
        content.facts(site.ctx, "/ctao/acada/DL0/unknown")


# --- UC-110-1.1.1 ----------------------------------------------------------------------------------------------
@pytest.mark.feature("S3-018", "S3-021")
def test_I_04_each_kind_of_file_comes_in_whole_with_its_metadata_and_only_once(site: Site):
    names = site.night()
    sums = {lfn: hashlib.sha256(site.local(lfn).read_bytes()).hexdigest() for lfn in names}
    told = {lfn: Dl0Reader().read(site.local(lfn).open("rb"), lfn) for lfn in names}
    site.ingest()
    assert {file.meta["stream"] for file in site.files()} == STREAMS
    for file in site.files():
        assert (file.size, file.sha256) == (site.local(file.lfn).stat().st_size, sums[file.lfn])
        assert hashlib.sha256(bytes_of(site, file.lfn)).hexdigest() == sums[file.lfn]
        assert file.meta == dict(told[file.lfn].meta)
    assert {site.trigger(lfn).is_symlink() for lfn in names} == {False}
    site.night()
    site.ingest()
    assert site.value("SELECT count(*) FROM replica") == 3
    assert site.states() == {"Registered": 6}


@pytest.mark.feature("S3-018")
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder of real telescope files beside the project")
def test_I_04_real_files_of_a_telescope_come_in(site: Site):
    source = SHARED / "data" / "dl0_lst_real"
    files = hand_in(source, site.onsite)
    site.ingest()
    assert site.reasons() == {}
    assert len(site.lfns()) == len(files) == 3
    assert {file.meta["stream"] for file in site.files()} >= {"Telescope"}
    for file in site.files():
        assert hashlib.sha256(bytes_of(site, file.lfn)).hexdigest() == file.sha256


def test_I_05_the_storages_exist(site: Site):
    kinds = {s.name: str(s.site_kind) for s in site.storages}
    assert kinds["ONSITE"] == "observatory"
    assert {name for name, kind in kinds.items() if kind == "data centre"} == {"CSCS-disk", "DESY-disk", "PIC-disk"}


@pytest.mark.feature("S0-026")
def test_I_06_the_second_copy_is_made_from_the_first_and_both_can_be_fetched(site: Site):
    site.apply("policies:\n  raw: {files: {data_level: 0}, copies: 2, free_on_site: false}")
    (lfn, *_) = site.night(files=1)
    site.ingest()
    replicate.settle(site.ctx)
    assert site.value("SELECT count(*) FROM transfer") == 1, "the site's line is used once"
    site.settle()
    copies = site.copies(lfn)
    assert (len(copies), set(copies.values())) == (3, {"Available"})
    from_site = site.value(
        "SELECT count(*) FROM transfer t JOIN storage s ON s.storage_id = t.source_id WHERE s.name = 'ONSITE'"
    )
    assert from_site == 1
    for name in copies.keys() - {"ONSITE"}:
        assert bytes_of(site, lfn, at=name) == site.local(lfn).read_bytes()


def test_I_07_one_copy_when_one_is_wanted(site: Site):
    site.apply("policies:\n  raw: {files: {data_level: 0}, copies: 1}")
    (lfn,) = site.night(files=1)
    site.ingest()
    site.settle()
    assert len(site.copies(lfn)) == 2


@pytest.mark.feature("S3-030")
def test_I_08_a_file_with_right_checksums_is_taken(site: Site):
    site.night()
    site.ingest()
    assert (site.states(), site.reasons()) == ({"Registered": 3}, {})


@pytest.mark.feature("S3-030")
def test_I_09_a_file_with_a_wrong_checksum_is_refused(site: Site):
    (lfn,) = site.night(files=1)
    damaged = bytearray(site.local(lfn).read_bytes())
    damaged[-3000] ^= 1
    site.local(lfn).write_bytes(damaged)
    site.ingest()
    assert "DATASUM of HDU Events is wrong" in site.reasons()[lfn]
    assert site.lfns() == set()


# --- the daemon ------------------------------------------------------------------------------------------------
def test_I_10_a_daemon_that_begins_has_nothing_in_hand(site: Site):
    assert (ingest.Ingest().in_hand, ingest.Ingest().busy) == ({}, False)
    assert [(one.waiting, one.verifying, one.refused) for one in quarantine.standing(site.ctx)] == [(0, 0, 0)]
    assert ingest.Ingest()(site.ctx) == 0


def test_I_11_a_directory_that_is_there_is_watched(site: Site):
    assert checked({"data_path": str(site.onsite)}).data_path == site.onsite
    site.night(files=1)
    assert watch.scan(site.ctx) == 1
    site.ingest()


@pytest.mark.parametrize("directory", ["nowhere", "file"])
def test_I_12_a_directory_that_is_none_is_refused(tmp_path: Path, directory: str):
    (tmp_path / "file").touch()
    with pytest.raises(Invalid, match="is not a directory"):
        checked({"data_path": str(tmp_path / directory)})


def test_I_13_success_removes_the_trigger(site: Site):
    (lfn,) = site.night(files=1)
    site.ingest()
    assert not site.trigger(lfn).is_symlink()
    assert site.local(lfn).exists()


def test_I_14_a_file_that_is_there_already_loses_its_trigger_too(site: Site):
    (lfn,) = site.night(files=1)
    site.ingest()
    site.night(files=1)
    site.ingest()
    assert not site.trigger(lfn).is_symlink()
    assert site.value("SELECT count(*) FROM file") == 1


def test_I_15_a_file_outside_the_layout_keeps_its_trigger_beside_it(site: Site):
    (lfn,) = site.night(files=1)
    lost = site.onsite / "ctao" / "acada" / "lost.fits.fz"
    site.local(lfn).rename(lost)
    site.trigger(lfn).unlink()
    lost.with_name("lost.fits.fz.trigger").symlink_to("lost.fits.fz")
    site.ingest()
    (one,) = quarantine.find(site.ctx, Which())
    assert "is outside the directory layout" in one.reason
    assert set(quarantine.show(site.ctx, one.number).files) == {
        "lost.fits.fz",
        "lost.fits.fz.trigger",
        "lost.fits.fz.reason",
    }


def test_I_16_a_second_daemon_is_refused_and_the_lock_names_the_first(tmp_path: Path):
    lock = tmp_path / "bdms_ingest.lock"
    with only_one(lock):
        assert lock.read_text().strip() == str(os.getpid())
        with pytest.raises(Conflict, match="Another ingestion process is already running"), only_one(lock):
            pass
        assert lock.exists(), "who was refused does not remove it"
    assert not lock.exists()
    with only_one(lock):
        pass


def test_I_17_of_two_that_start_at_once_exactly_one_wins(tmp_path: Path):
    lock, together, won, lost = tmp_path / "lock", threading.Barrier(8), [], []
    over = threading.Barrier(8)

    def start(number: int) -> None:
        together.wait()
        try:
            with only_one(lock):
                won.append(number)
                over.wait()
        except Conflict:
            lost.append(number)
            over.wait()

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(won), len(lost)) == (1, 7)


def test_I_17_two_instances_on_one_home_exactly_one_wins(tmp_path: Path):
    from lightkeeper.instance import _lock, _run_dir

    run = _run_dir(tmp_path)
    held = _lock(run, 0)
    with pytest.raises(Conflict, match="runs on"):
        _lock(run, 0)
    os.close(held)


# --- many ------------------------------------------------------------------------------------------------------
def test_I_18_many_files_come_in_side_by_side(site: Site):
    names = site.night(files=60, telescopes=("LSTN-01", "LSTN-02", "MSTN-01", "MSTN-02"))
    site.ingest()
    assert site.lfns() == set(names)


@pytest.mark.feature("S0-020")
def test_I_18_files_of_all_telescopes_of_the_north_come_in_and_one_of_a_telescope_that_does_not_exist_is_refused(
    site: Site,
):
    north = tuple(name for name, one in ELEMENTS.items() if one.is_telescope and one.site == "CTAO-North")
    names = site.night(files=15, telescopes=north)
    stranger = next(lfn for lfn in names if "/LSTN-04/" in lfn).replace("LSTN-04", "LSTN-05")
    site.local(stranger).parent.mkdir(parents=True)
    site.local(stranger).write_bytes(site.local(stranger.replace("LSTN-05", "LSTN-04")).read_bytes())
    site.trigger(stranger).symlink_to(site.local(stranger).name)
    site.ingest()
    assert len(north) == 13
    assert site.lfns() == set(names)
    assert {file.meta["array_element"] for file in site.files()} == {*north, "ARRAY"}
    assert "'LSTN-05' is not an array element of the observatory" in site.reasons()[stranger]


def test_I_19_a_scan_finds_what_is_new(site: Site):
    site.night(files=2)
    assert watch.scan(site.ctx) == 2
    site.ingest()


def test_I_20_a_scan_does_not_repeat_what_is_known(site: Site):
    site.night(files=2)
    assert [watch.scan(site.ctx), watch.scan(site.ctx)] == [2, 0]
    site.ingest()


def test_I_21_what_is_found_waits_to_be_verified_and_is_given_to_one_worker_only(site: Site):
    names = site.night(files=3)
    watch.scan(site.ctx)
    with site.ctx.db.transaction() as conn:
        first = triggers.claim(conn, 2, timedelta(minutes=1))
        second = triggers.claim(conn, 10, timedelta(minutes=1))
    assert (len(first), len(second)) == (2, 1)
    assert {claim.path for claim in first + second} == set(names)
    with site.ctx.db.transaction() as conn:
        triggers.release_leases(conn)
    site.ingest()


def test_I_22_the_daemon_looks_until_it_is_stopped(site: Site, until: Until):
    with site.daemon():
        first = site.night(files=1)
        until(lambda: site.lfns() == set(first))
        more = site.night(files=3, day=1)
        until(lambda: site.lfns() == {*first, *more})
    late = site.night(files=2, day=2)
    assert len(site.lfns()) == 4, "nothing is taken when it has stopped"
    site.ingest()
    assert site.lfns() == {*first, *more, *late}


def test_I_23_collections_are_a_chain_from_the_level_down_to_the_day_and_never_doubled(site: Site):
    (lfn,) = site.night(files=1)
    site.ingest()
    day = lfn.rpartition("/")[0]
    shown = collections.show(site.ctx, day)
    chain = [one.path for one in shown.within]
    assert chain[0] == "/ctao"
    assert {"/ctao/acada/DL0", day.rpartition("/")[0]} <= set(chain)
    assert all(longer.startswith(shorter + "/") for shorter, longer in zip(chain, [*chain[1:], day], strict=True))
    site.trigger(lfn).symlink_to(site.local(lfn).name)
    site.ingest()
    assert collections.show(site.ctx, day) == shown
    assert [one.path for one in collections.show(site.ctx, "/ctao/acada").holds] == ["/ctao/acada/DL0"]


def test_I_24_two_files_of_one_day_are_in_one_collection(site: Site):
    names = [lfn for lfn in site.night(files=6) if "/LSTN-01/" in lfn]
    site.ingest()
    assert len(names) == 2
    (day,) = {lfn.rpartition("/")[0] for lfn in names}
    shown = collections.show(site.ctx, day).collection
    assert (shown.own_files, shown.files) == (2, 2)
    assert shown.bytes == sum(site.local(lfn).stat().st_size for lfn in names)
    assert site.value("SELECT count(*) FROM directory WHERE path = %s", day) == 1
    with pytest.raises(NotFound, match="no file lies in"):
        collections.show(site.ctx, day + "1")


def test_I_25_files_that_come_while_the_daemon_runs_are_counted_exactly(site: Site, until: Until):
    with site.daemon():
        names = site.night(files=24, bad=3, telescopes=("LSTN-01", "MSTN-09"))
        until(lambda: not list((site.onsite / "ctao").rglob("*.trigger")))
    assert len(names) == 27
    assert site.states() == {"Registered": 24, "Quarantined": 3}
    assert sum(int(str(one["registered"])) for one in site.said("ingested")) == 24


def test_I_26_files_that_were_there_before_the_daemon_are_found(site: Site, until: Until):
    names = site.night(files=5)
    with site.daemon():
        until(lambda: site.lfns() == set(names))


def test_I_27_bad_triggers_are_not_registered_and_told_once_each(site: Site):
    (site.onsite / "ctao/acada/folder.fits.fz").mkdir(parents=True)
    for name in (".trigger", "missing.fits.fz.trigger", "folder.fits.fz.trigger"):
        (site.onsite / "ctao/acada" / name).touch()
    for _ in range(3):
        site.ingest()
    assert site.lfns() == set()
    assert set(site.reasons()) == {
        "/ctao/acada/.trigger",
        "/ctao/acada/missing.fits.fz",
        "/ctao/acada/folder.fits.fz",
    }
    told = [one["path"] for one in site.said("quarantined")]
    assert sorted(told) == sorted(site.reasons()), "each exactly once"


def test_I_28_a_catalogue_that_is_away_for_a_while_costs_no_file(
    site: Site, until: Until, database_url: str, server: str
):
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    with site.daemon():
        _execute(server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        _execute(server, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")  # noqa: S608
        try:
            names = site.night(files=8)
            until(lambda: len(site.said("duty failed")) > 2)
        finally:
            _execute(server, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        until(lambda: not list((site.onsite / "ctao").rglob("*.trigger")))
    assert site.lfns() == set(names)
    assert site.states() == {"Registered": 8}


def test_I_29_a_file_without_required_metadata_is_moved_with_its_trigger_and_told(site: Site):
    site.night(files=0, bad=12)  # among them: PBFHEAD, DATE-END and ORIGIN missing
    site.ingest()
    reasons = "; ".join(site.reasons().values())
    for card in ("PBFHEAD", "DATE-END"):
        assert f"card {card} is missing" in reasons
    for one in quarantine.find(site.ctx, Which()):
        lies = set(quarantine.show(site.ctx, one.number).files)
        assert one.path.rpartition("/")[2] + ".trigger" in lies
        assert not site.local(one.path).exists()
    assert len(site.said("quarantined")) == 12


def test_I_30_a_success_is_told_as_one(site: Site):
    site.night(files=2)
    site.ingest()
    assert sum(int(str(one["registered"])) for one in site.said("ingested")) == 2
    assert site.value("SELECT count(*) FROM history WHERE kind = 'trigger' AND target = 'Registered'") == 2


def test_I_31_a_file_that_is_there_already_is_told_as_a_repeat(site: Site):
    site.night(files=1)
    site.ingest()
    site.night(files=1)
    site.ingest()
    assert site.value("SELECT array_agg(repeat ORDER BY trigger_id) FROM trigger") == [False, True]


def test_I_32_a_worker_that_was_stopped_keeps_the_trigger_and_another_goes_on(site: Site):
    (lfn,) = site.night(files=1)
    watch.scan(site.ctx)
    with site.ctx.db.transaction() as conn:
        triggers.claim(conn, 1, timedelta(0))  # and nothing more is heard of it
    assert site.trigger(lfn).is_symlink()
    site.ingest()
    assert site.lfns() == {lfn}


def test_I_33_a_delivery_that_cannot_be_dealt_with_keeps_its_trigger_and_is_told(site: Site):
    (lfn,) = site.night(files=0, bad=1)
    elsewhere = site.root / "elsewhere"
    elsewhere.write_text("no folder")
    away = Site(site.having(settings=site.ctx.settings.model_copy(update={"quarantine": elsewhere})).ctx, site.root)
    watch.scan(away.ctx)
    ingest.register_accepted(away.ctx)
    assert site.trigger(lfn).is_symlink()
    assert any("cannot be moved to the quarantine" in str(one["why"]) for one in site.said("delivery waits"))
    site.value("UPDATE trigger SET not_before = now() RETURNING 1")
    site.ingest()
    assert set(site.reasons()) == {lfn}


def test_I_34_what_was_refused_comes_in_when_the_configuration_is_repaired(site: Site):
    with site.ctx.db.transaction() as conn:
        conn.execute("DELETE FROM meta_key WHERE name = 'n_rows'")
    (lfn,) = site.night(files=1)
    site.ingest()
    assert "n_rows" in site.reasons()[lfn]
    with site.ctx.db.transaction() as conn:
        topology_store.put_keys(conn, site.ctx.metadata_keys)
    decided = quarantine.retry(site.ctx, Which(pattern="*"), "maria")
    assert (len(decided.done), decided.failed) == (1, [])
    site.ingest()
    assert site.lfns() == {lfn}


def test_I_35_one_name_is_one_open_delivery_but_may_be_tried_again(site: Site):
    (lfn,) = site.night(files=0, bad=1)
    (element,) = [s for s in site.storages if s.ingest]
    with site.ctx.db.transaction() as conn:
        assert triggers.accept(conn, element.storage_id, [lfn]) == 1
    with site.ctx.db.transaction() as conn:
        assert triggers.accept(conn, element.storage_id, [lfn]) == 0
    site.ingest()
    assert set(site.reasons()) == {lfn}
    assert len(quarantine.retry(site.ctx, Which(pattern=lfn), "maria").done) == 1
    assert site.states() == {"Accepted": 1}
    site.ingest()


def test_I_36_a_place_that_does_not_exist_is_told_and_taken_up_when_it_does(site: Site):
    for wrong, why in (("country=Atlantis", "means 0 data centres"), ("country=", "policies.raw.at")):
        with pytest.raises(Invalid, match=why):
            site.apply(f"policies:\n  raw: {{files: {{data_level: 0}}, copies: 2, at: '{wrong}'}}")
    away = "  {0}-disk: {{site: {0}, root: ROOT/{1}, status: {{write: false}}}}\n"
    site.apply("storages:\n" + away.format("PIC", "pic") + away.format("DESY", "desy"))
    (lfn,) = site.night(files=1)
    site.ingest()
    site.settle()
    assert any("only 1 can hold one" in sentence for sentence in report.why_file(site.ctx, lfn).waits)
    site.apply("storages:\n" + (away.format("PIC", "pic") + away.format("DESY", "desy")).replace("false", "true"))
    site.value("UPDATE unsettled SET not_before = now() RETURNING 1")
    site.settle()
    assert len([state for name, state in site.copies(lfn).items() if name != "ONSITE"]) == 2


@pytest.mark.feature("S4-028")
def test_I_37_copies_are_made_when_a_crash_came_before_anybody_planned_them(site: Site):
    (lfn,) = site.night(files=1)
    site.ingest()
    assert site.value("SELECT count(*) FROM unsettled") == 1, "registered with the wish to be looked at"
    site.settle()
    assert len(site.copies(lfn)) >= 2


def test_I_38_a_failure_in_between_leaves_nothing_and_the_second_attempt_everything(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    (lfn,) = site.night(files=1)
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "add_activity", _fails)
        watch.scan(site.ctx)
        with pytest.raises(psycopg.OperationalError):
            ingest.register_accepted(site.ctx)
    assert site.lfns() == set()
    assert site.value("SELECT count(*) FROM replica") == 0
    assert site.trigger(lfn).is_symlink()
    site.value("UPDATE trigger SET lease_until = NULL, not_before = now() RETURNING 1")
    site.ingest()
    with site.ctx.db.transaction() as conn:
        (file,) = catalog.files_by_lfn(conn, [lfn])
    assert file.meta["obs_id"]
    assert collections.show(site.ctx, lfn.rpartition("/")[0]).collection.files == 1
    site.settle()
    assert len(site.copies(lfn)) >= 2


def _fails(*_: object, **__: object) -> None:
    raise psycopg.OperationalError("the database went away")
