"""Job types: what a job is told to run, and that the real programs do run so."""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightkeeper.domain.catalog import Vocabulary
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import parse_lfn
from lightkeeper.domain.work import JobInput, JobOrder
from lightkeeper_ctao.job_types import JOB_TYPES, names
from lightkeeper_ctao.keys import KEYS
from lightkeeper_ctao.production import ProductionYaml

DEMO = Path(__file__).parents[2] / "src" / "lightkeeper_ctao" / "demo"
TOOLS = DEMO.parent / "job_types"
SHARED = Path(__file__).parents[2].parent / "shared" / "data"
BIN = Path(sys.executable).parent
PROTON = "v0.33.0__proton_run000001_za20deg_azm180deg_North_alpha_6.0.2_test.simtel.zst"

NIGHT = "ctao-acada-n/acada-adh/{kind}/2026/03/14"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not on this machine")


def body_of(document, step):
    text = (DEMO / f"{document}.yaml").read_text()
    return (
        ProductionYaml()
        .read(text, sandbox=lambda name: (DEMO / name).read_bytes(), dataset=lambda _: {})
        .steps[step - 1]
        .body
    )


def simulated(number, particle="proton", folder="/ctao/sim", **meta):
    lfn = parse_lfn(f"{folder}/{particle}_run{number:06d}_test.simtel.zst")
    described = {"data_level": -1, "runNumber": f"{number:08d}", "particle": particle, "site": "LaPalma"}
    return JobInput(lfn, described | {"array_layout": "alpha", "phiP": 180.0, "MCCampaign": "DemoSimulation"} | meta)


def observed(obs_id, base="/ctao/acada/DL0", telescopes=(1, 2), subarray=True):
    ids = f"SBID{66:019d}_OBSID{obs_id:019d}"
    common = {"data_level": 0, "obs_id": obs_id, "sb_id": 66, "observatory": "CTAO", "site": "CTAO-North"}
    triggers = f"{base}/ARRAY/{NIGHT.format(kind='triggers')}/SUB002_SWAT001_20260314T210023_{ids}"
    found = [JobInput(parse_lfn(f"{triggers}_TEL_CHUNK000.fits.fz"), common | {"stream": "Trigger"})]
    if subarray:
        lead = common | {"stream": "Subarray", "subarray_id": 2, "start_time": "2026-03-14T21:00:23"}
        found.append(JobInput(parse_lfn(f"{triggers}_SUBARRAY_CHUNK000.fits.fz"), lead))
    for tel_id in telescopes:
        events = f"{base}/LSTN-{tel_id:02d}/{NIGHT.format(kind='events')}/TEL{tel_id:03d}"
        lfn = parse_lfn(f"{events}_SDH001_20260314T210023_{ids}_TEL_SHOWER_CHUNK000.fits.fz")
        found.append(JobInput(lfn, common | {"stream": "Telescope", "tel_id": tel_id}))
    return found


def recipe(job_type, body, inputs, task=5):
    return JOB_TYPES[job_type].recipe(JobOrder(12, task, 99, body, tuple(sorted(inputs, key=lambda i: i.lfn))))


process = partial(recipe, "CtapipeProcessing")
merge = partial(recipe, "Merging")


# --- processing simulated runs --------------------------------------------------------------------------
def test_every_run_gets_its_own_output_number_and_seed():
    told = process(body_of("simulated", 1), [simulated(10), simulated(12)])
    assert told.inputs == {
        "sources": [
            {"class": "File", "location": "inputs/ctao/sim/proton_run000010_test.simtel.zst"},
            {"class": "File", "location": "inputs/ctao/sim/proton_run000012_test.simtel.zst"},
        ],
        "below": ["", ""],
        "own_options": [
            ["--EventSource.override_obs_id=10", "--ImageModifier.rng_seed=10"],
            ["--EventSource.override_obs_id=12", "--ImageModifier.rng_seed=12"],
        ],
        "output_names": ["proton_run000010_test_task5.DL2.h5", "proton_run000012_test_task5.DL2.h5"],
        "provenance_names": [f"proton_run0000{n}_test_task5.DL2.h5.provenance.log" for n in (10, 12)],
        "log_names": [f"proton_run0000{n}_test_task5.DL2.h5.log" for n in (10, 12)],
        "options": ["--config", "process.yaml"],
        "sandbox": [{"class": "File", "location": "process.yaml"}],
    }
    assert told.sandbox == {"process.yaml": (DEMO / "process.yaml").read_text()}
    assert list(told.provenance_logs) == told.inputs["provenance_names"]


def test_an_output_says_where_it_belongs_what_it_is_and_what_it_is_made_from():
    (output,) = process(body_of("simulated", 1), [simulated(10)]).outputs
    folder = "/ctao/demo/prod/DEMO/LaPalma/proton/ctapipe-process/12/Data/000xxx"
    assert output.lfn == f"{folder}/proton_run000010_test_task5.DL2.h5"
    assert output.sources == ("/ctao/sim/proton_run000010_test.simtel.zst",)
    assert output.meta == {
        "MCCampaign": "DEMO", "configuration_id": 1, "analysis_prog": "ctapipe-process",
        "analysis_prog_version": "v0.28.0", "data_level": 2, "outputType": "Data", "array_layout": "alpha",
        "site": "LaPalma", "particle": "proton", "phiP": 180.0, "sct": "False", "runNumber": "00000010", "merged": 0,
    }  # fmt: skip


def test_every_attempt_makes_the_same_names_and_every_task_its_own():
    one = simulated(10)
    again = JOB_TYPES["CtapipeProcessing"].recipe(JobOrder(12, 5, 100, body_of("simulated", 1), (one,)))
    assert process(body_of("simulated", 1), [one]) == again
    assert process(body_of("simulated", 1), [one], task=6).outputs[0].lfn != again.outputs[0].lfn


def test_files_of_one_name_from_two_directories_get_two_names():
    told = process(body_of("simulated", 1), [simulated(10), simulated(10, folder="/ctao/other")])
    assert told.inputs["output_names"] == [
        "proton_run000010_test_task5.DL2.h5",
        "proton_run000010_test_task5_2.DL2.h5",
    ]


def test_a_file_of_a_higher_level_is_processed_without_another_number():
    told = process(body_of("simulated", 1), [simulated(10, data_level=1)])
    assert told.inputs["own_options"] == [[]]


def test_a_run_number_that_is_none_is_refused():
    with pytest.raises(Invalid, match="has runNumber 'ten'"):
        process(body_of("simulated", 1), [simulated(10, runNumber="ten")])


# --- processing observations ----------------------------------------------------------------------------
def paths_in(directory, above=""):
    here = f"{above}/{directory['basename']}"
    for entry in directory["listing"]:
        if entry["class"] == "Directory":
            yield from paths_in(entry, here)
        else:
            yield f"{here}/{entry['location'].rpartition('/')[2]}", entry["location"]


def test_an_observation_is_one_source_laid_out_as_the_array_control_does():
    files = observed(200)
    told = process(body_of("dl0", 1), files)
    (source,), (below,) = told.inputs["sources"], told.inputs["below"]
    laid = dict(paths_in(source))
    assert sorted(laid.values()) == sorted(f"inputs{file.lfn}" for file in files)
    assert all(f"inputs/ctao/acada{path}" == location for path, location in laid.items())
    assert f"/DL0{below}" in laid
    assert below.endswith("_SUBARRAY_CHUNK000.fits.fz")
    assert told.inputs["own_options"] == [["--MultiFiles.all_chunks=True"]]


def test_the_output_of_an_observation_has_its_ids_and_comes_from_all_its_files():
    files = observed(2000000200)
    (output,) = process(body_of("dl0", 1), files).outputs
    folder = "/ctao/demo/prod/DEMO/CTAO-North/ctapipe-process/12/Data/2000000xxx"
    assert output.lfn.startswith(f"{folder}/SUB002_SWAT001_20260314T210023_SBID")
    assert output.lfn.endswith("_SUBARRAY_CHUNK000_task5.DL2.h5")
    assert set(output.sources) == {file.lfn for file in files}
    assert {
        "obs_id": 2000000200,
        "sb_id": 66,
        "subarray_id": 2,
        "data_level": 2,
    }.items() <= output.meta.items()
    assert not {"stream", "runNumber", "tel_id", "sct"} & set(output.meta)


def test_observations_of_one_task_do_not_see_each_others_files():
    told = process(body_of("dl0", 1), observed(20) + observed(200))
    for source, obs_id in zip(told.inputs["sources"], (20, 200), strict=True):
        assert all(f"OBSID{obs_id:019d}" in path for path, _ in paths_in(source))


def test_an_observation_without_its_subarray_file_is_refused_in_one_sentence():
    with pytest.raises(Invalid, match=r"observation 200 .* is not among the 3 files of this task"):
        process(body_of("dl0", 1), observed(20) + observed(200, subarray=False))


def test_an_observation_in_two_chunks_of_subarray_triggers_is_refused_because_the_program_would_lose_events():
    files = observed(200)
    second = JobInput(parse_lfn(files[1].lfn.replace("CHUNK000", "CHUNK001")), files[1].meta)
    with pytest.raises(Invalid, match="observation 200 has 2 subarray trigger files"):
        process(body_of("dl0", 1), [*files, second])


def test_files_that_the_program_would_not_find_are_refused():
    apart = observed(200)
    apart[-1] = JobInput(parse_lfn(apart[-1].lfn.replace("/03/14/", "/03/15/")), apart[-1].meta)
    with pytest.raises(Invalid, match="would not be read"):
        process(body_of("dl0", 1), apart)
    flat = JobInput(parse_lfn("/ctao/acada/x_SUBARRAY_CHUNK000.fits.fz"), observed(200)[1].meta)
    with pytest.raises(Invalid, match="does not lie where ACADA puts it"):
        process(body_of("dl0", 1), [flat])


# --- merging --------------------------------------------------------------------------------------------
def test_merging_makes_one_file_of_all_with_what_they_have_in_common():
    files = [simulated(410, nsb=1), simulated(10, nsb=1, thetaP=20.0)]
    told = merge(body_of("simulated", 2), files)
    (output,) = told.outputs
    assert output.name == told.inputs["output_name"] == "run000010-run000410_task5.merged.DL2.h5"
    assert output.lfn.startswith("/ctao/demo/prod/DEMO/LaPalma/proton/ctapipe-merge/12/Data/000xxx/")
    assert [part["location"] for part in told.inputs["parts"]] == [
        f"inputs/ctao/sim/proton_run000{n}_test.simtel.zst" for n in ("010", "410")
    ]
    assert output.meta["merged"] == 1
    assert output.meta["nsb"] == 1
    assert not {"thetaP", "runNumber"} & set(output.meta)
    assert told.provenance_logs == ("run000010-run000410_task5.merged.DL2.h5.provenance.log",)


def test_merged_files_may_be_merged_again():
    first = merge(body_of("simulated", 2), [simulated(10), simulated(20)]).outputs[0]
    second = merge(body_of("simulated", 2), [simulated(30)], task=6).outputs[0]
    told = merge(body_of("simulated", 2), [JobInput(o.lfn, o.meta) for o in (first, second)], task=7)
    assert told.outputs[0].name == "run000010-run000030_task7.merged.DL2.h5"


def test_merged_observations_are_called_after_the_first_and_last():
    outputs = [process(body_of("dl0", 1), observed(n)).outputs[0] for n in (200, 201)]
    told = merge(body_of("dl0", 2), [JobInput(o.lfn, o.meta) for o in outputs])
    assert told.outputs[0].name == "obs200-obs201_task5.merged.DL2.h5"


# --- names ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("gamma_20deg_0deg_run44___cta-prod5.simtel.zst", 44),
        ("v0.33.0__proton_run000001_za20deg.simtel.zst", 1),
        ("tid12345.corsika.zst", 12345),
        ("run000010-run000030_task7.h5", 10),
        ("brunhilde7.h5", None),
        ("events.h5", None),
    ],
)
def test_the_run_number_is_read_from_the_name(name, run):
    assert names.run_number(name) == run


@pytest.mark.parametrize(("run", "block"), [(44, "000xxx"), (12345, "012xxx"), (0, "000xxx"), (None, "none")])
def test_a_block_holds_a_thousand_runs(run, block):
    assert names.block(run) == block


def test_parts_that_are_not_known_are_left_out_and_others_made_fit():
    body = {"base_path": "/ctao/p", "program": "ctapipe-merge"}
    assert names.directory(body, {"outputType": "Data"}, 3, None) == "/ctao/p/ctapipe-merge/3/Data/none"
    meta = {"MCCampaign": 5, "site": "La Palma/..", "particle": 20.25, "outputType": "Data"}
    assert names.directory(body, meta, 3, 1) == "/ctao/p/5.0/La_Palma_../20.2/ctapipe-merge/3/Data/000xxx"


@given(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.integers(1, 10**9))
@settings(max_examples=100, deadline=None)
def test_every_name_is_valid_unique_and_short_enough(lengths, task):
    giver = names.Names(task, "merged.DL2.h5")
    given_names = [
        giver.give("/ctao/demo/prod/DEMO/LaPalma/gamma-diffuse/ctapipe-process/12/Data/000xxx", "x" * n)
        for n in lengths
    ]
    assert len(set(given_names)) == len(lengths)
    assert all(parse_lfn(name) == name for name in given_names)


@pytest.mark.parametrize("files", [[simulated(10), simulated(11)], observed(200)])
def test_products_carry_only_keys_of_the_observatory(files):
    document = "dl0" if len(files) > 2 else "simulated"
    outputs = process(body_of(document, 1), files).outputs
    merged = merge(body_of(document, 2), [JobInput(o.lfn, o.meta) for o in outputs]).outputs
    for output in (*outputs, *merged):
        Vocabulary(KEYS).split(dict(output.meta))


# --- provenance logs ------------------------------------------------------------------------------------
def ran(name, **more):
    entry = {
        "activity_name": name,
        "activity_uuid": "11111111-2222-4333-8444-555555555555",
        "status": "completed",
        "start": {"time_utc": "2026-01-31T21:00:00.250"},
        "stop": {"time_utc": "2026-01-31T21:04:00"},
        "system": {
            "ctapipe_version": "0.28.0",
            "python": {"version": ["3", "11", "7"], "packages": [{"name": "numpy", "version": "2.4.6"}]},
        },
        "input": [{"url": "/job/run1.simtel.zst", "role": "DL0/Event", "reference_meta": None}],
        "output": [
            {"url": "/job/run1.h5", "role": "DL1/Event"},
            {"url": "/job/run1.h5", "role": "DL2/Event"},
        ],
        "config": {"Tool": {"log_level": "INFO", "limit": float("nan")}},
    }
    return entry | more


@pytest.mark.parametrize("job_type", [name for name in JOB_TYPES if "Sim" not in name])
def test_logs_written_back_to_back_are_all_read(job_type):
    log = (
        json.dumps([ran("first")], indent=3)
        + json.dumps([ran("second"), ran("third", stop={}, status="running")])
        + "\n"
    )
    first, second, third = JOB_TYPES[job_type].activities(log)
    assert [activity.name for activity in (first, second, third)] == ["first", "second", "third"]
    assert first.started == datetime(2026, 1, 31, 21, 0, 0, 250000, tzinfo=UTC)
    assert first.ended == datetime(2026, 1, 31, 21, 4, tzinfo=UTC)
    assert third.ended is None
    assert first.software == {"ctapipe": "0.28.0", "python": "3.11.7", "numpy": "2.4.6"}
    assert (first.used, first.generated) == (("run1.simtel.zst",), ("run1.h5",))
    assert first.configuration == {"Tool": {"log_level": "INFO", "limit": None}}


@pytest.mark.parametrize(
    "log",
    [
        "",
        "[]",
        "{}",
        "null",
        "[1]",
        '[{"activity_name": 5}]',
        json.dumps([ran("x")])[:-20],
        json.dumps([ran("x", start={"time_utc": "yesterday"})]),
        json.dumps([ran("x", input=[{"role": "no url"}])]),
        json.dumps([ran("x\0")]),
        json.dumps([ran("x", config=[1])]),
        "[" * 100_000,
        "[" + "9" * 5000 + "]",
    ],
)
def test_a_log_that_is_cut_or_none_is_refused(log):
    with pytest.raises(Invalid):
        JOB_TYPES["Merging"].activities(log)


@given(st.integers(0, 1000), st.text(max_size=3))
@settings(max_examples=100, deadline=None)
def test_a_damaged_log_is_read_or_refused(at, typed):
    log = json.dumps([ran("x")])
    try:
        assert JOB_TYPES["Merging"].activities(log[:at] + typed + log[at + 1 :])
    except Invalid as error:
        assert error.message


# --- the tools ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tool", sorted(path.name for path in TOOLS.glob("*.cwl")))
def test_tools_are_valid_and_need_neither_javascript_nor_network(tool):
    text = (TOOLS / tool).read_text()
    assert "Javascript" not in text
    assert "networkAccess: false" in text
    done = subprocess.run([BIN / "cwltool", "--validate", TOOLS / tool], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stderr.split("WARNING")[1:]
    assert all("lightkeeper.invalid/cwl#JobType" in warning for warning in said)  # a hint that is for us


def run_as_the_pilot_does(folder, told, originals):
    """Lay inputs and sandbox, run the tool, and return the output folder."""
    for lfn, original in originals.items():
        laid = Path(f"{folder}/inputs{lfn}")
        laid.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original, laid)
    for name, text in told.sandbox.items():
        (folder / name).write_text(text)
    (folder / "tool.cwl").write_text(told.cwl)
    (folder / "inputs.json").write_text(json.dumps(told.inputs))
    done = subprocess.run(
        ["cwltool", "--no-container", "--outdir", "out", "tool.cwl", "inputs.json"],
        cwd=folder,
        env={"PATH": f"{BIN}:{os.defpath}", "HOME": str(folder), **told.environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    out = folder / "out"
    expected = [*(output.name for output in told.outputs), *told.provenance_logs]
    assert not [name for name in expected if not (out / name).is_file()]
    return out


def events_by_obs_id(path):
    from ctapipe.io import TableLoader

    with TableLoader(path) as loader:
        obs_ids = loader.read_subarray_events()["obs_id"].tolist()
    return {obs_id: obs_ids.count(obs_id) for obs_id in obs_ids}


def products(told, out):
    return {output.lfn: out / output.name for output in told.outputs}


def as_inputs(told):
    return [JobInput(output.lfn, output.meta) for output in told.outputs]


def activities(job_type, told, out):
    return [ran for log in told.provenance_logs for ran in JOB_TYPES[job_type].activities((out / log).read_text())]


@needs_shared
@pytest.mark.ctapipe
def test_two_runs_are_processed_and_merged_for_real(tmp_path):
    inputs = [simulated(10), simulated(410)]
    told = process(body_of("simulated", 1), inputs)
    (tmp_path / "process").mkdir()
    original = SHARED / "simtel" / PROTON
    out = run_as_the_pilot_does(tmp_path / "process", told, {i.lfn: original for i in inputs})
    assert [events_by_obs_id(path) for path in products(told, out).values()] == [{10: 4}, {410: 4}]
    first, second = activities("CtapipeProcessing", told, out)
    assert (first.name, first.status) == ("ctapipe-process", "completed")
    assert first.used == ("process.yaml", "proton_run000010_test.simtel.zst")
    assert first.software["ctapipe"].startswith("0.28")
    source = first.configuration["ProcessorTool"]["SimTelEventSource"]
    assert source["override_obs_id"] == 10

    together = merge(body_of("simulated", 2), as_inputs(told), task=6)
    (tmp_path / "merge").mkdir()
    merged = run_as_the_pilot_does(tmp_path / "merge", together, products(told, out))
    assert [events_by_obs_id(path) for path in products(together, merged).values()] == [{10: 4, 410: 4}]
    (joined,) = activities("Merging", together, merged)
    assert joined.used == first.generated + second.generated
    assert joined.generated == (together.outputs[0].name,)


@needs_shared
@pytest.mark.ctapipe
def test_an_observation_of_four_telescopes_is_processed_for_real(tmp_path):
    base = SHARED / "dl0" / "lst4"
    inputs, originals = [], {}
    for entry in json.loads((base / "MANIFEST.json").read_text()):
        lfn = parse_lfn(f"/ctao/acada/{entry['path']}")
        meta = {
            "data_level": 0,
            "stream": entry["kind"].split(".")[1],
            "obs_id": entry["obs_id"],
            "sb_id": entry["sb_id"],
        }
        inputs.append(JobInput(lfn, meta))
        originals[lfn] = base / entry["path"]
    told = process(body_of("dl0", 1), inputs)
    out = run_as_the_pilot_does(tmp_path, told, originals)
    assert [events_by_obs_id(path) for path in products(told, out).values()] == [{2000000200: 60}]
    (activity,) = activities("CtapipeProcessing", told, out)
    read = {name for name in activity.used if name.startswith("TEL0")}
    assert read == {Path(path).name for path in originals if "/events/" in path}
    assert activity.generated == (told.outputs[0].name,)
