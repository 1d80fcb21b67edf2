"""One production file, from simulated runs to events with energy and gammaness, by real programs on real files."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import SHARED

from lightkeeper.app import make_log
from lightkeeper.client import Client
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings
from lightkeeper_ctao.demo import CAMPAIGN, CtaoDemonstration
from lightkeeper_ctao.simulate import hand_in_runs

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "chain"
SIMTEL = SHARED / "data" / "simtel"
RUNS = 7
"""Of each particle: five are learned from, two are tested on."""

pytestmark = [
    pytest.mark.ctapipe,
    pytest.mark.nightly,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not SIMTEL.is_dir(), reason="the shared data are not on this machine"),
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def client(home: Path) -> Iterator[Client]:
    settings = Settings(home=home, port=0, trigger_patience=1, heartbeat=2, pilot_idle=10, retry_after=0.5)
    with (
        Instance(settings, log=make_log(settings)) as instance,
        Client(instance.url, (home / "run" / "operator.token").read_text()) as client,
    ):
        yield client


def hand_in(home: Path, client: Client) -> int:
    """Real runs of two particles in the interface directory; how many."""
    document, roots = CtaoDemonstration().topology(home)
    for root in roots:
        root.mkdir(parents=True)
    client.apply(document)
    runs = home / "runs"
    runs.mkdir()
    for file in SIMTEL.iterdir():
        if file.name.startswith(("legacy__", "v0.33.0")):
            shutil.copy(file, runs)
    return len(hand_in_runs(runs, home / "storage" / "LaPalma-onsite", runs=RUNS, campaign=CAMPAIGN).files)


def wait_for(client: Client, production: str) -> None:
    deadline = time.monotonic() + 1700
    while not all(p["state"] == "Completed" for p in client.productions()):
        told = [(t["name"], t["tasks"], t["done"], t["failed_attempts"]) for t in client.transformations(production)]
        assert time.monotonic() < deadline, told
        assert not any(failed for *_, failed in told), [j for j in client.jobs() if j["status"] == "Failed"]
        time.sleep(0.5)


def test_the_complete_chain_from_r1_to_dl2_with_trained_models(home: Path, client: Client):
    n = hand_in(home, client)
    while client.status()["files_ingested"] < n:
        time.sleep(0.2)
    beside = {file.name: file.read_text() for file in EXAMPLE.iterdir() if file.name != "chain.yaml"}
    client.submit("chain", (EXAMPLE / "chain.yaml").read_text(), beside)
    wait_for(client, "chain")

    done = {t["name"].partition("_Step")[2]: t for t in client.transformations("chain")}
    assert {name: (t["tasks"], t["outputs"]) for name, t in done.items()} == {
        "1_ProcessTraining": (2, 2 * 5),
        "2_ProcessTest": (2, 2 * 2),
        "3_MergeTraining": (2, 2),
        "4_MergeTest": (2, 2),
        "5_CtapipeTrainEnergy": (1, 1),
        "6_ApplyEnergy": (2, 2),
        "7_CtapipeTrainClassifier": (1, 1),
        "8_CtapipeApplyModels": (2, 2),
    }
    models = client.files({"outputType": "Model"})
    assert {m["meta"]["analysis_prog"] for m in models} == {
        "ctapipe-train-energy-regressor",
        "ctapipe-train-particle-classifier",
    }
    assert not any({"particle", "split"} & m["meta"].keys() for m in models)
    final = [f for f in client.files({"analysis_prog": "ctapipe-apply-models"}) if "final" in f["lfn"]]
    assert {f["meta"]["particle"] for f in final} == {"gamma-diffuse", "proton"}
    for file in final:
        check_events(home, client, file)
    assert client.fsck(read_bytes=True)["violations"] == []


def check_events(home: Path, client: Client, file: dict[str, object]) -> None:
    """The events have an energy and a gammaness, and the file's story names both models."""
    from ctapipe.io import TableLoader

    (path,) = list((home / "storage").rglob(str(file["lfn"]).rpartition("/")[2]))[:1]
    with TableLoader(path) as loader:
        events = loader.read_subarray_events(dl2=True)
    assert len(events) == 2 * (2 if "gamma" in str(file["lfn"]) else 4)
    assert {"ExtraTreesRegressor_energy", "ExtraTreesClassifier_prediction"} <= set(events.colnames)
    assert events["ExtraTreesRegressor_is_valid"].any()
    story = str(client.why(str(file["lfn"])))
    assert ".energy.pkl" in story
    assert ".classifier.pkl" in story
