"""The words of production documents: job types, their keys, and what each key may say.

Facts of the observatory's workload system, so that its documents run here. What is read in a step is decided
in `production.py`; this module knows one field at a time.
"""

import re
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from lightkeeper.domain.errors import Invalid, nearest
from lightkeeper.domain.names import parse_lfn, parse_name, printable
from lightkeeper.domain.query import Op
from lightkeeper_ctao.marked_yaml import Node


@dataclass(frozen=True, slots=True)
class Field:
    """One key of the document with its place, so that what is wrong with it can be said in one sentence."""

    place: str
    key: str
    node: Node

    def wrong(self, what: str, hint: str = "") -> Invalid:
        """The error to raise."""
        return Invalid(f"line {self.node.line}, key '{printable(self.key)}' of {self.place}: {what}", hint=hint)


def fields(node: Node, place: str) -> dict[str, Field]:
    """The fields of a map; raises Invalid when it is none."""
    if not isinstance(node.value, dict):
        raise Invalid(f"line {node.line}, {place}: a map of keys and values is needed here")
    return {key: Field(place, key, value) for key, value in node.value.items()}


def known_only(given: Collection[Field], known: Collection[str]) -> None:
    """Raises Invalid for the first field that is not among `known`."""
    for field in given:
        if field.key not in known:
            raise field.wrong("unknown key", nearest(field.key, known))


# --- values ----------------------------------------------------------------------------------------------
DATE = re.compile(r"\d{4}-\d{1,2}-\d{1,2}\Z")
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}\Z")
LEVELS = {"MC0": -3, "R0": -2, "R1": -1, "DL0": 0, "DL1": 1, "DL2": 2, "DL3": 3, "DL4": 4, "DL5": 5}


def text(field: Field) -> str:
    """A text, as it is written; a number is taken as its text."""
    if isinstance(field.node.value, list | dict) or not field.node.text.strip():
        raise field.wrong("a text is needed here")
    return field.node.text.strip()


def version(field: Field) -> str:
    """A version. Unquoted, some are dates or numbers to other readers of YAML, and 0.10 would become 0.1."""
    found = text(field)
    is_date = not field.node.quoted and DATE.match(found)
    if is_date or not isinstance(field.node.value, str):
        kind = "date" if is_date else "number"
        raise field.wrong(f"{found} without quotes is a {kind}, not a text", f'write {field.key}: "{found}"')
    return found


def integer(field: Field) -> int:
    """A whole number."""
    if not isinstance(field.node.value, int) or isinstance(field.node.value, bool):
        raise field.wrong(f"a whole number is needed, not {_shown(field)}")
    return field.node.value


def positive(field: Field) -> int:
    """A whole number from 1 on."""
    number = integer(field)
    if number < 1:
        raise field.wrong(f"must be at least 1, not {number}")
    return number


def number(field: Field) -> float:
    """Any number."""
    if not isinstance(field.node.value, int | float) or isinstance(field.node.value, bool):
        raise field.wrong(f"a number is needed, not {_shown(field)}")
    return float(field.node.value)


def yes_or_no(field: Field) -> bool:
    """True or false."""
    if not isinstance(field.node.value, bool):
        raise field.wrong(f"true or false is needed, not {_shown(field)}")
    return field.node.value


def level(field: Field) -> int:
    """A data level by its number."""
    found = integer(field)
    if found not in LEVELS.values():
        raise field.wrong(f"{found} is no data level", ", ".join(f"{name} is {n}" for name, n in LEVELS.items()))
    return found


def path(field: Field) -> str:
    """An absolute name in the catalogue, without a slash at its end."""
    try:
        return parse_lfn(text(field).rstrip("/"))
    except Invalid as error:
        raise field.wrong(error.message, error.hint) from None


def plain_name(field: Field) -> str:
    """A name of a step or site."""
    try:
        return parse_name(text(field), field.key)
    except Invalid as error:
        raise field.wrong(error.message, error.hint) from None


def extension(field: Field) -> str:
    """What output names end with, without the dot it may begin with."""
    found = text(field).removeprefix(".")
    if not PLAIN.match(found):
        raise field.wrong(f"'{printable(found)}' cannot end a file name", "like DL1.h5 or merged.DL2.h5")
    return found


def one_of(*allowed: str) -> "Callable[[Field], str]":
    """One of some texts."""

    def read(field: Field) -> str:
        found = text(field)
        if found not in allowed:
            raise field.wrong(f"'{printable(found)}' is not known here", nearest(found, allowed))
        return found

    return read


def words(field: Field) -> list[str]:
    """A list of words in one text, separated by commas."""
    found = [word.strip() for word in text(field).split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise field.wrong("words separated by commas are needed, each once", f"like {field.key}: first,second")
    return found


def pointing(field: Field) -> float:
    """North or South as the direction showers come from, in degrees."""
    return {"North": 180.0, "South": 0.0}[one_of("North", "South")(field)]


def unsupported(field: Field) -> None:
    """A key whose meaning would be lost if it were ignored."""
    raise field.wrong("is not supported by this version", "narrow input_meta_query instead")


SET_BY_US: Final = {
    "i", "input", "o", "output", "l", "log-file", "provenance-log", "p", "pattern", "input-dir",
    "input_url", "input_files", "input_dir", "file_pattern", "output_path", "log_file", "provenance_log",
    "override_obs_id", "rng_seed",
}  # fmt: skip


def options(field: Field) -> list[str]:
    """The program's options as a list. Those that say what is read and written are the system's."""
    try:
        found = shlex.split(field.node.text) if field.node.value is not None else []
    except ValueError as error:
        raise field.wrong(f"cannot be split into words: {error}", "is a quote missing?") from None
    for word in found:
        name = word.partition("=")[0]
        short = name[:2] if word.startswith("-") and not word.startswith("--") else name
        if short.startswith("-") and {short.lstrip("-"), name.rpartition(".")[2].lstrip("-")} & SET_BY_US:
            raise field.wrong(f"option {printable(word)} is set by Lightkeeper", "leave it out")
    return found


def configs(arguments: list[str]) -> list[str]:
    """The configuration files that options name, as far as they would lie beside the job."""
    named: list[str] = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        if before in ("-c", "--config"):
            named.append(word)
        elif word.startswith("--config="):
            named.append(word.partition("=")[2])
    return [name for name in named if not name.startswith("/")]


def condition(field: Field) -> Any:  # JSON of any shape
    """A condition of a query: a value, or a map of operators. None when it is left empty."""
    match field.node.value:
        case list():
            wanted = ", ".join(item.text for item in field.node.value)
            raise field.wrong("a list needs an operator", f"{field.key}: {{in: [{wanted}]}}")
        case dict():
            return {op: _operand(field, op, node) for op, node in _operators(field)}
        case _:
            return field.node.value


def _operators(field: Field) -> list[tuple[str, Node]]:
    given = field.node.value
    if not isinstance(given, dict) or not given:
        raise field.wrong("a value or an operator is needed")
    for op, node in given.items():
        if op not in list(Op):
            raise Field(field.place, field.key, node).wrong(
                f"unknown operator '{printable(op)}'", nearest(op, list(Op))
            )
    return list(given.items())


def _operand(field: Field, op: str, node: Node) -> Any:  # JSON of any shape
    here = Field(field.place, field.key, node)
    if op in (Op.IN, Op.NOT_IN):
        if not isinstance(node.value, list) or not node.value:
            raise here.wrong(f"operator '{op}' needs a list of values", f"{field.key}: {{{op}: [a, b]}}")
        values = [item.value for item in node.value]
    else:
        values = [node.value]
    if any(value is None or isinstance(value, list | dict) for value in values):
        raise here.wrong(f"operator '{op}' needs plain values")
    return values if op in (Op.IN, Op.NOT_IN) else values[0]


def _shown(field: Field) -> str:
    if isinstance(field.node.value, list | dict):
        return "a list or map"
    return f"'{printable(field.node.text)}'"


# --- translated keys of queries --------------------------------------------------------------------------
def _sct(field: Field) -> str:
    found = text(field)
    return found.capitalize() if found.lower() in ("true", "false") else found


MOON: Final = {"dark": 1, "half": 5, "full": 19}


def _moon(field: Field) -> int:
    return MOON[one_of(*MOON)(field)]


TRANSLATED: Final[Mapping[str, tuple[str, Callable[[Field], Any]]]] = {
    "pointing_dir": ("phiP", pointing),
    "zenith_angle": ("thetaP", number),
    "moon": ("nsb", _moon),
    "sct": ("sct", _sct),
    "div_ang": ("div_ang", text),
}
"""Key of the document: key of the catalogue, and how its value is read."""


def translated(field: Field) -> tuple[str, Any]:
    """A field of a query as key and condition of the catalogue."""
    if field.key not in TRANSLATED:
        return field.key, condition(field)
    key, read = TRANSLATED[field.key]
    plain = condition(field)
    if plain is None:
        return key, None
    if isinstance(field.node.value, dict):
        return key, {op: _each(field, node, read) for op, node in field.node.value.items()}
    return key, plain if plain in ("Any", "Missing") else read(field)


def _each(field: Field, node: Node, read: Callable[[Field], Any]) -> Any:  # JSON of any shape
    if isinstance(node.value, list):
        return [read(Field(field.place, field.key, item)) for item in node.value]
    return read(Field(field.place, field.key, node))


# --- job types -------------------------------------------------------------------------------------------
GENERAL: Final[Mapping[str, Callable[[Field], Any]]] = {
    "version": version,
    "options": options,
    "output_extension": extension,
    "group_size": positive,
    "group_by": words,
    "catalogs": words,
    "destination": plain_name,
    "cpu_time": number,
    "tag": text,
    "nb_processors": positive,
    "input_sandbox": words,
    "input_limit": unsupported,
    "data_level": level,
    "configuration_id": integer,
    "MCCampaign": text,
    "base_path": path,
    "package": text,
    "compiler": text,
    "software_category": text,
    "split": text,
}
"""Keys of job_config for all types, except `type`. `group_by` is ours: a task never mixes its values."""

WITHOUT_EFFECT: Final = ("catalogs", "cpu_time", "tag", "package", "compiler", "software_category")
"""Accepted, because documents have them; where software and computers come from is settled elsewhere here."""

_DESCRIBED: Final[Mapping[str, Callable[[Field], Any]]] = {
    "array_layout": text,
    "site": text,
    "particle": text,
    "phiP": number,
    "thetaP": number,
    "sct": _sct,
    "view_cone": number,
    "systematics": text,
}
_SIMTEL: Final[Mapping[str, Callable[[Field], Any]]] = {
    "sct": text,
    "moon": one_of(*MOON),
    "div_ang": text,
    "random_mono_probability": number,
    "instrument_random_seeds": yes_or_no,
    "systematic_uncertainty_to_test": text,
}
_SIMULATED: Final[Mapping[str, Callable[[Field], Any]]] = {
    "site": one_of("LaPalma", "Paranal"),
    "particle": one_of("gamma", "gamma-diffuse", "electron", "proton", "helium", "muon"),
    "pointing_dir": one_of("North", "South", "East", "West"),
    "zenith_angle": number,
    "n_shower": positive,
    "layout": text,
    "array_layout": text,
    "start_run_number": integer,
    "moon": one_of("dark", "dark, half", "dark, half, full"),
    "sct": one_of("all", "non-alpha"),
    "only_corsika": yes_or_no,
    "magic": yes_or_no,
    "div_ang": one_of("0.0022, 0.0043, 0.008, 0.01135, 0.01453", "0.0121, 0.046"),
    "sequential": yes_or_no,
    "random_mono_probability": number,
    "instrument_random_seeds": yes_or_no,
}
_SIMPIPE_CONFIG: Final = (
    "array_layout_name", "site", "model_version", "simulation_software", "primary", "view_cone",
    "zenith_angle", "azimuth_angle", "reduced_event_lists", "grid_output_path", "job_grid_file",
)  # fmt: skip


def _simpipe_config(field: Field) -> Any:  # JSON of any shape
    known_only(fields(field.node, f"simpipe_config of {field.place}").values(), _SIMPIPE_CONFIG)
    return field.node.plain()


@dataclass(frozen=True, slots=True)
class StepType:
    """What the name of a job type stands for."""

    name: str
    program: str
    transformation: str
    step_name: str
    keys: Mapping[str, Callable[[Field], Any]]
    mandatory: tuple[str, ...] = ()
    category: str = "analysis"
    output_type: str = "Data"


def _type(
    name: str,
    program: str,
    transformation: str,
    own: Mapping[str, Callable[[Field], Any]],
    mandatory: tuple[str, ...] = (),
    step_name: str = "",
    category: str = "analysis",
    output_type: str = "Data",
) -> StepType:
    return StepType(
        name, program, transformation, step_name or name, {**GENERAL, **own}, mandatory, category, output_type
    )


STEP_TYPES: Final[Mapping[str, StepType]] = {
    kind.name: kind
    for kind in (
        _type("MCSimulation", "sim_telarray", "MCSimulation", _SIMULATED, category="tel_sim"),
        _type(
            "SimPipe",
            "simpipe",
            "MCSimulation",
            {"simpipe_config": _simpipe_config},
            ("simpipe_config",),
            step_name="MCSimulation",
            category="tel_sim",
        ),
        _type("SimTelProcessing", "sim_telarray", "DataReprocessing", _SIMTEL, category="tel_sim"),
        _type(
            "CtapipeProcessing",
            "ctapipe-process",
            "DataReprocessing",
            _DESCRIBED,
            ("data_level", "output_extension"),
        ),
        _type("EvnDispProcessing", "evndisp", "DataReprocessing", _DESCRIBED, step_name="EvnDisp"),
        _type("Merging", "ctapipe-merge", "Merging", _DESCRIBED, ("output_extension", "group_size")),
        _type(
            "CtapipeTrainEnergy",
            "ctapipe-train-energy-regressor",
            "Training",
            _DESCRIBED,
            output_type="Model",
        ),
        _type(
            "CtapipeTrainClassifier",
            "ctapipe-train-particle-classifier",
            "Training",
            _DESCRIBED,
            output_type="Model",
        ),
        _type("CtapipeApplyModels", "ctapipe-apply-models", "ApplyModel", _DESCRIBED),
    )
}
"""The nine types by name. Those that `job_types` has a tool for can be run."""

ALWAYS_MANDATORY: Final = ("version", "MCCampaign", "configuration_id", "base_path")
COMMON_KEYS: Final = frozenset(key for kind in STEP_TYPES.values() for key in kind.keys)


def step_type(field: Field) -> StepType:
    """The job type of a step, whatever the case of its letters."""
    by_lower = {name.lower(): kind for name, kind in STEP_TYPES.items()}
    found = text(field)
    if found.lower() not in by_lower:
        raise field.wrong(f"unknown type '{printable(found)}'", nearest(found, STEP_TYPES))
    return by_lower[found.lower()]
