"""Production documents: what an observatory's scientist writes, as a plan of transformations.

The dialect is the observatory's own (top level ProdSteps and Common, steps with ID, input_meta_query and
job_config). Unlike its first reader this one fills in nothing that is missing: whoever reads the plan finds
every condition, version and campaign written by its author. `written.py` reads the shape of steps, `step_types.py`
has their keys, `outputs.py` says what steps make, `slips.py` what is accepted but odd.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from lightkeeper.domain.catalog import MetaKey, Vocabulary
from lightkeeper.domain.errors import Conflict, Invalid, NotFound
from lightkeeper.domain.query import Query
from lightkeeper.domain.work import Companion, PlannedStep, ProductionPlan
from lightkeeper_ctao import models, sandboxes
from lightkeeper_ctao.dialect import Field, fields, plain_name, text, unknown
from lightkeeper_ctao.findings import Findings
from lightkeeper_ctao.job_types import JOB_TYPES
from lightkeeper_ctao.marked_yaml import read_yaml
from lightkeeper_ctao.options import with_files_at
from lightkeeper_ctao.outputs import either, known_products, offers, single, values_of
from lightkeeper_ctao.slips import slips
from lightkeeper_ctao.step import Condition, Step
from lightkeeper_ctao.step_types import COMMON_KEYS, GENERAL, LIMITS, OBSOLETE, SOFTWARE
from lightkeeper_ctao.written import WrittenStep, check_parent, conditions, configuration, written_steps

Sandbox = Callable[[str], bytes]
Datasets = Callable[[str], Mapping[str, Any]]


class ProductionYaml:
    """Reads production documents. `keys` are the metadata keys that queries may name; without any, every name
    may be used. `job_types` are the types that can be run."""

    def __init__(self, keys: Iterable[MetaKey] = (), job_types: Collection[str] = tuple(JOB_TYPES)) -> None:
        known = list(keys)
        self._vocabulary = Vocabulary(known) if known else None
        self._job_types = job_types

    def read(self, text: str, *, sandbox: Sandbox, dataset: Datasets) -> ProductionPlan:
        """The plan of the document; raises Invalid naming line, key and the nearest known key, for all that is wrong
        with it."""
        top = fields(read_yaml(text), "the document")
        findings = Findings()
        findings.add(unknown(top.values(), ("ProdSteps", "Common")))
        for needed in ("ProdSteps", "Common"):
            if needed not in top:
                findings.refuse()
                raise Invalid(f"the document has no {needed}", hint="its top level is ProdSteps and Common")
        common = fields(top["Common"].node, "Common")
        findings.add(unknown(common.values(), COMMON_KEYS, OBSOLETE))
        written = written_steps(top["ProdSteps"], findings)
        numbered = {step.number: step for step in written}
        steps: list[Step] = []
        for step in written:
            with findings.noting():
                check_parent(step, numbered)
            with findings.noting():
                steps.append(self._step(step, common, findings, sandbox, dataset))
        findings.warnings += slips(common, steps)
        findings.refuse()
        planned = _connected(steps, findings)
        findings.refuse()
        missing = [sentence for step in steps for sentence in step.missing]
        return ProductionPlan(
            tuple(planned), planned[0].body["MCCampaign"], tuple(findings.warnings), tuple(dict.fromkeys(missing))
        )

    def _step(
        self, written: WrittenStep, common: Mapping[str, Field], findings: Findings, sandbox: Sandbox, dataset: Datasets
    ) -> Step:
        """A step with every value read; raises Invalid when nothing more can be said of it."""
        kind, config = configuration(written, common, findings)
        if kind.name not in self._job_types:
            raise written.config["type"].wrong(
                f"type {kind.name} has no program here yet",
                f"available are: {', '.join(sorted(self._job_types))}",
            )
        values: dict[str, Any] = {}
        for key, found in config.items():
            with findings.noting():
                values[key] = kind.keys[key](found)
        mine: dict[str, Condition] = {}
        if not kind.without_input:
            for key, found, value in conditions(written, findings):
                with findings.noting():
                    self._check(found, {key: value})
                    mine[key] = Condition(found, value)
        for key in values.get("group_by", ()):
            with findings.noting():
                self._check(config["group_by"], {key: "Any"})
        of_dataset: Mapping[str, Any] = {}
        with findings.noting():
            of_dataset = {} if kind.without_input else _of_dataset(written, dataset)
        files = sandboxes.Files()
        with findings.noting():
            files = sandboxes.beside(config, values, sandbox)
        return Step(written, kind, config, values, mine, of_dataset, files.texts, files.places, files.missing)

    def _check(self, found: Field, query: dict[str, Any]) -> None:
        if self._vocabulary is not None:
            try:
                Query.from_map(query, self._vocabulary)
            except Invalid as error:
                raise found.wrong(error.message, error.hint) from None


def _of_dataset(written: WrittenStep, dataset: Datasets) -> Mapping[str, Any]:
    """The conditions of the step's dataset."""
    if written.dataset is None:
        return {}
    try:
        return dataset(text(written.dataset))
    except (NotFound, Conflict) as error:
        raise written.dataset.wrong(error.message, error.hint) from None


# --- how steps are connected -----------------------------------------------------------------------------------
def _connected(steps: Sequence[Step], findings: Findings) -> list[PlannedStep]:
    """Steps with complete queries: what the parent makes, overlaid with the step's own conditions."""
    made: dict[int, Mapping[str, Any]] = {}
    planned: list[PlannedStep] = []
    trained: list[models.Trained] = []
    for step in steps:
        parent = _parent(step)
        base: dict[str, Any] = deepcopy(dict(made.get(parent, {}))) if parent is not None else {}
        with findings.noting():
            if parent is not None:
                _check_possible(step, parent, base)
        query = {**base, **{key: deepcopy(condition.value) for key, condition in step.conditions.items()}}
        known = {**step.of_dataset, **query}
        feeders = () if parent is not None else _feeders(known, made)
        with findings.noting():
            made[step.number] = known_products(step, known, base if parent is not None else known)
            needed = _models(step, made[step.number], trained)
            planned.append(_planned(step, parent, query, made[step.number], feeders, needed))
            if step.kind.transformation == "Training":
                trained.append(models.Trained(step.number, step.kind.program, made[step.number]))
    findings.add(_twice(steps))
    return planned


def _parent(step: Step) -> int | None:
    if step.kind.without_input or step.written.parent is None:
        return None
    found = step.written.parent.node.value
    return found if isinstance(found, int) else None


def _check_possible(step: Step, parent: int, made: Mapping[str, Any]) -> None:
    """A condition that no file of the parent fulfils is a mistake, often a wrong parentID."""
    for key, condition in step.conditions.items():
        asked, offered = values_of(condition.value), values_of(made.get(key))
        if asked is not None and offered is not None and not any(value in offered for value in asked):
            raise condition.field.wrong(
                f"asks for {either(asked)}, but step {parent} makes {either(offered)}: it would never have input",
                "is parentID the step you mean?",
            )


def _feeders(asked: Mapping[str, Any], made: Mapping[int, Mapping[str, Any]]) -> tuple[int, ...]:
    """Earlier steps whose products a step without parent asks for by their program and all else."""
    programs = [key for key in asked if key.endswith("_prog")]
    return tuple(
        number
        for number, products in made.items()
        if any(key in products for key in programs) and offers(products, asked)
    )


def _twice(steps: Sequence[Step]) -> Iterable[Invalid]:
    """A step that does what another does makes every product a second time; often its parentID is wrong."""
    first: dict[tuple[str, int | None, str], Step] = {}
    parents = {_parent(step) for step in steps}
    for step in steps:
        conditions = {key: condition.value for key, condition in step.conditions.items()}
        work = (
            step.kind.name,
            _parent(step),
            repr((step.dataset, sorted(conditions.items()), sorted(step.values.items()))),
        )
        other = first.setdefault(work, step)
        if other is step or step.kind.without_input:
            continue
        idle = [one.number for one in steps if one.number < step.number and one.number not in parents]
        found = step.written.parent or step.written.config["type"]
        meant = f"nothing takes what step {idle[-1]} makes: is parentID: {idle[-1]} meant?" if idle else ""
        yield found.wrong(f"the step does the same work as step {other.number} on the same files", meant)


def _models(step: Step, made: Mapping[str, Any], trained: list[models.Trained]) -> tuple[Companion, ...]:
    """The trained models that the step's options name."""
    named = models.named(step.kind.name, step.values.get("options", []))
    needed, unclear = models.companions(named, made, trained)
    if unclear:
        raise step.written.config["options"].wrong(
            unclear[0], "narrow the step's conditions, so that only one of them fits"
        )
    return needed


def _group_by(step: Step) -> str | None:
    """What a task never mixes. What is learned from belongs together wherever it lies, so training does not go by
    sites."""
    if "group_by" in step.values:
        return ",".join(step.values["group_by"])
    return "MCCampaign" if step.kind.transformation == "Training" else None


def _planned(
    step: Step,
    parent: int | None,
    query: Mapping[str, Any],
    made: Mapping[str, Any],
    feeders: tuple[int, ...],
    companions: tuple[Companion, ...],
) -> PlannedStep:
    values, kind = step.values, step.kind
    own = {key: value for key, value in values.items() if key not in GENERAL}
    return PlannedStep(
        number=step.number,
        name=plain_name(step.written.name) if step.written.name is not None else kind.step_name,
        type=kind.transformation,
        job_type=kind.name,
        query=query,
        dataset=step.dataset,
        parent=parent,
        group_size=values.get("group_size", 1),
        body={
            "program": kind.program_of(values),
            "version": values["version"],
            "options": with_files_at(values.get("options", []), step.places),
            "output_extension": values.get("output_extension", ""),
            "base_path": values["base_path"],
            "MCCampaign": values["MCCampaign"],
            "configuration_id": values["configuration_id"],
            "output_meta": {key: found for key, value in made.items() if (found := single(value)) is not None},
            "sandbox": dict(step.sandbox),
            "settings": own,
            "software": {key: values[key] for key in SOFTWARE if key in values},
        },
        group_by=_group_by(step),
        sites=tuple(values.get("destination", ())),
        priority=values.get("priority", 5),
        processors=values.get("nb_processors", 1),
        memory=values.get("memory", 0),
        limits={name: values[key] * unit for key, (name, unit) in LIMITS.items() if key in values},
        cpu_time=values.get("cpu_time"),
        tags=tuple(values.get("tag", ())),
        without_input=kind.without_input,
        n_tasks=values.get("n_tasks", 0),
        input_limit=values.get("input_limit"),
        merges=kind.merges,
        feeders=feeders,
        companions=companions,
    )
