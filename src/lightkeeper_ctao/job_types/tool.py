"""Job types that are nothing but a CWL tool: one file, `<name>.cwl`, whose hint `lightkeeper:JobType` says the rest.

The tool is a CommandLineTool. Its inputs have names with a meaning, and it declares those that it wants:

    source            one input file of the task: the tool is run once for each
    sources           all input files of the task: the tool is run once
    options           the words of the production's `options`
    sandbox           the files of the production's `input_sandbox`
    models            trained models, each under the name by which `options` know it
    output_name       how its output `output` must be called; likewise provenance_name, log_name
    any key of job_config that the hint lists in `keys`

An output that is not named by an input is taken as the program calls it; one called `logs` is of the type Log.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from typing import Any

from ruamel.yaml import YAML

from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import split_lfn
from lightkeeper.domain.provenance import RanActivity
from lightkeeper.domain.work import ExpectedOutput, FoundOutput, JobInput, JobOrder, JobRecipe
from lightkeeper_ctao.job_types import names, product, provenance

HINT = "lightkeeper:JobType"
NAMES = {"output_name": "", "provenance_name": ".provenance.log", "log_name": ".log"}
OF_EACH = ("source", *NAMES)
"""Inputs that differ between the runs of one task."""


@dataclass(frozen=True, slots=True)
class Hint:
    """What the hint says: the job type's name, the kind of transformation, what names of outputs end with unless the
    production says so, metadata keys that its products do not have, keys of job_config that are inputs, and the
    software package that it is of."""

    name: str
    transformation: str
    extension: str = ""
    without: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    package: str = "ctapipe"
    models: Mapping[str, str] = field(default_factory=dict[str, str])
    """Names by which options may know a model: the programs that train it."""


class Tool:
    """A job type that one CWL document describes."""

    def __init__(self, file: str) -> None:
        self._file = file

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """The CommandLineTool."""
        return YAML(typ="safe", pure=True).load(product.cwl_text(self._file))

    @cached_property
    def hint(self) -> Hint:
        """What the document's hint says."""
        told: dict[str, Any] = self.document["hints"][HINT]
        lists: dict[str, Any] = {key: tuple(told.get(key, ())) for key in ("without", "keys")}
        return Hint(**(told | lists))

    @property
    def program(self) -> str:
        """The program that it runs."""
        command = self.document["baseCommand"]
        return command if isinstance(command, str) else command[0]

    def recipe(self, order: JobOrder) -> JobRecipe:
        """One run for each input, or for all of the task."""
        if not order.inputs and {"source", "sources"} & self.document["inputs"].keys():
            raise Invalid(f"job {order.job_id} has no input to work on")
        each = "source" in self.document["inputs"]
        groups = [(one,) for one in order.inputs] if each else [order.inputs]
        outputs = self._named_outputs(order, groups)
        runs = [self._run(order, group, outputs[n].name if outputs else "") for n, group in enumerate(groups)]
        logs = [run["provenance_name"] for run in runs if "provenance_name" in run]
        collected = [name for name in self.document["outputs"] if name not in ("output", "provenance", "log")]
        if not outputs and "output" in self.document["outputs"]:
            collected.insert(0, "output")
        return JobRecipe(
            cwl=product.as_text(_for_each(_for_runner(self.document)) if each else _for_runner(self.document)),
            inputs=_together(runs) if each else runs[0],
            outputs=tuple(outputs),
            sandbox=dict(order.body["sandbox"]),
            provenance_logs=tuple(logs),
            collected=tuple(collected),
            software={self.program: str(order.body["version"])},
            needs=product.needs(order.body, self.hint.package),
        )

    def collect(
        self,
        order: JobOrder,
        found: Sequence[FoundOutput],
        logs: Sequence[str],  # noqa: ARG002
    ) -> Sequence[ExpectedOutput]:
        """Outputs that the program named itself: each comes from the inputs of its run number, else from all."""
        return [self._found_output(order, output) for output in found]

    def activities(self, log: str) -> Sequence[RanActivity]:
        """What a program of ctapipe logged."""
        return provenance.read_log(log)

    # --- inputs
    def _run(self, order: JobOrder, group: Sequence[JobInput], name: str) -> dict[str, Any]:
        files = [product.cwl_input(one.lfn) for one in group]
        known: dict[str, Any] = {
            "source": files[0] if files else None,
            "sources": files,
            "options": list(order.body["options"]),
            "sandbox": product.sandbox_files(order.body),
            "models": [product.cwl_input(one.lfn) | {"basename": role} for role, one in order.companions.items()],
            **{key: name + end for key, end in NAMES.items()},
            **{key: order.body["settings"].get(key) for key in self.hint.keys},
        }
        return {key: known[key] for key in self.document["inputs"]}

    # --- outputs
    def _named_outputs(self, order: JobOrder, groups: Sequence[Sequence[JobInput]]) -> list[ExpectedOutput]:
        if "output_name" not in self.document["inputs"]:
            return []
        giver = names.Names(order.task_id, order.body["output_extension"] or self.hint.extension)
        return [self._named_output(order, group, giver) for group in groups]

    def _named_output(self, order: JobOrder, group: Sequence[JobInput], giver: names.Names) -> ExpectedOutput:
        meta = self._meta(order, group)
        number = names.number_of(group[0])
        stem = names.stem_of(group[0].lfn) if len(group) == 1 else names.span(group)
        lfn = giver.give(names.directory(order.body, meta, order.transformation_id, number), stem)
        used = (*group, *order.companions.values())
        return ExpectedOutput(split_lfn(lfn)[1], lfn, meta, product.lfns(used))

    def _found_output(self, order: JobOrder, output: FoundOutput) -> ExpectedOutput:
        name = output.name.rpartition("/")[2]
        run = names.run_number(name)
        same = [one for one in order.inputs if run is not None and names.run_of(one) == run]
        sources = same or list(order.inputs)
        meta = self._meta(order, sources)
        if run is not None:
            meta["runNumber"] = f"{run:08d}"
        if output.parameter == "logs":
            meta["outputType"] = "Log"
        return product.found(order, output, meta, run, sources)

    def _meta(self, order: JobOrder, group: Sequence[JobInput]) -> dict[str, Any]:
        meta = product.product_meta(order.body, group)
        return {key: value for key, value in meta.items() if key not in self.hint.without}


def tools() -> dict[str, Tool]:
    """Every tool of this package that is a job type by itself, by the name that its hint gives it."""
    found = (entry.name for entry in files("lightkeeper_ctao.job_types").iterdir() if entry.name.endswith(".cwl"))
    hinted = (Tool(name) for name in sorted(found) if HINT in product.cwl_text(name))
    return {tool.hint.name: tool for tool in hinted}


def _together(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Inputs of the runs of one task as inputs of one workflow: what differs between runs as lists."""
    return {
        (f"{key}s" if key in OF_EACH else key): ([run[key] for run in runs] if key in OF_EACH else value)
        for key, value in runs[0].items()
    }


def _for_runner(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The tool without what only Lightkeeper understands."""
    hints = {kind: told for kind, told in tool.get("hints", {}).items() if kind != HINT}
    return {key: value for key, value in tool.items() if key != "$namespaces"} | {"hints": hints}


def _for_each(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A workflow that runs the tool once for each source."""
    inputs, outputs = _types(tool["inputs"]), _types(tool["outputs"])
    own = [key for key in OF_EACH if key in inputs]
    return {
        "cwlVersion": tool["cwlVersion"],
        "class": "Workflow",
        "requirements": {"ScatterFeatureRequirement": {}},
        "inputs": {
            (f"{key}s" if key in own else key): {"type": _many(kind) if key in own else kind}
            for key, kind in inputs.items()
        },
        "steps": {
            "each": {
                "run": {key: value for key, value in tool.items() if key != "cwlVersion"},
                "scatter": own,
                "scatterMethod": "dotproduct",
                "in": {key: f"{key}s" if key in own else key for key in inputs},
                "out": list(outputs),
            }
        },
        "outputs": {name: {"type": _many(kind), "outputSource": f"each/{name}"} for name, kind in outputs.items()},
    }


def _types(declared: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value["type"] if isinstance(value, Mapping) else value for key, value in declared.items()}


def _many(kind: Any) -> dict[str, Any]:
    return {"type": "array", "items": kind}
