"""Production documents: what an observatory's scientist writes, as a plan of transformations.

The dialect is the observatory's own (top level ProdSteps and Common, steps with ID, input_meta_query and
job_config). Unlike its first reader this one fills in nothing that is missing: whoever reads the plan finds
every condition, version and campaign written by its author.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from lightkeeper.domain.catalog import MetaKey, Vocabulary
from lightkeeper.domain.errors import Conflict, Invalid, NotFound
from lightkeeper.domain.names import printable
from lightkeeper.domain.query import Query
from lightkeeper.domain.work import PlannedStep, ProductionPlan
from lightkeeper_ctao.dialect import (
    ALWAYS_MANDATORY,
    COMMON_KEYS,
    PLAIN,
    WITHOUT_EFFECT,
    Field,
    StepType,
    configs,
    fields,
    integer,
    known_only,
    plain_name,
    step_type,
    text,
    translated,
)
from lightkeeper_ctao.job_types import JOB_TYPES
from lightkeeper_ctao.marked_yaml import Node, read_yaml

Sandbox = Callable[[str], bytes]
Datasets = Callable[[str], Mapping[str, Any]]

MAX_SANDBOX_FILE = 1_000_000
OF_THE_JOB = ("tool.cwl", "inputs.json", "inputs", "out")
"""Names in a job's folder that are not the author's."""

STEP_KEYS = ("ID", "name", "input_meta_query", "job_config")
SPECIAL = ("Any", "Missing")
INHERITED = ("array_layout", "site", "phiP", "thetaP", "particle", "sct", "view_cone", "systematics")
INHERITED_BY_FILE = ("nsb", "div_ang", "split")
"""What a product has from its input. With one value in the query it is known here; others the job copies."""


class ProductionYaml:
    """Reads production documents. `keys` are the metadata keys that queries may name; without any, every name
    may be used. `job_types` are the types that can be run."""

    def __init__(self, keys: Iterable[MetaKey] = (), job_types: Collection[str] = tuple(JOB_TYPES)) -> None:
        known = list(keys)
        self._vocabulary = Vocabulary(known) if known else None
        self._job_types = job_types

    def read(self, text: str, *, sandbox: Sandbox, dataset: Datasets) -> ProductionPlan:
        """The plan of the document; raises Invalid naming line, key and the nearest known key."""
        top = fields(read_yaml(text), "the document")
        known_only(top.values(), ("ProdSteps", "Common"))
        for needed in ("ProdSteps", "Common"):
            if needed not in top:
                raise Invalid(f"the document has no {needed}", hint="its top level is ProdSteps and Common")
        common = fields(top["Common"].node, "Common")
        known_only(common.values(), COMMON_KEYS)
        warnings: list[str] = []
        steps = [
            self._step(written, common, sandbox, dataset) for written in _written_steps(top["ProdSteps"], warnings)
        ]
        planned = _connected(steps)
        warnings += [*_for_no_step(common, steps), *_without_effect(steps), *_odd_angles(steps)]
        return ProductionPlan(tuple(planned), planned[0].body["MCCampaign"], tuple(warnings))

    def _step(self, written: "_Written", common: Mapping[str, Field], sandbox: Sandbox, dataset: Datasets) -> "_Step":
        kind, config = _config(written, common)
        values = {key: kind.keys[key](found) for key, found in config.items()}
        if kind.name not in self._job_types:
            raise written.config["type"].wrong(
                f"type {kind.name} has no program here yet",
                f"available are: {', '.join(sorted(self._job_types))}",
            )
        conditions = {key: self._condition(found, key, value) for key, found, value in _conditions(written)}
        for key in values.get("group_by", ()):
            self._checked(config["group_by"], {key: "Any"})
        texts = _sandbox(config, values, sandbox)
        return _Step(written, kind, config, values, conditions, _of_dataset(written, dataset), texts)

    def _condition(self, found: Field, key: str, value: Any) -> "_Condition":  # JSON
        self._checked(found, {key: value})
        return _Condition(found, value)

    def _checked(self, found: Field, query: dict[str, Any]) -> None:
        if self._vocabulary is not None:
            try:
                Query.from_map(query, self._vocabulary)
            except Invalid as error:
                raise found.wrong(error.message, error.hint) from None


# --- what is written -------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Written:
    """A step as it stands in the document, its shape checked."""

    number: int
    line: int
    name: Field | None
    parent: Field | None
    dataset: Field | None
    query: Mapping[str, Field]
    config: Mapping[str, Field]

    def lacks(self, what: str, hint: str = "") -> Invalid:
        return Invalid(f"line {self.line}, step {self.number}: {what}", hint=hint)


@dataclass(frozen=True, slots=True)
class _Condition:
    field: Field
    value: Any


@dataclass(frozen=True, slots=True)
class _Step:
    """A step with every value read; only its place among the others is open."""

    written: _Written
    kind: StepType
    config: Mapping[str, Field]
    values: Mapping[str, Any]
    conditions: Mapping[str, _Condition]
    of_dataset: Mapping[str, Any]
    sandbox: Mapping[str, str]


def _written_steps(steps: Field, warnings: list[str]) -> list[_Written]:
    """The steps by their numbers, each parent with a smaller one."""
    if not isinstance(steps.node.value, list) or not steps.node.value:
        raise steps.wrong("a list of steps is needed", "begin each step with '- ID: 1'")
    by_number: dict[int, _Written] = {}
    for node in steps.node.value:
        written = _written(node, warnings)
        if written.number in by_number:
            first = by_number[written.number].line
            raise Invalid(
                f"line {written.line}, key 'ID': step {written.number} is there already, in line {first}",
                hint="every step needs an ID of its own",
            )
        by_number[written.number] = written
    for written in by_number.values():
        _check_parent(written, by_number)
    return [by_number[number] for number in sorted(by_number)]


def _written(node: Node, warnings: list[str]) -> _Written:
    given = fields(node, "a step")
    if "ID" not in given:
        known_only(given.values(), STEP_KEYS)
        raise Invalid(f"line {node.line}, key 'ID': this step has none", hint="give every step a number: ID: 1")
    number = integer(given["ID"])
    if number < 1:
        raise given["ID"].wrong(f"must be at least 1, not {number}")
    place = f"step {number}"
    given = fields(node, place)
    known_only(given.values(), STEP_KEYS)
    if "input_meta_query" not in given:
        raise Invalid(f"line {node.line}, {place}: key 'input_meta_query' is missing")
    query = {} if _is_empty(given["input_meta_query"]) else fields(given["input_meta_query"].node, place)
    parent = query.pop("parentID", None)
    dataset = query.pop("dataset", None)
    if parent is not None and isinstance(parent.node.value, dict):
        warnings.append(f"line {parent.node.line}, {place}: conditions below parentID mean a step without parent")
        query = _together(query, fields(parent.node, place))
        parent = None
    config = given.get("job_config")
    if "job_config" in query:
        lifted = query.pop("job_config")
        if config is not None:
            raise lifted.wrong(f"is given twice, also in line {config.node.line}")
        warnings.append(
            f"line {lifted.node.line}, {place}: job_config inside input_meta_query is read as the step's own"
        )
        config = lifted
    if config is None:
        raise Invalid(f"line {node.line}, {place}: key 'job_config' is missing")
    configured = fields(config.node, place)
    if "type" not in configured:
        raise Invalid(f"line {config.node.line}, {place}: key 'type' is missing in job_config")
    dataset = None if dataset is None or _is_empty(dataset) else dataset
    return _Written(number, node.line, given.get("name"), _without_zero(parent), dataset, query, configured)


def _is_empty(found: Field) -> bool:
    return found.node.value is None


def _together(first: dict[str, Field], second: dict[str, Field]) -> dict[str, Field]:
    for key in second:
        if key in first:
            raise second[key].wrong(f"is given twice, also in line {first[key].node.line}")
    return {**first, **second}


def _without_zero(parent: Field | None) -> Field | None:
    """Nothing, null and 0 all mean that there is no parent."""
    if parent is None or _is_empty(parent):
        return None
    return parent if integer(parent) != 0 else None


def _check_parent(written: _Written, steps: Mapping[int, _Written]) -> None:
    if written.dataset is not None and written.parent is not None:
        raise written.dataset.wrong("a step has either a dataset or a parentID", "leave one of them out")
    if written.parent is None:
        return
    number = integer(written.parent)
    if number == written.number:
        raise written.parent.wrong("a step cannot be its own parent")
    if number not in steps:
        known = ", ".join(map(str, sorted(steps)))
        raise written.parent.wrong(f"there is no step {number}", f"steps are: {known}")
    if number > written.number:
        raise written.parent.wrong(
            f"the parent must have a smaller ID than {written.number}, not {number}",
            "number parents before children",
        )


def _config(written: _Written, common: Mapping[str, Field]) -> tuple[StepType, dict[str, Field]]:
    """Type and settings of a step: its own, and those of Common that its type has."""
    kind = step_type(written.config["type"])
    own = {key: found for key, found in written.config.items() if key != "type"}
    known_only(own.values(), kind.keys)
    config = {**{key: found for key, found in common.items() if key in kind.keys}, **own}
    config = {key: found for key, found in config.items() if not _is_empty(found)}
    for needed in (*ALWAYS_MANDATORY, *kind.mandatory):
        if needed not in config:
            raise written.lacks(f"key '{needed}' is missing", f"{needed} must be in job_config or in Common")
    return kind, config


def _conditions(written: _Written) -> list[tuple[str, Field, Any]]:
    """The step's own conditions by the catalogue's keys; empty ones are left out."""
    found: dict[str, tuple[Field, Any]] = {}
    for given in written.query.values():
        key, value = translated(given)
        if value is None:
            continue
        if key in found:
            raise given.wrong(f"says the same as '{found[key][0].key}' in line {found[key][0].node.line}")
        found[key] = given, value
    if not found and written.parent is None and written.dataset is None:
        raise written.lacks(
            "without parentID, dataset and conditions it would take every file there is",
            "name files in input_meta_query",
        )
    return [(key, given, value) for key, (given, value) in found.items()]


def _of_dataset(written: _Written, dataset: Datasets) -> Mapping[str, Any]:
    """The conditions of the step's dataset."""
    if written.dataset is None:
        return {}
    try:
        return dataset(text(written.dataset))
    except (NotFound, Conflict) as error:
        raise written.dataset.wrong(error.message, error.hint) from None


# --- the sandbox -----------------------------------------------------------------------------------------
def _sandbox(config: Mapping[str, Field], values: Mapping[str, Any], fetch: Sandbox) -> dict[str, str]:
    """Texts that are laid beside the job."""
    texts = {name: _sandbox_text(config["input_sandbox"], name, fetch) for name in values.get("input_sandbox", ())}
    for name in configs(values.get("options", [])):
        if name not in texts:
            raise config["options"].wrong(
                f"the job would not find '{printable(name)}'",
                f"put it beside the document and add input_sandbox: {name}",
            )
    return texts


def _sandbox_text(found: Field, name: str, fetch: Sandbox) -> str:
    if not PLAIN.match(name) or name in OF_THE_JOB:
        raise found.wrong(f"'{printable(name)}' is not a plain file name", "files lie beside the document")
    try:
        content = fetch(name)
    except NotFound as error:
        raise found.wrong(f"there is no file '{name}' beside the document", error.hint) from None
    if len(content) > MAX_SANDBOX_FILE:
        raise found.wrong(f"'{name}' has {len(content)} bytes; at most {MAX_SANDBOX_FILE} are taken")
    try:
        read = content.decode()
    except UnicodeDecodeError:
        raise found.wrong(f"'{name}' is not a text in UTF-8") from None
    if "\0" in read:
        raise found.wrong(f"'{name}' is not a text")
    return read


# --- how steps are connected -----------------------------------------------------------------------------
def _connected(steps: Iterable[_Step]) -> list[PlannedStep]:
    """Steps with complete queries: what the parent makes, overlaid with the step's own conditions."""
    made: dict[int, Mapping[str, Any]] = {}
    planned: list[PlannedStep] = []
    for step in steps:
        parent = integer(step.written.parent) if step.written.parent is not None else None
        base: dict[str, Any] = deepcopy(dict(made[parent])) if parent is not None else {}
        if parent is not None:
            _check_possible(step, parent, base)
        query = {**base, **{key: deepcopy(condition.value) for key, condition in step.conditions.items()}}
        known = {**step.of_dataset, **query}
        generation = base.get("merged", 0) if parent is not None else known.get("merged", 0)
        made[step.written.number] = _made(step, known, generation)
        planned.append(_planned(step, parent, query, made[step.written.number]))
    return planned


def _check_possible(step: _Step, parent: int, made: Mapping[str, Any]) -> None:
    """A condition that no file of the parent fulfils is a mistake, often a wrong parentID."""
    for key, condition in step.conditions.items():
        asked, offered = _values(condition.value), _values(made.get(key))
        if asked is not None and offered is not None and not any(value in offered for value in asked):
            raise condition.field.wrong(
                f"asks for {_or(asked)}, but step {parent} makes {_or(offered)}: it would never have input",
                "is parentID the step you mean?",
            )


def _values(condition: Any) -> list[Any] | None:  # JSON of any shape
    """The values that a condition allows, when they are listed."""
    match condition:
        case None | "Any":
            return None
        case {"in": list() as values} if len(condition) == 1:
            return values
        case {"=": value} if len(condition) == 1:
            return [value]
        case dict():
            return None
        case _:
            return [condition]


def _or(values: Iterable[Any]) -> str:
    return " or ".join(f"'{printable(str(value))}'" for value in values)


def _made(step: _Step, query: Mapping[str, Any], generation: Any) -> dict[str, Any]:  # JSON
    """What is known of a step's products, as the query that finds them."""
    values, kind = step.values, step.kind
    known = {key: query[key] for key in (*INHERITED, *INHERITED_BY_FILE, "data_level") if key in query}
    known |= {key: values[key] for key in (*INHERITED, "data_level", "split") if key in values}
    known |= {
        "MCCampaign": values["MCCampaign"],
        "configuration_id": values["configuration_id"],
        f"{kind.category}_prog": kind.program,
        f"{kind.category}_prog_version": values["version"],
        "outputType": kind.output_type,
    }
    if kind.name == "Merging":
        if not isinstance(generation, int):
            raise step.written.lacks("how often its input was merged must be one number", "like merged: 0")
        known["merged"] = generation + 1
    return known


def _planned(step: _Step, parent: int | None, query: Mapping[str, Any], made: Mapping[str, Any]) -> PlannedStep:
    values = step.values
    single = {key: found for key, value in made.items() if (found := _single(value)) is not None}
    return PlannedStep(
        number=step.written.number,
        name=plain_name(step.written.name) if step.written.name is not None else step.kind.step_name,
        type=step.kind.transformation,
        job_type=step.kind.name,
        query=query,
        dataset=text(step.written.dataset) if step.written.dataset is not None else None,
        parent=parent,
        group_size=values.get("group_size", 1),
        body={
            "program": step.kind.program,
            "version": values["version"],
            "options": values.get("options", []),
            "output_extension": values.get("output_extension", ""),
            "base_path": values["base_path"],
            "MCCampaign": values["MCCampaign"],
            "configuration_id": values["configuration_id"],
            "output_meta": single,
            "sandbox": dict(step.sandbox),
        },
        group_by=",".join(values["group_by"]) if "group_by" in values else None,
        destination=values.get("destination"),
        processors=values.get("nb_processors", 1),
    )


def _single(condition: Any) -> Any:  # JSON of any shape
    """The value that a condition amounts to, when it is one."""
    values = _values(condition)
    return values[0] if values is not None and len(values) == 1 and values[0] not in SPECIAL else None


# --- warnings --------------------------------------------------------------------------------------------
def _for_no_step(common: Mapping[str, Field], steps: Iterable[_Step]) -> list[str]:
    used = {key for step in steps for key in step.kind.keys}
    return [
        f"line {found.node.line}, key '{key}' of Common: no step of this document has such a key"
        for key, found in common.items()
        if key not in used
    ]


def _without_effect(steps: Iterable[_Step]) -> list[str]:
    numbers: dict[str, list[str]] = {}
    for step in steps:
        for key in step.config:
            if key in WITHOUT_EFFECT:
                numbers.setdefault(key, []).append(str(step.written.number))
    return [
        f"key '{key}' (steps {', '.join(found)}) is accepted and has no effect here" for key, found in numbers.items()
    ]


def _odd_angles(steps: Iterable[_Step]) -> list[str]:
    return [
        f"line {condition.field.node.line}, key '{key}' of step {step.written.number}: "
        f"{condition.value} degrees; was the point meant?"
        for step in steps
        for key, condition in step.conditions.items()
        if key in ("phiP", "thetaP") and isinstance(condition.value, float) and 0 < abs(condition.value) < 1
    ]
