"""The toy observatory delivers what the manifest says, and handing in again changes nothing."""

import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from lightkeeper.domain.errors import Conflict, Invalid
from lightkeeper_ctao.dl0 import Dl0Reader
from lightkeeper_ctao.simtel import SimtelReader
from lightkeeper_ctao.simulate import hand_in, hand_in_runs, simulate_night

DATA = Path(__file__).parents[2].parent / "shared" / "data"
with_shared = pytest.mark.skipif(not DATA.exists(), reason="the shared data are not here")
NIGHT = date(2026, 3, 14)


def local(night, file):
    return night.root / file.path[1:]


def trigger(path):
    return path.with_name(path.name + ".trigger")


@pytest.mark.feature("S2-012")
def test_good_files_are_read_with_the_metadata_of_the_manifest(tmp_path):
    night = simulate_night(tmp_path, night=NIGHT, observations=2, events=6, chunk=4, seed=3)
    assert len(night.good) >= 2 * (2 + 4)
    assert len(night.observations) == 2
    for file in night.good:
        product = Dl0Reader().read(local(night, file).open("rb"), file.path)
        assert product.problems == ()
        assert product.fixity is not None
        assert (product.fixity.size, product.fixity.sha256) == (file.size, file.sha256)
        assert dict(product.meta) == dict(file.meta)
        assert trigger(local(night, file)).readlink() == Path(local(night, file).name)


@pytest.mark.feature("S3-030")
def test_every_fault_is_found_by_the_reader(tmp_path):
    night = simulate_night(tmp_path, night=NIGHT, observations=1, events=2, bad=13)
    assert len({file.fault for file in night.bad}) == 13
    observed = set(night.observations)
    for file in night.bad:
        assert trigger(local(night, file)).is_symlink()
        assert not any(f"OBSID{obs_id:019d}" in file.path for obs_id in observed)
        if not file.sha256:
            assert not local(night, file).exists()
            continue
        product = Dl0Reader().read(local(night, file).open("rb"), file.path)
        assert any(file.problem in said for said in product.problems), file.fault


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(tmp_path):
    def sums(folder, seed):
        night = simulate_night(tmp_path / folder, night=NIGHT, observations=1, events=3, bad=3, seed=seed)
        return {file.path: file.sha256 for file in night.files}

    assert sums("a", 1) == sums("b", 1)
    assert set(sums("a2", 1).values()) != set(sums("c", 2).values())


def test_a_night_without_trigger_stream_has_none(tmp_path):
    night = simulate_night(tmp_path, night=NIGHT, events=2, telescopes=["LSTN-01"], triggers=False)
    assert {file.meta["stream"] for file in night.good} == {"Telescope", "Subarray"}


@pytest.mark.feature("S0-023")
def test_the_south_observes_in_its_own_night(tmp_path):
    night = simulate_night(tmp_path, night=NIGHT, observations=3, events=1, telescopes=["MSTS-14", "SSTS-37"])
    for file in night.good:
        assert Dl0Reader().read(local(night, file).open("rb"), file.path).problems == ()
        assert file.meta["site"] == "CTAO-South"


def test_a_telescope_that_does_not_exist_cannot_observe(tmp_path):
    with pytest.raises(Invalid, match="LSTN-05"):
        simulate_night(tmp_path, night=NIGHT, telescopes=["LSTN-05"])
    with pytest.raises(Invalid, match="one site"):
        simulate_night(tmp_path, night=NIGHT, telescopes=["LSTN-01", "LSTS-01"])


def test_the_writer_prints_nothing(tmp_path, capfd):
    simulate_night(tmp_path, night=NIGHT, events=1, telescopes=["LSTN-01"])
    assert capfd.readouterr() == ("", "")


@with_shared
def test_a_night_folder_is_handed_in_once(tmp_path):
    source = DATA / "dl0" / "night_with_bad"
    files = hand_in(source, tmp_path)
    assert len(files) == sum(path.name.endswith(".fits.fz") for path in source.rglob("*"))
    assert (tmp_path / "ctao/acada/bad/empty.fits.fz").exists()
    assert not (tmp_path / "ctao/acada/MANIFEST.json").exists()
    for file in files:
        assert trigger(file).readlink() == Path(file.name)
        trigger(file).unlink()
    assert hand_in(source, tmp_path) == []
    assert not list(tmp_path.rglob("*.trigger"))
    assert not list(tmp_path.rglob(".*"))


def test_triggers_of_the_source_are_respected(tmp_path):
    source = tmp_path / "source" / "DL0"
    source.mkdir(parents=True)
    for name in ("done", "unfinished"):
        (source / name).write_bytes(b"x")
    (source / "done.trigger").symlink_to("done")
    (source / "lost.trigger").symlink_to("lost")
    hand_in(source.parent, tmp_path / "root")
    found = {path.name for path in (tmp_path / "root").rglob("*.trigger")}
    assert found == {"done.trigger", "lost.trigger"}


def test_other_content_under_a_known_name_is_a_conflict(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"one")
    hand_in(source, tmp_path / "root")
    (source / "file").write_bytes(b"two")
    with pytest.raises(Conflict, match="other content"):
        hand_in(source, tmp_path / "root")


@with_shared
def test_runs_are_handed_in_under_numbers_of_their_own(tmp_path):
    handed = hand_in_runs(DATA / "simtel", tmp_path, runs=3, campaign="PROD6")
    assert len(handed.files) == 9
    assert {path.name for path in handed.skipped} >= {"camsettings_v6.simtel.zst"}
    runs = set()
    for file in handed.files:
        path = "/" + file.relative_to(tmp_path).as_posix()
        product = SimtelReader().read(file.open("rb"), path)
        assert product.problems == ()
        assert product.meta["MCCampaign"] == "PROD6"
        assert trigger(file).is_symlink()
        runs.add(product.meta["runNumber"])
    assert len(runs) == 9
    trigger(handed.files[0]).unlink()
    assert hand_in_runs(DATA / "simtel", tmp_path, runs=3, campaign="PROD6").files == handed.files
    assert not trigger(handed.files[0]).exists()


def test_warming_up_without_ctapipe_says_so_and_succeeds(tmp_path):
    (tmp_path / "python").symlink_to(sys.executable)
    done = subprocess.run(
        [str(tmp_path / "python"), "-m", "lightkeeper_ctao.warm_up"],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "ctapipe is not installed; nothing to warm up\n")


@pytest.mark.feature("S0-020", "S3-002")
def test_many_telescopes_and_events_fit(tmp_path):
    names = [f"LSTN-{i:02d}" for i in range(1, 5)] + [f"MSTN-{i:02d}" for i in range(1, 10)]
    night = simulate_night(tmp_path, night=NIGHT, events=200, chunk=150, telescopes=names)
    for file in night.good:
        product = Dl0Reader().read(local(night, file).open("rb"), file.path)
        assert (product.problems, dict(product.meta)) == ((), dict(file.meta))
    assert {file.meta["array_element"] for file in night.good} == {*names, "ARRAY"}


@pytest.mark.ctapipe
@pytest.mark.skipif(not (Path(sys.executable).parent / "ctapipe-process").exists(), reason="ctapipe is not installed")
def test_ctapipe_reconstructs_what_the_toy_telescopes_saw(tmp_path):
    tables = pytest.importorskip("tables")
    night = simulate_night(tmp_path / "in", night=NIGHT, observations=1, events=10, chunk=4)
    subarray = next(file for file in night.good if file.meta["stream"] == "Subarray")
    telescopes = sum(int(file.meta["n_rows"]) for file in night.good if file.meta["stream"] == "Telescope")
    output = tmp_path / "out.dl2.h5"
    command = [
        *(str(Path(sys.executable).parent / "ctapipe-process"), "-q", "-i", str(local(night, subarray))),
        *("-o", str(output), "--MultiFiles.all_chunks=True", "--DataWriter.write_dl2=True"),
        *("--provenance-log", str(tmp_path / "provenance.log")),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    with tables.open_file(output) as file:
        assert file.get_node("/dl1/event/subarray/trigger").nrows == 10
        assert file.get_node("/dl1/event/telescope/trigger").nrows == telescopes
        geometry = file.get_node("/dl2/event/subarray/geometry/HillasReconstructor")
        assert geometry.col("HillasReconstructor_is_valid").sum() >= 5
    shutil.rmtree(tmp_path / "in")
