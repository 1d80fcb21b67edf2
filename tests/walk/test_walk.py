"""The walk of a night, from the folder to the report, read top to bottom.

One instance with its worker, real pilots, real pipeline software; each test is the next stage of the same night.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from lightkeeper.app import make_log
from lightkeeper.client import Client
from lightkeeper.demo import faulty_mover
from lightkeeper.domain.errors import Refused
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings
from lightkeeper_ctao.demo import CtaoDemonstration
from lightkeeper_ctao.simulate import NightManifest, simulate_night

pytestmark = pytest.mark.ctapipe
OBSERVATIONS = 4
BAD = 6


@dataclass
class Night:
    """The instance, and the night that is handed in."""

    home: Path
    client: Client
    made: NightManifest | None = None

    @property
    def on_site(self) -> Path:
        return self.home / "storage" / "LaPalma-onsite"

    def until(self, done: Callable[[dict[str, Any]], bool], seconds: float = 120) -> dict[str, Any]:
        """The status when `done` says so."""
        deadline = time.monotonic() + seconds
        while not done(status := self.client.status()):
            assert time.monotonic() < deadline, f"not within {seconds} s: {status}"
            time.sleep(0.1)
        return status


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    home = tmp_path_factory.mktemp("walk")
    settings = Settings(home=home, port=0, trigger_patience=1, heartbeat=1, pilot_idle=5, retry_after=0.2)
    with (
        Instance(settings, mover=faulty_mover(), log=make_log(settings)) as instance,
        Client(instance.url, (home / "run" / "operator.token").read_text()) as client,
    ):
        yield Night(home, client)


@pytest.mark.feature("S0-078", "S0-122", "S0-029", "S0-031", "S0-032", "S0-033", "S0-034")
def test_1_the_topology_is_applied_and_applying_it_again_changes_nothing(night: Night):
    document, roots = CtaoDemonstration().topology(night.home)
    for root in roots:
        root.mkdir(parents=True)
    assert len(night.client.apply(document, dry_run=True)) == len(night.client.apply(document)) == 19
    assert night.client.apply(document) == []
    sites = {s["site"] for s in night.client.storages()}
    assert sites == {"LaPalma", "PIC", "DESY", "CSCS", "Frascati"}


def test_2_the_array_control_writes_a_night_and_its_triggers(night: Night):
    night.made = simulate_night(night.on_site, night=date(2026, 3, 14), observations=OBSERVATIONS, events=12, bad=BAD)
    assert len(night.made.good) == OBSERVATIONS * 6


@pytest.mark.feature("S2-012", "X-04")
def test_3_every_delivery_is_registered_or_refused_with_a_reason(night: Night):
    assert night.made
    n_good, n_bad = len(night.made.good), len(night.made.bad)
    night.until(lambda s: s["files_ingested"] == n_good and s["files_quarantined"] == n_bad, 30)
    refused = {q["path"]: q["reason"] for q in night.client.quarantine()}
    for bad in night.made.bad:
        assert bad.problem in refused[bad.path], bad.fault
    registered = {f["lfn"]: f for f in night.client.files({"data_level": 0})}
    for good in night.made.good:
        assert registered[good.path]["sha256"] == good.sha256
        assert registered[good.path]["meta"] == dict(good.meta)
    assert not list((night.on_site / "ctao").rglob("*.trigger"))


@pytest.mark.feature("S0-026", "S0-028", "S2-003", "S2-023", "S4-036")
def test_4_each_file_gets_two_verified_copies_and_then_its_place_on_site_is_freed(night: Night):
    assert night.made
    n = len(night.made.good)
    night.until(lambda s: s["onsite_freed"] == n and s["replicas_verified"] == 2 * n, 60)
    assert not [p for p in (night.on_site / "ctao").rglob("*") if p.is_file()]
    for good in night.made.good:
        copies = night.client.why(good.path)["replicas"]
        assert len({c["site"] for c in copies}) == 2
        for copy in copies:
            assert (night.home / "storage" / copy["storage"] / good.path[1:]).stat().st_size == good.size
    (tonight,) = night.client.nights()
    assert (tonight["files"], tonight["preserved"], tonight["on_site"]) == (n, n, 0)


@pytest.mark.feature("S0-028")
def test_5_the_sites_line_was_used_once_per_file(night: Night):
    assert night.made
    traffic = night.client.traffic()
    from_site = sum(link["transfers"] for link in traffic if link["source"] == "LaPalma")
    assert from_site == len(night.made.good)
    assert sum(link["transfers"] for link in traffic) == 2 * from_site


def test_6_a_copy_that_was_corrupted_on_the_way_was_made_again(night: Night):
    assert [h for h in night.client.healed() if h["kind"] == "transfer" and "thrown away" in h["what"]]


@pytest.mark.feature("S0-007", "S0-027", "S0-124", "S1-002", "S1-003", "S4-037")
def test_7_a_production_of_two_steps_processes_the_night_and_ends_on_its_own(night: Night):
    document = (files("lightkeeper_ctao.demo") / "dl0.yaml").read_text()
    (started,) = night.client.submit("reprocess", document, {})
    assert [t["type"] for t in started["steps"]] == ["DataReprocessing", "Merging"]
    night.until(lambda _: all(p["state"] == "Completed" for p in night.client.productions()), 180)
    first, second = night.client.transformations()
    assert (first["status"], first["tasks"], first["done"], first["files"]) == ("Completed", 4, 4, OBSERVATIONS * 6)
    assert (second["status"], second["tasks"], second["done"], second["files"]) == ("Completed", 2, 2, OBSERVATIONS)
    assert second["flushes"] == 1, "the last incomplete group is flushed when the parent is complete"


@pytest.mark.feature("S0-061")
def test_8_the_outputs_carry_derived_metadata_and_get_their_two_copies(night: Night):
    night.until(lambda s: not (s["unsettled"] or s["transfers_waiting"] or s["transfers_running"]), 30)
    outputs = list(night.client.files({"data_level": 2}))
    assert len(outputs) == OBSERVATIONS + 2
    for output in outputs:
        assert output["meta"]["analysis_prog"] in ("ctapipe-process", "ctapipe-merge")
        assert output["meta"]["observing_night"] == "2026-03-14"
        assert len({c["site"] for c in night.client.why(output["lfn"])["replicas"]}) == 2
    assert sorted(o["meta"].get("merged", 0) for o in outputs) == [0] * OBSERVATIONS + [1, 1]


@pytest.mark.feature("S0-062", "S0-063")
def test_9_a_merged_file_tells_its_story_back_to_the_raw_files(night: Night):
    merged = next(f for f in night.client.files({"merged": 1}) if "obs" in f["lfn"])
    steps = night.client.why(merged["lfn"])["made_from"]
    assert {s["depth"] for s in steps} == {0, 1, 2}
    assert steps[0]["activity"] == "ctapipe-merge"
    assert {s["activity"] for s in steps if s["depth"] == 1} == {"ctapipe-process"}
    assert all(s["lfn"].endswith(".fits.fz") for s in steps if s["depth"] == 2)
    assert steps[0]["software"]["ctapipe"].startswith("0.28")


@pytest.mark.feature("S1-059")
def test_10_the_report_counts_every_task(night: Night):
    report = night.client.transformation_report(1)
    assert report["rows"][-1]["total"] == str(report["summary"]["tasks"])
    assert {r["status"] for r in report["rows"] if r["kind"] == "group"} == {"Done"}


@pytest.mark.feature("X-03")
def test_11_every_promise_holds_with_every_byte_read_again(night: Night):
    result = night.client.fsck(read_bytes=True)
    assert result["violations"] == []
    assert result["replicas_checked"] == night.client.status()["replicas_verified"]


def test_12_nobody_changes_anything_without_the_operators_token(night: Night):
    with Client(night.client.url) as stranger:
        assert stranger.status()["files"]
        with pytest.raises(Refused, match="operator's token"):
            stranger.apply("version: 1")
        with pytest.raises(Refused, match="no live pilot"):
            stranger.claim()
