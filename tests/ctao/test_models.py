"""Models that are trained and applied: which they are, who makes them, and what a job is told."""

from typing import Any

import pytest

from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import parse_lfn
from lightkeeper.domain.work import JobInput, JobOrder
from lightkeeper_ctao.job_types import JOB_TYPES
from lightkeeper_ctao.production import ProductionYaml

COMMON = """
Common: {MCCampaign: PROD6, configuration_id: 7, base_path: /ctao/prod, version: v0.28.0, data_level: 2}
"""
TRAINING = """
  - ID: {id}
    input_meta_query: {{dataset: , MCCampaign: PROD6, particle: gamma-diffuse, phiP: {phi}}}
    job_config: {{type: CtapipeTrainEnergy}}
"""
APPLYING = """
  - ID: {id}
    input_meta_query: {{MCCampaign: PROD6, data_level: 2, particle: proton, split: test, phiP: {phi}}}
    job_config: {{type: CtapipeApplyModels, output_extension: x.h5, options: --reconstructor energy_model.pkl}}
"""


def steps(*written: str) -> Any:
    text = "ProdSteps:" + "".join(written) + COMMON
    return ProductionYaml().read(text, sandbox=lambda _: b"", dataset=lambda _: {}).steps


@pytest.mark.feature("S0-057")
def test_a_model_that_an_earlier_step_trains_is_that_ones():
    (model,) = steps(TRAINING.format(id=1, phi=180.0), APPLYING.format(id=2, phi=180.0))[1].companions
    assert (model.role, model.parent) == ("energy_model.pkl", 1)


def test_a_model_is_taken_from_the_step_whose_conditions_are_the_same():
    north, south = TRAINING.format(id=1, phi=180.0), TRAINING.format(id=2, phi=0.0)
    (model,) = steps(north, south, APPLYING.format(id=3, phi=0.0))[2].companions
    assert model.parent == 2


def test_a_model_that_no_step_trains_is_found_in_the_catalogue_by_what_it_is_applied_to():
    (model,) = steps(APPLYING.format(id=1, phi=180.0))[0].companions
    assert model.parent is None
    assert model.query == {
        "MCCampaign": "PROD6",
        "configuration_id": 7,
        "phiP": 180.0,
        "outputType": "Model",
        "analysis_prog": "ctapipe-train-energy-regressor",
    }


def test_two_steps_that_train_the_same_model_are_told_apart_by_nobody():
    same = [TRAINING.format(id=1, phi=180.0), TRAINING.format(id=2, phi=180.0).replace("gamma-diffuse", "electron")]
    with pytest.raises(Invalid, match=r"energy_model.pkl is trained by the steps 1, 2"):
        steps(*same, APPLYING.format(id=3, phi=180.0))


# --- what jobs are told ----------------------------------------------------------------------------------------
BODY = {
    "program": "ctapipe",
    "version": "v0.28.0",
    "options": ["--config", "c.yaml"],
    "output_extension": "",
    "base_path": "/ctao/prod",
    "output_meta": {"MCCampaign": "PROD6", "outputType": "Model"},
    "sandbox": {"c.yaml": "x"},
    "settings": {},
}


def events(particle: str, run: int = 1, **meta: Any) -> JobInput:
    lfn = parse_lfn(f"/ctao/prod/{particle}_run{run:06d}.merged.DL2.h5")
    return JobInput(lfn, {"particle": particle, "split": "train", "data_level": 2, "merged": 1} | meta)


def order(*inputs: JobInput, **companions: JobInput) -> JobOrder:
    return JobOrder(12, 5, 99, BODY, inputs, {f"{role}.pkl": one for role, one in companions.items()})


def test_a_model_belongs_to_no_particle_and_no_sample():
    (output,) = JOB_TYPES["CtapipeTrainEnergy"].recipe(order(events("gamma"))).outputs
    assert output.name == "gamma_run000001_task5.energy.pkl"
    assert output.meta["outputType"] == "Model"
    assert not {"particle", "split", "runNumber"} & output.meta.keys()


def test_a_classifier_learns_gammas_against_the_others():
    told = JOB_TYPES["CtapipeTrainClassifier"].recipe(order(events("proton"), events("gamma-diffuse")))
    assert told.inputs["signal"]["location"].endswith("gamma-diffuse_run000001.merged.DL2.h5")
    assert told.inputs["background"]["location"].endswith("proton_run000001.merged.DL2.h5")
    assert len(told.outputs[0].sources) == 2


@pytest.mark.parametrize("particles", [["gamma"], ["proton"], ["gamma", "gamma-diffuse"], ["gamma", "proton", "muon"]])
def test_a_classifier_needs_exactly_one_file_of_each(particles: list[str]):
    with pytest.raises(Invalid, match="one file of gammas and one of other particles") as refused:
        JOB_TYPES["CtapipeTrainClassifier"].recipe(order(*(events(particle) for particle in particles)))
    assert "group_size: 2" in refused.value.hint


def test_models_lie_beside_the_program_under_the_names_that_options_know():
    model = JobInput(parse_lfn("/ctao/prod/gamma_task5.energy.pkl"), {})
    told = JOB_TYPES["CtapipeApplyModels"].recipe(order(events("gamma"), events("proton", 2), energy_model=model))
    assert told.inputs["models"] == [
        {"class": "File", "location": f"inputs{model.lfn}", "basename": "energy_model.pkl"},
    ]
    assert [output.sources[-1] for output in told.outputs] == [model.lfn] * 2
    assert told.inputs["output_names"] == [output.name for output in told.outputs]
