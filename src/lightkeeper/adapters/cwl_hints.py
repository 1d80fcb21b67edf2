"""Hints by which a CWL document says where its inputs are, what becomes of its outputs, and how its jobs are scheduled.

Their names and fields are those of DIRAC's CWL productions: `dirac:ExecutionHooks`, `dirac:Scheduling`,
`dirac:Production`. They may as well be called `lightkeeper:Transformation`, which has all of the fields. A step has the
hints of its workflow, field by field, unless it says otherwise itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lightkeeper.adapters.cwl_document import by_class
from lightkeeper.domain.errors import Invalid, nearest

CLASSES = ("ExecutionHooks", "Scheduling", "Production", "Transformation")
PREFIXES = ("dirac", "lightkeeper")
NO_EFFECT = ("output_sandbox", "output_se", "platform")


class Hints(BaseModel):
    """Everything that hints may say.

    `input_query`: conditions on metadata, `dataset`: name of a dataset, `input_data`: logical names, by input.
    `group_size`: files of one task, `group_by`: metadata keys whose values a task never mixes. `output_paths`: by
    output, the directory in the catalogue. `output_meta`: metadata of all outputs; `inherit`: keys whose values they
    have from the inputs. `sites`: jobs run at one of these only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    hook_plugin: str = "QueryBasedPlugin"
    configuration: dict[str, Any] = {}
    output_paths: dict[str, str] = {}
    output_sandbox: list[str] = []
    output_se: list[str] = []
    output_meta: dict[str, str | int | float] = {}
    inherit: list[str] = []
    group_size: int | None = Field(None, ge=1)
    group_by: list[str] = []
    input_data: dict[str, list[str]] = {}
    input_query: dict[str, Any] = {}
    dataset: str | None = None
    platform: str | None = None
    priority: int = 10
    sites: list[str] = []
    input_dataset_plugin: str | None = None
    input_dataset_config: dict[str, Any] = {}

    @property
    def says_inputs(self) -> bool:
        """Whether files are said by a query or dataset."""
        return bool(self.input_query) or self.dataset is not None

    @property
    def folder(self) -> str | None:
        """The directory that the configuration of QueryBasedPlugin stands for."""
        told = self.configuration
        if not told:
            return None
        parts = [told.get(key) for key in ("campaign", "site", "data_type")]
        return "/".join([str(told.get("query_root", "/grid/data")).rstrip("/"), *(str(part) for part in parts if part)])


def hints_of(*levels: Any) -> Hints:
    """The hints of a step, from those of its workflow, of itself and of its tool; later ones have precedence."""
    told: dict[str, Any] = {}
    for level in levels:
        for kind, fields in by_class(level).items():
            if _is_ours(kind):
                told |= {key: value for key, value in fields.items() if key != "class" and value is not None}
    try:
        hints = Hints.model_validate(told)
    except ValidationError as error:
        raise _explain(error) from None
    _check(hints)
    return hints


def without_ours(level: Any) -> list[dict[str, Any]]:
    """Hints that are for the runner."""
    return [{"class": kind, **fields} for kind, fields in by_class(level).items() if not _is_ours(kind)]


def warnings_of(hints: Hints, place: str) -> list[str]:
    """What is accepted, because documents have it, and changes nothing here."""
    return [f"{place}: hint '{key}' has no effect here" for key in NO_EFFECT if key in hints.model_fields_set]


def _is_ours(kind: str) -> bool:
    prefix, _, name = kind.rpartition(":")
    if "/" in kind:
        prefix, name = next((p for p in PREFIXES if p in kind), ""), kind.replace("#", "/").rpartition("/")[2]
    if prefix not in PREFIXES:
        return False
    if name not in CLASSES and name != "JobType":
        raise Invalid(f"unknown hint '{kind}'", hint=nearest(name, CLASSES))
    return name != "JobType"


def _check(hints: Hints) -> None:
    if hints.hook_plugin != "QueryBasedPlugin":
        raise Invalid(f"hint hook_plugin: there is no plug-in '{hints.hook_plugin}'", hint="QueryBasedPlugin")
    if hints.input_dataset_plugin not in (None, "NoOp", "NoOpInputDatasetPlugin"):
        raise Invalid(
            f"hint input_dataset_plugin: there is no plug-in '{hints.input_dataset_plugin}'",
            hint="name a dataset with dataset:, or conditions with input_query:",
        )
    if hints.input_query and hints.input_data:
        raise Invalid("hints give both input_query and input_data", hint="leave one of them out")


def _explain(error: ValidationError) -> Invalid:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return Invalid(f"unknown key '{key}' in a hint", hint=nearest(key, Hints.model_fields))
    return Invalid(f"hint {key}: {first['msg']}")


def resources(levels: Sequence[tuple[Any, Any]]) -> Mapping[str, Any]:
    """The ResourceRequirement that holds: levels as (requirements, hints), outermost first."""
    told = _holding(levels, "ResourceRequirement")
    for key, value in told.items():
        if isinstance(value, str) and key != "class":
            raise Invalid(
                f"CWL feature 'ResourceRequirement.{key} as an expression' is not supported", hint="write a number"
            )
    for what in ("cores", "ram", "tmpdir", "outdir"):
        least, most = told.get(f"{what}Min"), told.get(f"{what}Max")
        if least is not None and most is not None and least > most:
            raise Invalid(f"ResourceRequirement: {what}Min {least} is more than {what}Max {most}")
    return told


MEBIBYTE = 1024 * 1024
STARTING = 60
"""Seconds beside a tool's own time: its runner begins and ends."""


def limits(needs: Mapping[str, Any], levels: Sequence[tuple[Any, Any]], *, once: bool) -> dict[str, int]:
    """What a job may use at the most: of memory and disk what ResourceRequirement reserves at the most, of time what
    ToolTimeLimit says of one run of the tool. One that does not run it `once` is left to its runner. 0 is no limit."""
    told: dict[str, int] = {}
    if "ramMax" in needs:
        told["memory"] = int(needs["ramMax"]) * MEBIBYTE
    if "tmpdirMax" in needs or "outdirMax" in needs:
        told["disk"] = MEBIBYTE * sum(
            int(needs.get(f"{what}Max", needs.get(f"{what}Min", 1024))) for what in ("tmpdir", "outdir")
        )
    seconds = _holding(levels, "ToolTimeLimit").get("timelimit")
    if isinstance(seconds, int):
        told["wall_time"] = seconds + STARTING if seconds > 0 and once else 0
    return told


def _holding(levels: Sequence[tuple[Any, Any]], kind: str) -> dict[str, Any]:
    """The requirement of a kind that holds, or else the hint."""
    told: dict[str, Any] = {}
    for n in (1, 0):
        for level in levels:
            told |= by_class(level[n]).get(kind, {})
    return told
