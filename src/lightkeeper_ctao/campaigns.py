"""The production documents of a campaign, written from a short template.

A campaign of simulations goes from R1 to DL2 with trained models in six productions: process to DL1, process to DL2,
merge, train the energy, train the classifier, apply both. Samples are datasets named by convention, see `dataset_of`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from lightkeeper.domain.errors import Invalid, nearest
from lightkeeper.domain.names import printable
from lightkeeper_ctao.dialect import Field, fields, integer, number, one_of, path, text, unknown, version
from lightkeeper_ctao.findings import Findings
from lightkeeper_ctao.marked_yaml import Node, read_yaml

NSB: Final = {"dark": 1, "half": 5, "full": 19}
AZIMUTH: Final = {"North": 180.0, "South": 0.0}

_COMMON: Final[Mapping[str, Callable[[Field], Any]]] = {
    "MCCampaign": text,
    "site": one_of("LaPalma", "Paranal"),
    "input_array_layout": text,
    "zenith": number,
    "analysis_prog_version": version,
    "configuration_id": integer,
    "pointing": one_of(*AZIMUTH),
}
KEYS: Final[Mapping[str, Mapping[str, Callable[[Field], Any]]]] = {
    "ctapipe": {
        **_COMMON,
        "processing_array_layout": text,
        "analysis_config_version": text,
        "moon": one_of(*NSB),
    },
    "evndisp": {**_COMMON, "analysis_prog_compiler": text},
}
"""Keys of templates by kind; every one must be there. `base_path` may be."""
BASE_PATH: Final = "/ctao/MC"

SAMPLES: Final = (
    ("gamma", ""),
    ("electron", ""),
    ("gamma-diffuse", "train_en"),
    ("gamma-diffuse", "train_cl"),
    ("gamma-diffuse", "test"),
    ("proton", "train_cl"),
    ("proton", "test"),
)
"""Particle and what the sample is for; those without a word are for testing, and were never split."""
PARTICLES: Final = ("gamma", "electron", "gamma-diffuse", "proton")
STAGES: Final = ((25, "merged.DL2.h5"), (25, "01_merged.DL2.h5"), (10_000, "LAYOUT_SPLIT_merged.DL2.h5"))
"""Files are merged in three stages: how many together, and what the names of the merged ones end with."""

Step = tuple[Mapping[str, Any], Mapping[str, Any]]
"""Input query and job configuration."""


@dataclass(frozen=True, slots=True)
class Campaign:
    """What a template says."""

    values: Mapping[str, Any]

    @property
    def common(self) -> dict[str, Any]:
        """What all steps have."""
        return {
            "MCCampaign": self.values["MCCampaign"],
            "configuration_id": self.values["configuration_id"],
            "base_path": self.values.get("base_path", BASE_PATH),
        }

    @property
    def zenith(self) -> str:
        """The zenith angle as names have it."""
        return f"{int(self.values['zenith'])}deg"

    def dataset_of(self, particle: str, split: str, moon: str) -> str:
        """The name of a sample of R1 files."""
        parts = [
            str(self.values["MCCampaign"]).capitalize(),
            self.values["site"],
            self.values["input_array_layout"],
            f"NSB{NSB[moon]}x",
            particle,
            self.values["pointing"],
            self.zenith,
            "R1",
            split,
        ]
        return "_".join(part for part in parts if part)

    def query(self, program: str, level: int, **conditions: Any) -> dict[str, Any]:
        """The query that finds what `program` made in this campaign."""
        return {
            "MCCampaign": self.values["MCCampaign"],
            "array_layout": self.values["processing_array_layout"],
            "site": self.values["site"],
            "thetaP": self.values["zenith"],
            "phiP": AZIMUTH[self.values["pointing"]],
            "analysis_prog": program,
            "analysis_prog_version": self.values["analysis_prog_version"],
            "data_level": level,
            "outputType": "Data",
            "configuration_id": self.values["configuration_id"],
            "moon": self.values["moon"],
            **conditions,
        }

    def job(self, kind: str, **settings: Any) -> dict[str, Any]:
        """A job configuration."""
        return {"type": kind, "version": self.values["analysis_prog_version"], **settings}

    def config(self, name: str) -> str:
        """The option that names a configuration file."""
        return f"-c {self.values['analysis_config_version']}/{name}.yml"


class Campaigns:
    """Writes the documents of a campaign."""

    def documents(self, template: str, kind: str) -> Mapping[str, str]:
        """The production documents that a template of this kind asks for, by the names of their files; raises
        Invalid."""
        if kind not in KEYS:
            raise Invalid(f"there is no campaign of kind '{printable(kind)}'", hint=nearest(kind, KEYS))
        campaign = _read(template, KEYS[kind])
        made = _ctapipe(campaign) if kind == "ctapipe" else _evndisp(campaign)
        return {name: _document(campaign, steps) for name, steps in made.items()}

    def change(self, document: str, changes: Mapping[str, str]) -> str:
        """The document with other settings: `MCCampaign` in Common, `2.version` in job_config of step 2."""
        for key, value in changes.items():
            document = _changed(document, key, value)
        return document


def _read(template: str, keys: Mapping[str, Callable[[Field], Any]]) -> Campaign:
    given = fields(read_yaml(template), "the template")
    findings = Findings()
    findings.add(unknown(given.values(), [*keys, "base_path"]))
    findings.add(Invalid(f"the template has no '{key}'") for key in keys if key not in given)
    values: dict[str, Any] = {}
    for key, found in given.items():
        if key in keys or key == "base_path":
            with findings.noting():
                values[key] = path(found) if key == "base_path" else keys[key](found)
    findings.refuse()
    return Campaign(values)


# --- the productions of a campaign -----------------------------------------------------------------------------
def _ctapipe(campaign: Campaign) -> dict[str, list[Step]]:
    return {
        "dl0_to_dl1.yml": [_to_dl1(campaign, *sample) for sample in SAMPLES],
        "dl1_to_dl2.yml": [_to_dl2(campaign, *sample) for sample in SAMPLES],
        "merge.yml": _merging(campaign),
        "train_energy.yml": [
            (
                campaign.query("ctapipe-merge", 2, particle="gamma-diffuse", split="train_en", merged=len(STAGES)),
                campaign.job("CtapipeTrainEnergy", options=campaign.config("train_energy_regressor")),
            )
        ],
        "train_classifier.yml": [
            *(
                _applying(campaign, particle, "train_cl", "energy_model.pkl")
                for particle in ("gamma-diffuse", "proton")
            ),
            (
                campaign.query("ctapipe-apply-models", 2, split="train_cl"),
                campaign.job(
                    "CtapipeTrainClassifier", group_size=2, options=campaign.config("train_particle_classifier")
                ),
            ),
        ],
        "apply_models.yml": [
            _applying(campaign, particle, "test", "energy_model.pkl", "classifier_model.pkl") for particle in PARTICLES
        ],
    }


def _to_dl1(campaign: Campaign, particle: str, split: str) -> Step:
    """A sample without a split gets one here, so that later steps find all samples alike."""
    job = campaign.job(
        "CtapipeProcessing",
        array_layout=campaign.values["processing_array_layout"],
        group_size=10,
        output_extension="DL1.h5",
        data_level=1,
        options=campaign.config("dl0_to_dl1"),
    )
    dataset = campaign.dataset_of(particle, split, campaign.values["moon"])
    return {"dataset": dataset}, job if split else {**job, "split": "test"}


def _to_dl2(campaign: Campaign, particle: str, split: str) -> Step:
    side = "north" if campaign.values["site"] == "LaPalma" else "south"
    subarray = f"{campaign.values['MCCampaign'].lower()}/subarray_{side}_{_layout(campaign)}"
    return (
        campaign.query("ctapipe-process", 1, particle=particle, split=split or "test"),
        campaign.job(
            "CtapipeProcessing",
            array_layout=campaign.values["processing_array_layout"],
            group_size=10,
            output_extension="DL2.h5",
            data_level=2,
            options=f"{campaign.config('dl1_to_dl2')} {campaign.config(subarray)}",
        ),
    )


def _merging(campaign: Campaign) -> list[Step]:
    steps: list[Step] = []
    for particle, split in SAMPLES:
        for stage, (group_size, ending) in enumerate(STAGES):
            query = (
                {"parentID": len(steps)}
                if stage
                else campaign.query("ctapipe-process", 2, particle=particle, split=split or "test", merged=0)
            )
            ending = ending.replace("LAYOUT", _layout(campaign)).replace("SPLIT", split or "test")
            steps.append((query, campaign.job("Merging", group_size=group_size, output_extension=ending)))
    return steps


def _applying(campaign: Campaign, particle: str, split: str, *models: str) -> Step:
    options = " ".join(f"--reconstructor {model}" for model in models)
    query = campaign.query("ctapipe-merge", 2, particle=particle, split=split, merged=len(STAGES))
    return query, campaign.job("CtapipeApplyModels", options=options)


def _layout(campaign: Campaign) -> str:
    return str(campaign.values["processing_array_layout"]).lower()


def _evndisp(campaign: Campaign) -> dict[str, list[Step]]:
    return {
        f"dl0_to_dl1_{moon}.yml": [
            (
                {"dataset": campaign.dataset_of(particle, "", moon)},
                campaign.job(
                    "EvnDispProcessing",
                    compiler=campaign.values["analysis_prog_compiler"],
                    group_size=5,
                    data_level=1,
                    options=f"{campaign.zenith} {moon}",
                    catalogs="DIRACFileCatalog",
                ),
            )
            for particle in PARTICLES
        ]
        for moon in NSB
    }


# --- changing --------------------------------------------------------------------------------------------------
def _changed(document: str, key: str, value: str) -> str:
    """One setting is a line of its own: it is written anew, or put first in its map."""
    step, _, name = key.rpartition(".")
    place = _settings(read_yaml(document), step)
    if not re.fullmatch(r"[A-Za-z_]+", name):
        raise Invalid(f"'{printable(key)}' is not a setting", hint="like MCCampaign=NEW, or 2.version=v0.29.0")
    if not isinstance(place.value, dict) or not place.value:
        raise Invalid(f"line {place.line}: a map of settings is needed here")
    lines = document.splitlines()
    first = next(iter(place.value.values())).line
    indent = re.match(r" *", lines[first - 1])
    if first == place.line or indent is None:
        raise Invalid(f"line {place.line}: settings are changed only where each has a line of its own")
    written = f"{indent[0]}{name}: {value if _PLAIN.match(value) or _NUMBER.match(value) else json.dumps(value)}"
    if name in place.value:
        found = place.value[name]
        if isinstance(found.value, list | dict):
            raise Invalid(f"line {found.line}: '{name}' is not one value")
        lines[found.line - 1] = written
    else:
        lines.insert(first - 1, written)
    return "\n".join([*lines, ""])


def _settings(root: Node, step: str) -> Node:
    """Common, or the job_config of a step."""
    top = fields(root, "the document")
    if not step:
        if "Common" not in top:
            raise Invalid("the document has no Common")
        return top["Common"].node
    steps = top["ProdSteps"].node.value if "ProdSteps" in top else None
    for node in steps if isinstance(steps, list) else ():
        given = fields(node, "a step")
        if "ID" in given and given["ID"].node.text == step and "job_config" in given:
            return given["job_config"].node
    raise Invalid(f"the document has no step {printable(step)} with a job_config")


_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?\Z")


# --- writing ---------------------------------------------------------------------------------------------------
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*\Z")


def _document(campaign: Campaign, steps: Iterable[Step]) -> str:
    lines = ["ProdSteps:"]
    for step_id, (query, job) in enumerate(steps, start=1):
        lines += [f"  - ID: {step_id}", "    input_meta_query:"]
        lines += _map(query, 6)
        lines += ["    job_config:", *_map(job, 6)]
    return "\n".join([*lines, "Common:", *_map(campaign.common, 2), ""])


def _map(values: Mapping[str, Any], indent: int) -> list[str]:
    return [f"{' ' * indent}{key}: {_scalar(value)}" for key, value in values.items()]


def _scalar(value: Any) -> str:
    """A value that reads back as itself; texts in quotes unless they are nothing else."""
    if not isinstance(value, str):
        return json.dumps(value)
    return value if _PLAIN.match(value) and value.lower() not in ("null", "true", "false") else json.dumps(value)
