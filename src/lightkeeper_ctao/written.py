"""Steps as they stand in a production document: their shape is checked here, their meaning in `production.py`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightkeeper.domain.errors import Invalid
from lightkeeper_ctao.dialect import Field, fields, integer, known_only, translated, unknown
from lightkeeper_ctao.findings import Findings
from lightkeeper_ctao.marked_yaml import Node
from lightkeeper_ctao.step_types import ALWAYS_MANDATORY, OBSOLETE, StepType, step_type

STEP_KEYS = ("ID", "name", "input_meta_query", "job_config")


@dataclass(frozen=True, slots=True)
class WrittenStep:
    """A step as it stands in the document, its shape checked."""

    number: int
    line: int
    name: Field | None
    parent: Field | None
    dataset: Field | None
    query: Mapping[str, Field]
    config: Mapping[str, Field]

    def lacks(self, what: str, hint: str = "") -> Invalid:
        """The error to raise for what is not there."""
        return Invalid(f"line {self.line}, step {self.number}: {what}", hint=hint)


# --- steps -----------------------------------------------------------------------------------------------------
def written_steps(steps: Field, findings: Findings) -> list[WrittenStep]:
    """The steps in the order of their numbers."""
    if not isinstance(steps.node.value, list) or not steps.node.value:
        raise steps.wrong("a list of steps is needed", "begin each step with '- ID: 1'")
    by_number: dict[int, WrittenStep] = {}
    for node in steps.node.value:
        with findings.noting():
            written = _written(node, findings)
            if written.number in by_number:
                first = by_number[written.number].line
                raise Invalid(
                    f"line {written.line}, key 'ID': step {written.number} is there already, in line {first}",
                    hint="every step needs an ID of its own",
                )
            by_number[written.number] = written
    return [by_number[number] for number in sorted(by_number)]


def _written(node: Node, findings: Findings) -> WrittenStep:
    given = fields(node, "a step")
    if "ID" not in given:
        known_only(given.values(), STEP_KEYS)
        raise Invalid(f"line {node.line}, key 'ID': this step has none", hint="give every step a number: ID: 1")
    number = integer(given["ID"])
    if number < 1:
        raise given["ID"].wrong(f"must be at least 1, not {number}")
    place = f"step {number}"
    given = fields(node, place)
    findings.add(unknown(given.values(), STEP_KEYS))
    if "input_meta_query" not in given:
        raise Invalid(f"line {node.line}, {place}: key 'input_meta_query' is missing")
    query = {} if is_empty(given["input_meta_query"]) else fields(given["input_meta_query"].node, place)
    parent = query.pop("parentID", None)
    dataset = query.pop("dataset", None)
    if parent is not None and isinstance(parent.node.value, dict):
        findings.warnings.append(
            f"line {parent.node.line}, {place}: conditions below parentID mean a step without parent"
        )
        query = _together(query, fields(parent.node, place))
        parent = None
    config = given.get("job_config")
    if "job_config" in query:
        lifted = query.pop("job_config")
        if config is not None:
            raise lifted.wrong(f"is given twice, also in line {config.node.line}")
        findings.warnings.append(
            f"line {lifted.node.line}, {place}: job_config inside input_meta_query is read as the step's own"
        )
        config = lifted
    if config is None:
        raise Invalid(f"line {node.line}, {place}: key 'job_config' is missing")
    configured = fields(config.node, place)
    if "type" not in configured:
        raise Invalid(f"line {config.node.line}, {place}: key 'type' is missing in job_config")
    dataset = None if dataset is None or is_empty(dataset) else dataset
    return WrittenStep(number, node.line, given.get("name"), _without_zero(parent), dataset, query, configured)


def is_empty(found: Field) -> bool:
    """Whether nothing is written for the key."""
    return found.node.value is None


def _together(first: dict[str, Field], second: dict[str, Field]) -> dict[str, Field]:
    for key in second:
        if key in first:
            raise second[key].wrong(f"is given twice, also in line {first[key].node.line}")
    return {**first, **second}


def _without_zero(parent: Field | None) -> Field | None:
    """Nothing, null and 0 all mean that there is no parent."""
    if parent is None or is_empty(parent):
        return None
    return parent if integer(parent) != 0 else None


def check_parent(written: WrittenStep, steps: Mapping[int, WrittenStep]) -> None:
    """Raises Invalid unless the parent is an earlier step, and the only source."""
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


# --- what is in a step -----------------------------------------------------------------------------------------
def configuration(
    written: WrittenStep, common: Mapping[str, Field], findings: Findings
) -> tuple[StepType, dict[str, Field]]:
    """Type and settings of a step: its own, and those of Common that its type has."""
    kind = step_type(written.config["type"])
    own = {key: found for key, found in written.config.items() if key != "type"}
    findings.add(unknown(own.values(), kind.keys, OBSOLETE))
    config = {key: found for key, found in (*common.items(), *own.items()) if key in kind.keys and not is_empty(found)}
    findings.add(
        written.lacks(f"key '{needed}' is missing", f"{needed} must be in job_config or in Common")
        for needed in (*ALWAYS_MANDATORY, *kind.mandatory)
        if needed not in config
    )
    return kind, config


def conditions(written: WrittenStep, findings: Findings) -> list[tuple[str, Field, Any]]:
    """The step's own conditions by the catalogue's keys; empty ones are left out."""
    found: dict[str, tuple[Field, Any]] = {}
    for given in written.query.values():
        with findings.noting():
            key, value = translated(given)
            if value is None:
                continue
            if key in found:
                raise given.wrong(f"says the same as '{found[key][0].key}' in line {found[key][0].node.line}")
            found[key] = given, value
    if all(map(is_empty, written.query.values())) and written.parent is None and written.dataset is None:
        findings.add(
            [
                written.lacks(
                    "without parentID, dataset and conditions it would take every file there is",
                    "name files in input_meta_query",
                )
            ]
        )
    return [(key, given, value) for key, (given, value) in found.items()]
