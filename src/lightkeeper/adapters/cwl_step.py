"""Steps of a CWL document and what they take in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lightkeeper.adapters.cwl_document import Shape, as_list, local, named, shape
from lightkeeper.adapters.cwl_hints import Hints
from lightkeeper.domain.errors import Invalid


@dataclass(frozen=True, slots=True)
class Value:
    """A source that is no file of the catalogue: its type, its value when `given`, and texts to be laid into the job's
    folder for it."""

    type: Any
    value: Any
    given: bool
    texts: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Files:
    """A source that is files of the catalogue: in so many lists, `many` or exactly one; from a query, a dataset, by
    name, or what a parent makes. `all_at_once`: they were named together, and are for one job."""

    depth: int
    many: bool
    query: Mapping[str, Any] = field(default_factory=dict[str, Any])
    dataset: str | None = None
    files: tuple[str, ...] = ()
    parent: int | None = None
    all_at_once: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One step: `tool` is what it runs, `takes` what its parameters take from (by parameter, as CWL has it)."""

    name: str
    tool: Mapping[str, Any]
    takes: Mapping[str, Mapping[str, Any]]
    outputs: Mapping[str, Shape]
    scatter: tuple[str, ...]
    hints: Hints
    written: Mapping[str, Any] | None
    """The step as its workflow has it; None: the document itself is the step."""

    @classmethod
    def whole(cls, name: str, document: Mapping[str, Any], hints: Hints) -> "Step":
        """A document that is run as it is."""
        takes = {parameter: {"source": parameter} for parameter in named(document.get("inputs"))}
        outputs = {key: shape(value["type"]) for key, value in named(document.get("outputs")).items()}
        return cls(name, document, takes, outputs, (), hints, None)

    @classmethod
    def of_workflow(cls, name: str, step: Mapping[str, Any], document: Mapping[str, Any], hints: Hints) -> "Step":
        """A step of a workflow."""
        scatter = tuple(local(parameter) for parameter in as_list(step.get("scatter")))
        takes = {parameter: _input(told) for parameter, told in named(step.get("in")).items()}
        declared = {key: shape(value["type"]) for key, value in named(step["run"].get("outputs")).items()}
        depth = len(scatter) if step.get("scatterMethod") == "nested_crossproduct" else min(len(scatter), 1)
        wanted = [local(out if isinstance(out, str) else out["id"]) for out in as_list(step.get("out"))]
        outputs = {key: Shape(found.base, found.depth + depth, found.optional, found.hidden)
                   for key in wanted for found in (declared[key],)}  # fmt: skip
        known = {local(other) for other in named(document.get("steps"))}
        for told in takes.values():
            for source in as_list(told.get("source")):
                parent = str(source).rpartition("#")[2].rpartition("/")[0]
                if parent and local(parent) not in known and parent != local(document.get("id", "")):
                    raise Invalid(f"step {name} takes '{source}', which is no output of a step")
        return cls(name, step["run"], takes, outputs, scatter, hints, step)

    @property
    def sources(self) -> dict[str, list[str]]:
        """What the step takes from, as 'input' or 'step/output', with the parameters that take it."""
        found: dict[str, list[str]] = {}
        for parameter, told in self.takes.items():
            for source in as_list(told.get("source")):
                found.setdefault(str(source).rpartition("#")[2], []).append(parameter)
        return found

    @property
    def parents(self) -> set[str]:
        """Names of the steps whose outputs it takes."""
        return {name.rpartition("/")[0] for name in self.sources if "/" in name}


def _input(told: Mapping[str, Any]) -> dict[str, Any]:
    """How a parameter is filled; one that is written short has just a source."""
    return {key: value for key, value in told.items() if key not in ("type", "id")} if "type" in told else dict(told)
