"""The nine job types of production documents: what each is called elsewhere, and the keys its steps may have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from lightkeeper.domain.errors import nearest
from lightkeeper.domain.names import printable
from lightkeeper_ctao.dialect import (
    MOON,
    Field,
    extension,
    fields,
    integer,
    level,
    number,
    one_list_of,
    one_of,
    path,
    positive,
    probability,
    read_sct,
    site_names,
    text,
    version,
    words,
    words_of,
    yes_or_no,
)
from lightkeeper_ctao.options import options

Readers = Mapping[str, Callable[[Field], Any]]

GENERAL: Final[Readers] = {
    "version": version,
    "options": options,
    "output_extension": extension,
    "group_size": positive,
    "group_by": words,
    "catalogs": words_of("DIRACFileCatalog", "TSCatalog"),
    "destination": site_names,
    "cpu_time": positive,
    "tag": words,
    "nb_processors": positive,
    "memory": positive,
    "max_memory": positive,
    "max_disk": positive,
    "max_processes": positive,
    "wall_time": positive,
    "priority": positive,
    "input_sandbox": words,
    "input_limit": positive,
    "data_level": level,
    "configuration_id": integer,
    "MCCampaign": text,
    "base_path": path,
    "package": text,
    "compiler": text,
    "software_category": text,
    "split": text,
}
"""Keys of job_config for all types, except `type`. `group_by`, `memory`, `priority`, `wall_time` and those with
max_ are ours."""

LIMITS: Final[Mapping[str, tuple[str, int]]] = {
    "max_memory": ("memory", 1_000_000),
    "max_disk": ("disk", 1_000_000),
    "max_processes": ("processes", 1),
    "wall_time": ("wall_time", 1),
}
"""Keys that say what a job may use: what that is, and the unit."""

MEANING: Final[Mapping[str, str]] = {
    "version": "version of the software, as it is written",
    "options": "options of the program; configuration files that they name lie beside the document, or below it",
    "output_extension": "what names of products end with, like DL1.h5",
    "group_size": "files in a task; 1 when not given",
    "group_by": "metadata keys, separated by commas, whose values a task never mixes",
    "catalogs": "DIRACFileCatalog, TSCatalog: the one catalogue here is both",
    "destination": "site, or several separated by commas; jobs run at one of them and nowhere else",
    "cpu_time": "seconds of processor time that one job is expected to take",
    "tag": "words, separated by commas, that a pilot must offer",
    "nb_processors": "processors that one job needs",
    "memory": "MB of memory that one job needs",
    "max_memory": "MB of memory at which a job is ended, instead of what the settings say",
    "max_disk": "the same for MB that it writes",
    "max_processes": "the same for processes that it has at once",
    "wall_time": "the same for seconds from its start to its end",
    "priority": "1 is the most urgent; 5 when not given",
    "input_sandbox": "files beside the document, separated by commas, that are laid beside each job",
    "input_limit": "take only so many of the files that match, the first by their names",
    "data_level": "level of the products, by number; that of the input when not given",
    "configuration_id": "number of the processing configuration, kept with every product",
    "MCCampaign": "name of the campaign, kept with every product",
    "base_path": "names of products begin with it",
    "package": "software package, where it is not the type's own",
    "compiler": "how the package was built",
    "software_category": "kind of package",
    "split": "what a sample is for, kept with every product: train_en, train_cl, test",
}
"""What the general keys mean."""

SOFTWARE: Final = ("package", "compiler", "software_category")
"""Where the software of a step is found, handed on to the job type."""

OBSOLETE: Final[Mapping[str, str]] = {
    "ctapipe_site_config": "write it as an option: --config FILE, and put FILE beside the document",
    "run_number": "the run is counted from start_run_number",
    "run_number_offset": "the run is counted from start_run_number",
}
"""Keys of older documents: what to write instead."""

_DESCRIBED: Final[Readers] = {
    "array_layout": text,
    "site": text,
    "particle": text,
    "phiP": number,
    "thetaP": number,
    "sct": read_sct,
    "view_cone": number,
    "systematics": text,
    "moon": one_of(*MOON),
    "div_ang": text,
}
_SIMTEL: Final[Readers] = {
    "sct": one_of("all", "non-alpha"),
    "moon": one_of(*MOON),
    "div_ang": text,
    "random_mono_probability": probability,
    "instrument_random_seeds": yes_or_no,
    "systematic_uncertainty_to_test": text,
}
_SIMULATED: Final[Readers] = {
    "n_tasks": positive,
    "site": one_of("LaPalma", "Paranal"),
    "particle": one_of("gamma", "gamma-diffuse", "electron", "proton", "helium", "muon"),
    "pointing_dir": one_of("North", "South", "East", "West"),
    "zenith_angle": number,
    "n_shower": positive,
    "layout": text,
    "array_layout": text,
    "start_run_number": integer,
    "moon": one_list_of(("dark",), ("dark", "half"), ("dark", "half", "full")),
    "sct": one_of("all", "non-alpha"),
    "only_corsika": yes_or_no,
    "magic": yes_or_no,
    "div_ang": one_list_of(("0.0022", "0.0043", "0.008", "0.01135", "0.01453"), ("0.0121", "0.046")),
    "sequential": yes_or_no,
    "random_mono_probability": probability,
    "instrument_random_seeds": yes_or_no,
}
_NEEDED_TO_SIMULATE: Final = (
    "site", "particle", "pointing_dir", "zenith_angle", "n_shower", "array_layout", "start_run_number", "moon",
)  # fmt: skip


# --- simpipe -------------------------------------------------------------------------------------------------
AZIMUTH: Final = {"north": 0.0, "east": 90.0, "south": 180.0, "west": 270.0}


def _azimuth(field: Field) -> float:
    """Degrees, or a direction."""
    return AZIMUTH[one_of(*AZIMUTH)(field)] if isinstance(field.node.value, str) else number(field)


def _site(field: Field) -> str:
    """Where the telescopes stand, as the simulations say it."""
    return {"North": "LaPalma", "South": "Paranal"}[one_of("North", "South")(field)]


def _texts(field: Field) -> list[str]:
    """One text or a list of texts."""
    if isinstance(field.node.value, list):
        return [text(Field(field.place, field.key, item)) for item in field.node.value]
    return [text(field)]


SIMPIPE_CONFIG: Final[Readers] = {
    "array_layout_name": text,
    "site": _site,
    "model_version": _texts,
    "simulation_software": text,
    "primary": text,
    "view_cone": text,
    "zenith_angle": number,
    "azimuth_angle": _azimuth,
    "reduced_event_lists": yes_or_no,
    "grid_output_path": text,
    "job_grid_file": text,
}
_NEEDED_BY_SIMPIPE: Final = ("array_layout_name", "site", "model_version", "primary", "zenith_angle", "azimuth_angle")


def _simpipe_config(field: Field) -> dict[str, Any]:
    """The configuration of simpipe: `given` as it is handed on to the program, `read` as far as we know it."""
    found = fields(field.node, f"simpipe_config of {field.place}")
    for key in ("run_number", "run_number_offset"):
        if key in found:
            raise found[key].wrong("may not be given here", OBSOLETE[key])
    known = {key: one for key, one in found.items() if key in SIMPIPE_CONFIG and one.node.value is not None}
    read = {key: SIMPIPE_CONFIG[key](one) for key, one in known.items()}
    missing = [needed for needed in _NEEDED_BY_SIMPIPE if needed not in read]
    if missing and "job_grid_file" not in read:
        raise field.wrong(f"{', '.join(missing)} missing in it", "or name a ledger of jobs with job_grid_file")
    return {"given": field.node.plain(), "read": read}


# --- types ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class StepType:
    """What the name of a job type stands for. `merges`: a task makes one file of all its inputs."""

    name: str
    program: str
    transformation: str
    label: str
    keys: Readers
    mandatory: tuple[str, ...] = ()
    step_name: str = ""
    category: str = "analysis"
    output_type: str = "Data"
    without_input: bool = False
    merges: bool = False

    def program_of(self, values: Mapping[str, Any]) -> str:
        """The program that makes the products of a step with these settings."""
        return "corsika" if _only_showers(values) else self.program

    def category_of(self, values: Mapping[str, Any]) -> str:
        """What its products' keys of program and version begin with."""
        return "airshower_sim" if _only_showers(values) else self.category


def _only_showers(values: Mapping[str, Any]) -> bool:
    config = values.get("simpipe_config", {"read": {}})["read"]
    return bool(values.get("only_corsika")) or config.get("simulation_software") == "corsika"


def _type(name: str, own: Readers, **facts: Any) -> StepType:
    return StepType(name=name, keys={**GENERAL, **own}, **{"step_name": name, **facts})


STEP_TYPES: Final[Mapping[str, StepType]] = {
    kind.name: kind
    for kind in (
        _type(
            "MCSimulation",
            _SIMULATED,
            program="sim_telarray",
            transformation="MCSimulation",
            label="MCSimulation",
            mandatory=_NEEDED_TO_SIMULATE,
            category="tel_sim",
            without_input=True,
        ),
        _type(
            "SimPipe",
            {"n_tasks": positive, "start_run_number": integer, "simpipe_config": _simpipe_config},
            program="simpipe",
            transformation="MCSimulation",
            label="MCSimulation",
            mandatory=("simpipe_config",),
            step_name="MCSimulation",
            category="tel_sim",
            without_input=True,
        ),
        _type(
            "SimTelProcessing",
            _SIMTEL,
            program="sim_telarray",
            transformation="DataReprocessing",
            label="DL0_Reprocessing",
            category="tel_sim",
        ),
        _type(
            "CtapipeProcessing",
            _DESCRIBED,
            program="ctapipe-process",
            transformation="DataReprocessing",
            label="DL0_Reprocessing",
            mandatory=("data_level", "output_extension"),
        ),
        _type(
            "EvnDispProcessing",
            _DESCRIBED,
            program="evndisp",
            transformation="DataReprocessing",
            label="EvnDispProcessing",
            step_name="EvnDisp",
        ),
        _type(
            "Merging",
            _DESCRIBED,
            program="ctapipe-merge",
            transformation="Merging",
            label="Merging",
            mandatory=("output_extension", "group_size"),
            merges=True,
        ),
        _type(
            "CtapipeTrainEnergy",
            _DESCRIBED,
            program="ctapipe-train-energy-regressor",
            transformation="Training",
            label="Training",
            output_type="Model",
            merges=True,
        ),
        _type(
            "CtapipeTrainClassifier",
            _DESCRIBED,
            program="ctapipe-train-particle-classifier",
            transformation="Training",
            label="Training",
            output_type="Model",
            merges=True,
        ),
        _type(
            "CtapipeApplyModels",
            _DESCRIBED,
            program="ctapipe-apply-models",
            transformation="ApplyModel",
            label="ApplyModel",
        ),
    )
}
"""The nine types by name. Those that `job_types` has a tool for can be run."""

PROGRAMS: Final = frozenset({kind.program for kind in STEP_TYPES.values()} | {"corsika"})
ALWAYS_MANDATORY: Final = ("version", "MCCampaign", "configuration_id", "base_path")
COMMON_KEYS: Final = frozenset(key for kind in STEP_TYPES.values() for key in kind.keys)


def step_type(field: Field) -> StepType:
    """The job type of a step, whatever the case of its letters."""
    by_lower = {name.lower(): kind for name, kind in STEP_TYPES.items()}
    found = text(field)
    if found.lower() not in by_lower:
        raise field.wrong(f"unknown type '{printable(found)}'", nearest(found, STEP_TYPES))
    return by_lower[found.lower()]
