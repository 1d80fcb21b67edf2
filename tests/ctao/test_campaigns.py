"""A template of a few lines becomes the production documents of a campaign, which are in order as they are."""

import pytest

from lightkeeper.domain.errors import Invalid
from lightkeeper_ctao.campaigns import KEYS, Campaigns
from lightkeeper_ctao.production import ProductionYaml
from lightkeeper_ctao.step_types import STEP_TYPES

TEMPLATE = """
MCCampaign: PROD6
site: LaPalma
input_array_layout: Prod6-Hyperarray
processing_array_layout: Alpha
zenith: 60.0
analysis_prog_version: v0.28.0
analysis_config_version: v1
configuration_id: 16
moon: dark
pointing: North
"""
EVNDISP = """
MCCampaign: PROD6
site: Paranal
input_array_layout: Beta
zenith: 20
analysis_prog_version: "1.0"
analysis_prog_compiler: gcc83
configuration_id: 3
pointing: South
"""


def plans(template, kind="ctapipe"):
    reader = ProductionYaml(job_types=list(STEP_TYPES))
    documents = Campaigns().documents(template, kind)
    return {name: reader.read(text, sandbox=lambda _: b"", dataset=lambda _: {}) for name, text in documents.items()}


def test_a_campaign_is_six_productions_from_r1_to_dl2_with_models():
    found = plans(TEMPLATE)
    assert {name: len(plan.steps) for name, plan in found.items()} == {
        "dl0_to_dl1.yml": 7, "dl1_to_dl2.yml": 7, "merge.yml": 21, "train_energy.yml": 1, "train_classifier.yml": 3,
        "apply_models.yml": 4,
    }  # fmt: skip
    assert all(plan.warnings == () for plan in found.values())
    assert {plan.campaign for plan in found.values()} == {"PROD6"}


def test_samples_are_found_by_the_name_of_their_dataset_and_each_has_a_purpose():
    steps = plans(TEMPLATE)["dl0_to_dl1.yml"].steps
    assert steps[0].dataset == "Prod6_LaPalma_Prod6-Hyperarray_NSB1x_gamma_North_60deg_R1"
    assert steps[2].dataset == "Prod6_LaPalma_Prod6-Hyperarray_NSB1x_gamma-diffuse_North_60deg_R1_train_en"
    assert steps[0].body["output_meta"]["split"] == "test"
    assert {step.group_size for step in steps} == {10}


def test_every_sample_is_merged_in_three_stages():
    steps = plans(TEMPLATE)["merge.yml"].steps
    assert [step.parent for step in steps[:6]] == [None, 1, 2, None, 4, 5]
    assert [step.group_size for step in steps[:3]] == [25, 25, 10_000]
    assert [step.body["output_meta"]["merged"] for step in steps[:3]] == [1, 2, 3]
    assert steps[8].body["output_extension"] == "alpha_train_en_merged.DL2.h5"


def test_each_production_takes_what_the_one_before_makes():
    found = plans(TEMPLATE)
    made = found["merge.yml"].steps[8].body["output_meta"]  # gamma-diffuse, train_en, third stage
    asked = found["train_energy.yml"].steps[0].query
    assert {key: made.get(key) for key in asked} == dict(asked)
    made = found["dl1_to_dl2.yml"].steps[2].body["output_meta"]
    asked = found["merge.yml"].steps[6].query
    assert {key: made.get(key) for key in asked} == dict(asked)
    assert found["train_classifier.yml"].steps[2].feeders == (1, 2)


def test_a_campaign_of_evndisp_is_one_production_for_each_light_of_the_moon():
    found = plans(EVNDISP, "evndisp")
    assert sorted(found) == ["dl0_to_dl1_dark.yml", "dl0_to_dl1_full.yml", "dl0_to_dl1_half.yml"]
    step = found["dl0_to_dl1_full.yml"].steps[3]
    assert step.dataset == "Prod6_Paranal_Beta_NSB19x_proton_South_20deg_R1"
    assert (step.group_size, step.body["options"]) == (5, ["20deg", "full"])
    assert step.body["software"]["compiler"] == "gcc83"


SIMULATION = """
ProdSteps:
  - ID: 1
    input_meta_query: {parentID: }
    job_config:
      type: MCSimulation
      site: LaPalma
      particle: gamma
      pointing_dir: North
      zenith_angle: 20
      n_shower: 1000
      array_layout: Prod6-Hyperarray
      start_run_number: 0
      moon: dark, half
      n_tasks: 2000
Common: {MCCampaign: PROD6, configuration_id: 16, base_path: /ctao/MC, version: "2025-01-01"}
"""


@pytest.mark.feature("S1-073")
def test_one_campaign_simulates_and_an_older_one_is_processed_from_documents_alone():
    processed = plans(TEMPLATE.replace("PROD6", "PROD5b").replace("Prod6-Hyperarray", "Prod5b-Hyperarray"))
    assert {plan.campaign for plan in processed.values()} == {"PROD5b"}
    (first, *_) = processed["dl0_to_dl1.yml"].steps
    assert first.dataset == "Prod5b_LaPalma_Prod5b-Hyperarray_NSB1x_gamma_North_60deg_R1"
    assert all(step.body["MCCampaign"] == "PROD5b" for plan in processed.values() for step in plan.steps)
    reader = ProductionYaml(job_types=list(STEP_TYPES))
    simulated = reader.read(SIMULATION, sandbox=lambda _: b"", dataset=lambda _: {})
    (step,) = simulated.steps
    assert (simulated.campaign, step.type, step.n_tasks, step.without_input) == ("PROD6", "MCSimulation", 2000, True)
    assert (simulated.warnings, simulated.missing) == ((), ())


@pytest.mark.parametrize("key", sorted(KEYS["ctapipe"]))
def test_nothing_is_filled_in_for_what_a_template_does_not_say(key):
    text = "\n".join(line for line in TEMPLATE.splitlines() if not line.startswith(f"{key}:"))
    with pytest.raises(Invalid, match=f"the template has no '{key}'"):
        Campaigns().documents(text, "ctapipe")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("LaPalma", "Teide", "line 3, key 'site' of the template: 'Teide' is not known here"),
        ("zenith: 60.0", "zenit: 60.0", "line 6, key 'zenit' of the template: unknown key (did you mean 'zenith'?)"),
        ("dark", "bright", "line 10, key 'moon' of the template"),
    ],
)
def test_what_is_wrong_in_a_template_is_told_with_line_and_key(before, after, told):
    with pytest.raises(Invalid) as caught:
        Campaigns().documents(TEMPLATE.replace(before, after), "ctapipe")
    assert told in f"{caught.value.message} ({caught.value.hint})"


def test_an_unknown_kind_of_campaign_is_told_with_the_nearest_one():
    with pytest.raises(Invalid) as caught:
        Campaigns().documents(TEMPLATE, "ctapip")
    assert caught.value.hint == "did you mean 'ctapipe'?"
