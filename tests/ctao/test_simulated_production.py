"""One production file with every kind of simulation, through server, worker and pilots, to files in the catalogue.

The programs of the observatory are stood in for; what they were called with is read in what they made.
"""

import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import SilentLog
from tests.ctao import stand_ins

from lightkeeper.client import Client
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings

TOPOLOGY = """
version: 1
sites:
  North: {computing: {executor: local, pilots: 2}}
storages:
  north: {site: North, root: "ROOT/north"}
"""
PRODUCTION = """
ProdSteps:
  - ID: 1
    name: Showers
    input_meta_query: {parentID: }
    job_config:
      type: MCSimulation
      only_corsika: true
      site: Paranal
      particle: gamma-diffuse
      pointing_dir: South
      zenith_angle: 40
      n_shower: 100
      array_layout: Alpha
      start_run_number: 500
      moon: dark
      n_tasks: 2
  - ID: 2
    name: SeenAgain
    input_meta_query: {parentID: 1}
    job_config: {type: SimTelProcessing, moon: half, systematic_uncertainty_to_test: cfg/mirror/up, group_size: 2}
  - ID: 3
    input_meta_query: {parentID: 2}
    job_config: {type: EvnDispProcessing, options: 40deg dark, group_size: 2, data_level: 1}
  - ID: 4
    name: Complete
    input_meta_query: {parentID: }
    job_config:
      type: MCSimulation
      site: LaPalma
      particle: proton
      pointing_dir: North
      zenith_angle: 20
      n_shower: 50
      array_layout: Alpha
      layout: baseline
      start_run_number: 0
      moon: dark, half, full
      sct: all
      sequential: true
      random_mono_probability: 0.01
      n_tasks: 1
  - ID: 5
    name: Pipeline
    input_meta_query: {parentID: }
    job_config:
      type: SimPipe
      n_tasks: 1
      simpipe_config:
        array_layout_name: Alpha
        model_version: 6.0.0
        site: North
        primary: gamma
        zenith_angle: 20
        azimuth_angle: north
Common: {MCCampaign: PROD6, configuration_id: 7, base_path: /ctao/prod, version: "2025-01-01"}
"""


@dataclass
class Made:
    """What the production made: files of the catalogue by step and name, and what was written into each."""

    client: Client
    root: Path
    files: dict[int, list[dict[str, Any]]]

    def called(self, step: int) -> set[str]:
        """Command lines of the programs that made a step's data."""
        return {self.text(file) for file in self.files[step] if file["meta"]["outputType"] == "Data"}

    def text(self, file: dict[str, Any]) -> str:
        return stand_ins.said(self.root / file["lfn"][1:])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """The production, run to its end; software is declared to be in a folder of its own."""
    home = tmp_path_factory.mktemp("simulated")
    (home / "north").mkdir()
    stand_ins.lay(home / "sim-2025-01-01" / "bin")
    packages = ("corsika", "sim_telarray", "simpipe", "evndisp")
    software = {f"{name} 2025-01-01": f"venv:{home / 'sim-2025-01-01'}" for name in packages}
    settings = Settings(home=home, port=0, heartbeat=1, pilot_idle=10, retry_after=0.2, software=software)
    with (
        Instance(settings, log=SilentLog()) as instance,
        Client(instance.url, (home / "run" / "operator.token").read_text()) as client,
    ):
        client.apply(TOPOLOGY.replace("ROOT", str(home)))
        client.submit("sim", PRODUCTION, {})
        deadline = time.monotonic() + 100
        while client.production("sim")["state"] != "Completed":
            failed = [job for job in client.jobs() if job["status"] == "Failed"]
            assert not failed, [(job["minor_status"], job["application_status"]) for job in failed]
            assert time.monotonic() < deadline, client.production("sim")
            time.sleep(0.1)
        steps = {t["id"]: t["step"] for t in client.transformations("sim")}
        files: dict[int, list[dict[str, Any]]] = {step: [] for step in steps.values()}
        for file in client.files({"MCCampaign": "PROD6"}):
            files[steps[int(file["lfn"].split("/")[7])]].append(file)
        yield Made(client, home / "north", files)
        assert client.fsck(read_bytes=True)["violations"] == []


def facts(files: list[dict[str, Any]], *keys: str) -> set[tuple[Any, ...]]:
    return {tuple(file["meta"].get(key) for key in keys) for file in files}


@pytest.mark.feature("S0-057")
def test_showers_are_simulated_once_for_each_task_and_registered_with_their_run(made: Made):
    assert made.called(1) == {
        f"dirac_prod_run --start_run 500 --run-number {run} --without-multipipe Paranal gamma-diffuse South 40"
        for run in ("000001", "000002")
    }
    assert sorted(file["lfn"] for file in made.files[1]) == [
        f"/ctao/prod/PROD6/Paranal/gamma-diffuse/corsika/1/Data/000xxx/run{run}_gamma-diffuse.corsika.zst"
        for run in (501, 502)
    ]
    keys = ("particle", "site", "array_layout", "thetaP", "phiP", "airshower_sim_prog", "airshower_sim_prog_version")
    assert facts(made.files[1], *keys) == {("gamma-diffuse", "Paranal", "Alpha", 40.0, 0.0, "corsika", "2025-01-01")}
    assert facts(made.files[1], "runNumber", "configuration_id") == {("00000501", 7), ("00000502", 7)}


def test_telescopes_are_simulated_again_on_all_showers_of_a_task(made: Made):
    assert made.called(2) == {"dirac_sim_telarray_process --with-half-moon cfg/mirror/up"}
    assert facts(made.files[2], "systematics", "tel_sim_prog", "particle", "nsb", "runNumber") == {
        ("mirror_up", "sim_telarray", "gamma-diffuse", 5, f"00000{run}") for run in (501, 502)
    }


def test_event_display_takes_what_the_telescopes_made(made: Made):
    assert made.called(3) == {"dirac_evndisp_wrapper 40deg dark"}
    assert facts(made.files[3], "data_level", "analysis_prog", "site") == {(1, "evndisp", "Paranal")}
    assert len(made.files[3]) == 2


def test_one_run_under_three_skies_is_three_files_and_three_logs(made: Made):
    words = (
        "dirac_prod_run --start_run 0 --run-number 000001 --baseline --with-full-moon --with-all-scts "
        "--random-mono-probability 0.01 --sequential LaPalma proton North 20"
    )
    assert made.called(4) == {f"{words} 50"}, "and NSHOW behind it"
    assert sorted(facts(made.files[4], "outputType", "nsb")) == [
        (kind, nsb) for kind in ("Data", "Log") for nsb in (1, 5, 19)
    ]


def test_the_pipeline_gets_its_configuration_and_its_lists_of_events_are_kept_apart(made: Made):
    (line,) = made.called(5)
    program, offset, run, configuration = shlex.split(line)
    assert (program, offset, run) == ("dirac_simpipe_simulate_prod_wrapper", "0", "1")
    assert json.loads(configuration)["azimuth_angle"] == "north"
    kinds = sorted(file["meta"]["outputType"] for file in made.files[5])
    assert kinds == ["Data", "Log", "Log", "reduced_event_lists"]
    assert facts(made.files[5], "tel_sim_prog", "phiP", "thetaP") == {("simpipe", 180.0, 20.0)}


@pytest.mark.feature("S0-062")
def test_each_file_tells_back_to_the_showers_and_which_software_made_it(made: Made):
    (last, *_) = made.files[3]
    story = made.client.why(last["lfn"])["made_from"]
    assert [step["activity"] for step in story[:1]] == ["EvnDispProcessing"]
    assert {step["depth"] for step in story} == {0, 1, 2}
    assert any(step["lfn"].endswith(".corsika.zst") for step in story if step["depth"] == 2)
    assert story[0]["software"]["dirac_evndisp_wrapper"] == "2025-01-01"
