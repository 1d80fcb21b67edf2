"""The nine types of steps: what each may say, and what is known of its products before they are made."""

import pytest
from tests.ctao.test_production_yaml import COMMON, SITE_X, one_step, read, refused

from lightkeeper.domain.errors import Invalid
from lightkeeper_ctao.step_types import STEP_TYPES

# --- simulations ----------------------------------------------------------------------------------------
SIMULATION = (
    """ProdSteps:
  - ID: 1
    input_meta_query:
    job_config:
      type: mcsimulation
      site: Paranal
      particle: gamma-diffuse
      pointing_dir: North
      zenith_angle: 20
      n_shower: 50
      array_layout: Prod6-Hyperarray
      start_run_number: 100
      moon: dark, half
      n_tasks: 12
"""
    + COMMON
)


def simulated(*changes, **how):
    text = SIMULATION
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    return read(text, job_types=list(STEP_TYPES), **how)


def test_a_simulation_has_no_input_and_says_what_it_makes():
    plan = simulated()
    (step,) = plan.steps
    assert plan.warnings == ()
    assert (step.without_input, step.n_tasks, dict(step.query), step.type) == (True, 12, {}, "MCSimulation")
    assert step.body["settings"]["moon"] == ["dark", "half"]
    made = step.body["output_meta"]
    assert (made["phiP"], made["thetaP"], made["sct"], made["data_level"]) == (180.0, 20.0, "False", -1)
    assert (made["tel_sim_prog"], made["tel_sim_prog_version"]) == ("sim_telarray", "v0.19.2")
    assert "nsb" not in made  # two values: each file has its own


def test_a_child_of_a_simulation_finds_every_night_sky_unless_it_chooses_one():
    child = "  - ID: 2\n    input_meta_query: {parentID: 1QUERY}\n    job_config: {type: SimTelProcessing}\nCommon:"
    every = simulated(("Common:", child.replace("QUERY", "")))
    dark = simulated(("Common:", child.replace("QUERY", ", moon: dark")))
    assert every.steps[1].query["nsb"] == {"in": [1, 5]}
    assert dark.steps[1].query["nsb"] == 1
    assert every.steps[1].query["particle"] == "gamma-diffuse"


@pytest.mark.parametrize(
    ("changes", "made"),
    [
        ([("dark, half", "dark")], {"nsb": 1}),
        ([("North", "South")], {"phiP": 0.0}),
        ([("North", "East")], {"phiP": 270.0}),
        ([("n_shower: 50", "n_shower: 50\n      sct: all")], {"sct": "True", "tel_sim_prog_version": "v0.19.2-sc"}),
        ([("n_shower: 50", "n_shower: 50\n      only_corsika: true")], {"airshower_sim_prog": "corsika"}),
        ([("n_shower: 50", "n_shower: 50\n      magic:")], {"tel_sim_prog": "sim_telarray"}),
    ],
)
def test_settings_of_a_simulation_show_in_what_it_makes(changes, made):
    told = simulated(*changes).steps[0].body["output_meta"]
    assert {key: told[key] for key in made} == made


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("dark, half", "half", "'half' cannot be simulated (write dark; or dark, half; or dark, half, full)"),
        ("Paranal", "LaSilla", "'LaSilla' is not known here"),
        ("gamma-diffuse", "neutrino", "'neutrino' is not known here"),
        ("n_tasks: 12", "div_ang: 0.1, 0.2", "'0.1, 0.2' cannot be simulated (write 0.0022, 0.0043"),
        ("n_tasks: 12", "random_mono_probability: 1.5", "must be from 0 to 1, not 1.5"),
        ("      n_shower: 50\n", "", "key 'n_shower' is missing"),
        ("      array_layout: Prod6-Hyperarray\n", "", "key 'array_layout' is missing"),
    ],
)
def test_a_simulation_that_cannot_be_is_refused(before, after, told):
    with pytest.raises(Invalid) as caught:
        simulated((before, after))
    assert told in f"{caught.value.message} ({caught.value.hint})"


def test_what_a_simulation_ignores_is_told():
    (told,) = simulated(("input_meta_query:", "input_meta_query: {dataset: Old}")).warnings
    assert told == "line 3, key 'dataset' of step 1: is ignored; MCSimulation has no input"
    (told,) = simulated(("      n_tasks: 12\n", "")).warnings
    assert "nothing is simulated until n_tasks says how many jobs" in told


SIMPIPE = (
    """ProdSteps:
  - ID: 1
    input_meta_query:
    job_config:
      type: SimPipe
      n_tasks: 3
      simpipe_config:
        array_layout_name: beta_scts
        site: South
        model_version: "6.2.0"
        primary: proton
        zenith_angle: 40
        azimuth_angle: south
        energy_range: 3 GeV 330 TeV
"""
    + COMMON
)


def test_simpipe_is_told_in_its_own_words():
    plan = read(SIMPIPE, job_types=list(STEP_TYPES))
    made = plan.steps[0].body["output_meta"]
    assert (made["site"], made["particle"], made["phiP"], made["sct"]) == ("Paranal", "proton", 0.0, "True")
    assert (made["tel_sim_prog"], made["model_version"], plan.steps[0].name) == ("simpipe", "6.2.0", "MCSimulation")
    assert plan.steps[0].body["settings"]["simpipe_config"]["given"]["azimuth_angle"] == "south"
    (told,) = plan.warnings
    assert "key 'energy_range' of simpipe_config of step 1: is not known here, and handed to simpipe as it is" in told


def test_of_a_ledger_of_jobs_nothing_is_known_before_but_who_makes_the_files():
    text = SIMPIPE.replace("        primary: proton\n", "        job_grid_file: grid.ecsv\n")
    made = read(text, job_types=list(STEP_TYPES)).steps[0].body["output_meta"]
    assert set(made) == {
        "MCCampaign", "configuration_id", "tel_sim_prog", "tel_sim_prog_version", "outputType", "data_level",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("        primary: proton\n", "", "primary missing in it"),
        (
            "primary: proton",
            "primary: proton\n        run_number: 5",
            "key 'run_number' of simpipe_config of step 1: may not",
        ),
        ("site: South", "site: Paranal", "key 'site' of simpipe_config of step 1: 'Paranal' is not known here"),
        ("south", "down", "'down' is not known here"),
    ],
)
def test_a_simpipe_configuration_that_cannot_be_is_refused(before, after, told):
    assert told in refused(SIMPIPE.replace(before, after), job_types=list(STEP_TYPES))


# --- every type -----------------------------------------------------------------------------------------
def test_the_steps_of_every_type_have_the_names_that_the_observatory_knows():
    told = {kind.name: (kind.program, kind.step_name, kind.transformation, kind.label) for kind in STEP_TYPES.values()}
    assert told == {
        "MCSimulation": ("sim_telarray", "MCSimulation", "MCSimulation", "MCSimulation"),
        "SimPipe": ("simpipe", "MCSimulation", "MCSimulation", "MCSimulation"),
        "SimTelProcessing": ("sim_telarray", "SimTelProcessing", "DataReprocessing", "DL0_Reprocessing"),
        "CtapipeProcessing": ("ctapipe-process", "CtapipeProcessing", "DataReprocessing", "DL0_Reprocessing"),
        "EvnDispProcessing": ("evndisp", "EvnDisp", "DataReprocessing", "EvnDispProcessing"),
        "Merging": ("ctapipe-merge", "Merging", "Merging", "Merging"),
        "CtapipeTrainEnergy": ("ctapipe-train-energy-regressor", "CtapipeTrainEnergy", "Training", "Training"),
        "CtapipeTrainClassifier": (
            "ctapipe-train-particle-classifier", "CtapipeTrainClassifier", "Training", "Training",
        ),
        "CtapipeApplyModels": ("ctapipe-apply-models", "CtapipeApplyModels", "ApplyModel", "ApplyModel"),
    }  # fmt: skip


def test_every_general_key_reaches_the_plan():
    config = (
        "cpu_time: 3600\n      tag: gpu, big\n      memory: 2000\n      priority: 2\n      input_limit: 7\n"
        "      catalogs: DIRACFileCatalog, TSCatalog\n      package: ctapipe\n      compiler: gcc\n"
        "      software_category: stage1\n      moon: half\n      div_ang: 0.0022"
    )
    plan = read(one_step(config=config))
    (step,) = plan.steps
    assert (step.cpu_time, step.tags, step.memory, step.priority, step.input_limit) == (
        3600,
        ("gpu", "big"),
        2000,
        2,
        7,
    )
    assert step.body["software"] == {"package": "ctapipe", "compiler": "gcc", "software_category": "stage1"}
    assert (step.body["output_meta"]["nsb"], step.body["output_meta"]["div_ang"]) == (5, "0.0022")
    assert plan.warnings == ()


def test_a_training_makes_models_and_a_reprocessed_simulation_its_variation():
    step = read(SITE_X + "    job_config: {type: CtapipeTrainEnergy}\n" + COMMON, job_types=list(STEP_TYPES)).steps[0]
    assert (step.body["output_meta"]["outputType"], step.merges) == ("Model", True)
    config = "{type: SimTelProcessing, systematic_uncertainty_to_test: mirror/reflectivity/low/, sct: all}"
    step = read(f"{SITE_X}    job_config: {config}\n{COMMON}", job_types=list(STEP_TYPES)).steps[0]
    made = step.body["output_meta"]
    assert (made["systematics"], made["sct"], made["tel_sim_prog"]) == ("reflectivity_low", "True", "sim_telarray")
