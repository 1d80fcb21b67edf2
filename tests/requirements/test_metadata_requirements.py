"""Requirements on metadata, M-01 to M-06: right values from each kind of file, and every lack of them reported."""

from datetime import datetime
from pathlib import Path

import pytest
from tests.conftest import SHARED
from tests.requirements.conftest import Site

from lightkeeper_ctao.dl0 import Dl0Reader
from lightkeeper_ctao.simulate import NightFile, simulate_night

REAL = SHARED / "data" / "dl0"


def read(root: Path, path: str):
    with (root / path[1:]).open("rb") as file:
        return Dl0Reader().read(file, path)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory):
    """One observation written by the telescopes' own library."""
    from tests.requirements.conftest import NIGHT

    return simulate_night(
        tmp_path_factory.mktemp("night"), night=NIGHT, events=3, telescopes=["LSTN-01", "LSTN-02"], bad=13
    )


def of_stream(night, stream: str) -> NightFile:
    return next(file for file in night.good if file.meta["stream"] == stream)


def test_M_01_values_of_a_subarray_file(night):
    meta = read(night.root, of_stream(night, "Subarray").path).meta
    assert (meta["observatory"], meta["subarray_id"], meta["n_rows"]) == ("CTAO", 2, 3)
    assert (meta["sb_id"], meta["obs_id"]) == (of_stream(night, "Subarray").meta["sb_id"], night.observations[0])
    assert datetime.fromisoformat(str(meta["start_time"])) < datetime.fromisoformat(str(meta["end_time"]))


def test_M_02_values_of_a_file_of_telescope_triggers(night):
    meta = read(night.root, of_stream(night, "Trigger").path).meta
    assert meta["tel_ids"] == [1, 2]
    assert (meta["observatory"], meta["obs_id"]) == ("CTAO", night.observations[0])


def test_M_03_values_of_a_file_of_telescope_events(night):
    file = of_stream(night, "Telescope")
    product = read(night.root, file.path)
    assert dict(product.meta) == dict(file.meta)
    assert product.meta["product_type"] == "DL0/Event/Telescope/AirShower"


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the folder of real telescope files beside the project")
def test_M_01_to_03_values_of_files_that_others_wrote():
    root = REAL / "lst4"
    streams = set()
    for path in sorted(root.rglob("*.fits.fz")):
        product = Dl0Reader().read(path.open("rb"), "/ctao/acada/" + str(path.relative_to(root)))
        assert product.problems == ()
        assert {"observatory", "start_time", "end_time", "sb_id", "obs_id"} <= product.meta.keys()
        streams.add(product.meta["stream"])
    assert streams == {"Telescope", "Subarray", "Trigger"}


@pytest.mark.parametrize("fault", ["card PBFHEAD missing", "not FITS", "cut in the middle"])
def test_M_04_a_wrong_header_is_told_and_nothing_fails(night, fault: str):
    file = next(file for file in night.bad if file.fault == fault)
    product = read(night.root, file.path)
    assert any(file.problem in problem for problem in product.problems)


def test_M_05_an_empty_file_is_told_and_nothing_fails(night):
    file = next(file for file in night.bad if file.fault == "empty")
    assert "the file is empty" in read(night.root, file.path).problems


@pytest.mark.parametrize(
    ("fault", "missing"),
    [("card DATE-END missing", "end_time"), ("card ORIGIN missing", "observatory"), ("card PBFHEAD missing", "stream")],
)
def test_M_06_missing_keys_are_reported_by_name(night, fault: str, missing: str):
    file = next(file for file in night.bad if file.fault == fault)
    product = read(night.root, file.path)
    assert missing not in product.meta
    assert any(fault.split()[1] in problem for problem in product.problems)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the folder of real telescope files beside the project")
def test_M_06_every_damaged_file_that_others_made_is_refused_with_its_reason(site: Site):
    from lightkeeper_ctao.simulate import hand_in

    files = {"/" + str(path.relative_to(site.onsite)) for path in hand_in(REAL / "night_with_bad", site.onsite)}
    bad = {lfn for lfn in files if "/bad/" in lfn}
    assert len(bad) == 14
    site.ingest()
    assert set(site.reasons()) == bad
    assert all(len(reason) > 10 for reason in site.reasons().values())
    assert site.lfns() == files - bad, "the good ones of the same night are in"
