"""Jobs of productions that were written in CWL: the document is in the step's body, compiled by production_cwl.py."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightkeeper.domain.catalog import MetaValue
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import parse_lfn
from lightkeeper.domain.provenance import RanActivity
from lightkeeper.domain.work import ExpectedOutput, FoundOutput, JobInput, JobOrder, JobRecipe


class CwlJob:
    """Runs the step's own document."""

    def recipe(self, order: JobOrder) -> JobRecipe:
        """The document, and the files of the task as its inputs."""
        body = order.body
        inputs: dict[str, Any] = dict(body["inputs"])
        if body["stream"] is not None:
            name = body["stream"]["parameter"]
            files = [_file(body, name, one) for one in order.inputs]
            if not body["stream"]["list"] and len(files) != 1:
                raise Invalid(f"input '{name}' is one file, and the task has {len(files)}")
            inputs[name] = files if body["stream"]["list"] else files[0]
        for name, one in order.companions.items():
            file = _file(body, name, one)
            inputs[name] = [file] if body["lists"][name] else file
        return JobRecipe(
            cwl=body["cwl"],
            inputs=inputs,
            outputs=(),
            sandbox=dict(body["sandbox"]),
            collected=tuple(body["outputs"]),
            container=body["container"],
            needs=body["needs"],
        )

    def collect(
        self,
        order: JobOrder,
        found: Sequence[FoundOutput],
        logs: Sequence[str],  # noqa: ARG002
    ) -> Sequence[ExpectedOutput]:
        """Outputs keep the names that the tool gave them, in a directory of their task."""
        sources = (*(one.lfn for one in order.inputs), *(one.lfn for one in order.companions.values()))
        return [
            ExpectedOutput(one.name, parse_lfn(f"{_folder(order, one)}/{one.name}"), _meta(order, one), sources)
            for one in found
        ]

    def activities(self, log: str) -> Sequence[RanActivity]:  # noqa: ARG002
        """Tools of any kind keep no log that could be read here."""
        return ()


def _file(body: Mapping[str, Any], name: str, one: JobInput) -> dict[str, Any]:
    told = {"class": "File", "location": f"inputs{one.lfn}"}
    return told | ({"format": body["formats"][name]} if name in body["formats"] else {})


def _folder(order: JobOrder, found: FoundOutput) -> str:
    wanted = order.body["outputs"][found.parameter]["folder"] or "/cwl/productions"
    return f"{wanted.rstrip('/')}/{order.transformation_id}/{order.task_id}"


def _meta(order: JobOrder, found: FoundOutput) -> dict[str, MetaValue]:
    """What the hints say, and of the keys to be inherited what all inputs agree on."""
    first = order.inputs[0].meta if order.inputs else {}
    inherited = {
        key: first[key]
        for key in order.body["inherit"]
        if key in first and all(one.meta.get(key) == first[key] for one in order.inputs)
    }
    return {**inherited, **order.body["meta"], "output": found.parameter}
