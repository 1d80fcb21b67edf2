"""Simulations: exact command lines, and what their outputs are, with programs that stand in for the observatory's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.ctao import stand_ins

from lightkeeper.domain.catalog import Vocabulary
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import parse_lfn
from lightkeeper.domain.work import FoundOutput, JobInput, JobOrder
from lightkeeper_ctao.job_types import JOB_TYPES
from lightkeeper_ctao.keys import KEYS
from lightkeeper_ctao.production import ProductionYaml

BIN = Path(sys.executable).parent
COMMON = """
Common: {MCCampaign: PROD6, configuration_id: 7, base_path: /ctao/prod, version: "2025-01-01"}
"""
MC = """
ProdSteps:
  - ID: 1
    input_meta_query: {parentID: }
    job_config:
      type: MCSimulation
      site: LaPalma
      particle: gamma-diffuse
      pointing_dir: North
      zenith_angle: 20
      n_shower: 50
      array_layout: Alpha
      n_tasks: 3
      MOON
      START
      EXTRA
"""


def step(document: str) -> Any:
    return ProductionYaml(KEYS).read(document + COMMON, sandbox=lambda _: b"", dataset=lambda _: {}).steps[0]


def mc(**extra: Any) -> Any:
    defaults = {"MOON": "" if "moon" in extra else "moon: dark"}
    defaults["START"] = "" if "start_run_number" in extra else "start_run_number: 0"
    lines = "\n      ".join(f"{key}: {json.dumps(value)}" for key, value in extra.items())
    document = MC.replace("EXTRA", lines)
    for word, default in defaults.items():
        document = document.replace(word, default, 1)
    return step(document)


def order(planned: Any, *inputs: JobInput, number: int | None = 5) -> JobOrder:
    return JobOrder(12, 99, 1, json.loads(json.dumps(planned.body)), inputs, number=number)


def words(planned: Any, *inputs: JobInput) -> list[str]:
    return list(JOB_TYPES[planned.job_type].recipe(order(planned, *inputs)).inputs["words"])


def run(folder: Path, planned: Any, *inputs: JobInput) -> tuple[list[Any], dict[str, str]]:
    """Run the job with stand-ins; the outputs as they are registered, and contents by name."""
    stand_ins.lay(folder / "bin")
    job_type, told = JOB_TYPES[planned.job_type], order(planned, *inputs)
    recipe = job_type.recipe(told)
    for one in inputs:
        laid = folder / "inputs" / one.lfn[1:]
        laid.parent.mkdir(parents=True, exist_ok=True)
        laid.write_text("events")
    (folder / "tool.cwl").write_text(recipe.cwl)
    (folder / "inputs.json").write_text(json.dumps(recipe.inputs))
    done = subprocess.run(
        [
            BIN / "cwltool",
            "--no-container",
            "--outdir",
            "out",
            "--write-summary",
            "told.json",
            "tool.cwl",
            "inputs.json",
        ],
        cwd=folder,
        env={"PATH": f"{folder / 'bin'}:{BIN}:{os.defpath}", "HOME": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((folder / "told.json").read_text())
    found = [
        FoundOutput(parameter, Path(file["path"]).name)
        for parameter in recipe.collected
        for file in (summary[parameter] or [])
    ]
    logs = [(folder / "out" / log).read_text() for log in recipe.provenance_logs]
    outputs = list(job_type.collect(told, found, logs))  # type: ignore[attr-defined]
    for output in outputs:
        Vocabulary(KEYS).split(dict(output.meta))
    return outputs, {output.lfn: stand_ins.said(folder / "out" / output.name) for output in outputs}


def showers(number: int) -> JobInput:
    meta = {"runNumber": f"{number:08d}", "particle": "proton", "site": "Paranal", "thetaP": 20.0, "phiP": 0.0}
    return JobInput(parse_lfn(f"/ctao/sim/run{number}_proton.corsika.zst"), meta)


# --- MCSimulation ----------------------------------------------------------------------------------------------
@pytest.mark.feature("S0-057")
def test_a_run_of_showers_is_started_with_the_words_of_the_observatory():
    told = "--start_run 0 --run-number 000005 LaPalma gamma-diffuse North 20"
    assert words(mc()) == told.split()


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ({"start_run_number": 1000}, "--start_run 1000 --run-number 000005"),
        ({"layout": "baseline"}, "--baseline"),
        ({"only_corsika": True}, "--without-multipipe"),
        ({"moon": "dark, half"}, "--with-half-moon"),
        ({"moon": "dark, half, full"}, "--with-full-moon"),
        ({"sct": "non-alpha"}, "--with-sct"),
        ({"sct": "all"}, "--with-all-scts"),
        ({"sequential": True}, "--sequential"),
        ({"random_mono_probability": 0.01}, "--random-mono-probability 0.01"),
        ({"instrument_random_seeds": True}, "--instrument-random-seeds"),
        ({"div_ang": "0.0022, 0.0043, 0.008, 0.01135, 0.01453"}, "--divergent"),
        ({"magic": True}, "--with-magic"),
    ],
)
def test_every_key_of_a_simulation_has_its_words(extra: dict[str, Any], told: str):
    assert f" {told} " in f" {' '.join(words(mc(**extra)))} "


def test_every_task_simulates_a_run_of_its_own_and_every_attempt_the_same():
    recipe = JOB_TYPES["MCSimulation"].recipe
    assert recipe(order(mc(), number=7)) == recipe(order(mc(), number=7))
    assert recipe(order(mc(), number=7)) != recipe(order(mc(), number=8))


def test_a_run_under_three_skies_makes_three_files_and_three_logs(tmp_path: Path):
    outputs, contents = run(tmp_path, mc(moon="dark, half, full", sequential=True))
    data = {o.meta["nsb"]: o for o in outputs if o.meta["outputType"] == "Data"}
    assert sorted(data) == [1, 5, 19]
    assert len([o for o in outputs if o.meta["outputType"] == "Log"]) == 3
    folder = "/ctao/prod/PROD6/LaPalma/gamma-diffuse/sim_telarray/12/Data/000xxx"
    assert data[1].lfn == f"{folder}/gamma-diffuse_20deg_180deg_run5___cta-prod6-LaPalma-dark.simtel.zst"
    assert data[1].meta["runNumber"] == "00000005"
    assert data[1].meta["data_level"] == -1
    assert contents[data[1].lfn].endswith(" 50")


def test_showers_alone_are_kept_as_the_shower_program_left_them(tmp_path: Path):
    (output,), _ = run(tmp_path, mc(only_corsika=True))
    assert output.name == "run5_gamma-diffuse.corsika.zst"


def test_a_program_that_ends_well_and_leaves_nothing_has_failed():
    with pytest.raises(Invalid, match="left no events"):
        JOB_TYPES["MCSimulation"].collect(order(mc()), [FoundOutput("logs", "x.log_hist.tar")], [])  # type: ignore[attr-defined]


# --- the others ------------------------------------------------------------------------------------------------
SIMTEL_STEP = """
ProdSteps:
  - ID: 1
    input_meta_query: {MCCampaign: PROD6, data_level: -3}
    job_config: {type: SimTelProcessing, moon: half, systematic_uncertainty_to_test: cfg/mirror/up, group_size: 2}
"""


def test_showers_are_seen_again_by_other_telescopes_and_what_is_asked_for_is_passed_on(tmp_path: Path):
    planned = step(SIMTEL_STEP)
    assert words(planned, showers(3)) == ["--with-half-moon", "cfg/mirror/up"]
    outputs, contents = run(tmp_path, planned, showers(3), showers(31))
    assert {o.meta["runNumber"]: o.sources for o in outputs} == {
        "00000003": (showers(3).lfn,),
        "00000031": (showers(31).lfn,),
    }
    assert set(contents.values()) == {"dirac_sim_telarray_process --with-half-moon cfg/mirror/up"}
    assert {o.meta["systematics"] for o in outputs} == {"mirror_up"}


def test_event_display_is_run_on_all_runs_of_a_task(tmp_path: Path):
    planned = step(
        "\nProdSteps:\n  - ID: 1\n    input_meta_query: {MCCampaign: PROD6, data_level: -1}\n"
        "    job_config: {type: EvnDispProcessing, options: 60deg dark, group_size: 5, data_level: 1}\n"
    )
    meta = {"runNumber": "00000008", "particle": "gamma", "site": "Paranal", "data_level": -1}
    gamma = JobInput(parse_lfn("/ctao/sim/gamma_60deg_0deg_run8___cta-prod6.simtel.zst"), meta)
    (output,), contents = run(tmp_path, planned, gamma)
    assert contents == {output.lfn: "dirac_evndisp_wrapper 60deg dark"}
    assert output.name == "gamma_60deg_0deg_run8___cta-prod6.simtel.DL1.tar.gz"
    assert (output.meta["data_level"], output.meta["runNumber"], output.sources) == (1, "00000008", (gamma.lfn,))


def simpipe(**extra: Any) -> Any:
    configuration = {
        "array_layout_name": "Alpha",
        "model_version": "6.0.0",
        "site": "North",
        "primary": "gamma",
        "zenith_angle": 20,
        "azimuth_angle": "north",
    } | extra
    return step(
        "\nProdSteps:\n  - ID: 1\n    input_meta_query: {parentID: }\n"
        f"    job_config: {{type: SimPipe, n_tasks: 2, simpipe_config: {json.dumps(configuration)}}}\n"
    )


def test_the_simulation_pipeline_is_given_offset_run_and_configuration(tmp_path: Path):
    planned = simpipe()
    offset, number, configuration = words(planned)
    assert (offset, number, json.loads(configuration)["primary"]) == ("0", "5", "gamma")
    outputs, _ = run(tmp_path, planned)
    assert sorted(str(o.meta["outputType"]) for o in outputs) == ["Data", "Log", "Log", "reduced_event_lists"]
    assert all("/reduced_event_lists/" in o.lfn for o in outputs if o.name.endswith("hdf5"))


def test_with_a_ledger_the_pipeline_says_itself_what_it_simulated(tmp_path: Path):
    planned = simpipe(job_grid_file="grid.ecsv")
    assert len(words(planned)) == 2
    outputs, _ = run(tmp_path, planned)
    assert {(o.meta["runNumber"], o.meta["thetaP"]) for o in outputs} == {("00000077", 40.0)}
    assert not any("secret" in o.meta for o in outputs)
