"""A small observatory: the second implementation of the port, for tests and for learning how to write one.

Its files are `*.plain`: a line of JSON metadata, then anything; a wrong `size=` in the content is damage. Its
productions are JSON, and its one job type, Concatenate, is `cat`.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

from lightkeeper.domain.catalog import KeyLevel, KeyRole, KeyType, MetaKey
from lightkeeper.domain.errors import Invalid, LightkeeperError, nearest
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.domain.names import parse_lfn
from lightkeeper.domain.provenance import RanActivity
from lightkeeper.domain.quality import Figure
from lightkeeper.domain.work import Companion, ExpectedOutput, JobOrder, JobRecipe, PlannedStep, ProductionPlan
from lightkeeper.ports import CampaignWriter, JobType, Product, ProductionReader, ProductReader

KEYS = (
    MetaKey("night", KeyType.STRING, role=KeyRole.NIGHT),
    MetaKey("level", KeyType.INT, description="0 raw, 1 concatenated, 2 concatenated again", role=KeyRole.LEVEL),
    MetaKey("kind", KeyType.STRING, role=KeyRole.ELEMENT),
    MetaKey("zenith", KeyType.FLOAT, unit="deg"),
    MetaKey("number", KeyType.INT, KeyLevel.FILE, role=KeyRole.CHUNK),
)


class PlainReader:
    """Reads `*.plain`."""

    def recognises(self, path: str) -> bool:
        """By the ending."""
        return path.endswith(".plain")

    def read(self, file: BinaryIO, path: str) -> Product:
        """Metadata from the first line; everything else is content."""
        content = file.read()
        fixity = fixity_of([content])
        problems: list[str] = []
        meta: dict[str, Any] = {}
        try:
            meta = json.loads(content.partition(b"\n")[0])
        except ValueError:
            problems.append("the first line is not JSON")
        told = re.search(r"size=(\d+)", content.decode(errors="replace"))
        if told and int(told[1]) != len(content):
            problems.append(f"the file says it has {told[1]} bytes, but has {len(content)}")
        try:
            lfn = parse_lfn(path)
        except LightkeeperError as error:
            return Product(None, fixity, meta, (error.message,))
        return Product(lfn, fixity, meta, tuple(problems))


NEEDS = ("grouping", "processors", "memory", "limits", "priority")


class PlainProductions:
    """Reads productions written as `{"steps": [{"query": {…}, "dataset": "…"?, "group_size": n, "parent": n?}]}`; a
    step may also have what NEEDS names, `tags` and `sites`."""

    def read(
        self,
        text: str,
        *,
        sandbox: Callable[[str], bytes],  # noqa: ARG002
        dataset: Callable[[str], Mapping[str, Any]],  # noqa: ARG002
    ) -> ProductionPlan:
        """The plan; raises Invalid."""
        try:
            steps = json.loads(text)["steps"]
        except (ValueError, KeyError, TypeError) as error:
            raise Invalid(f"the production is not what it should be: {error}") from error
        return ProductionPlan(
            steps=tuple(
                PlannedStep(
                    number=number,
                    name="Concatenate",
                    type=step.get("type", "Merging"),
                    job_type="Concatenate",
                    query=step.get("query", {}),
                    dataset=step.get("dataset"),
                    parent=step.get("parent"),
                    group_size=step["group_size"],
                    group_by=step.get("group_by"),
                    body={"level": number} | step.get("body", {}),
                    without_input=step.get("without_input", False),
                    n_tasks=step.get("n_tasks", 0),
                    input_limit=step.get("input_limit"),
                    feeders=tuple(step.get("feeders", ())),
                    cpu_time=step.get("cpu_time"),
                    merges=True,
                    companions=tuple(Companion(**one) for one in step.get("companions", ())),
                    tags=tuple(step.get("tags", ())),
                    sites=tuple(step.get("sites", ())),
                    **{key: step[key] for key in NEEDS if key in step},
                )
                for number, step in enumerate(steps, start=1)
            ),
            campaign="test",
        )


class PlainCampaigns:
    """Writes one document that concatenates the files of the kind which the template names."""

    def documents(self, template: str, kind: str) -> Mapping[str, str]:
        """`all.json`; raises Invalid."""
        if kind != "plain":
            raise Invalid(f"there is no campaign of kind '{kind}'", hint=nearest(kind, ["plain"]))
        return {"all.json": json.dumps({"steps": [{"query": {"kind": template.strip()}, "group_size": 2}]})}

    def change(self, document: str, changes: Mapping[str, str]) -> str:
        """Sets keys of the document's top level, which mean nothing."""
        return json.dumps(json.loads(document) | dict(changes))


class Concatenate:
    """Concatenates its inputs."""

    def recipe(self, order: JobOrder) -> JobRecipe:
        """`cat` of all inputs into one file named after the task. With `exit` in the body it fails with that status."""
        name = f"task{order.task_id}.joined"
        script = f'sleep {order.body.get("sleep", 0)}; cat "$@" > {name}; exit {order.body.get("exit", 0)}'
        tool = {
            "cwlVersion": "v1.2",
            "class": "CommandLineTool",
            "baseCommand": ["sh", "-c", script, "sh"],
            "inputs": {"parts": {"type": "File[]", "inputBinding": {"position": 1}}},
            "outputs": {"joined": {"type": "File", "outputBinding": {"glob": name}}},
        }
        kind = order.inputs[0].meta.get("kind", "none") if order.inputs else f"run {order.number}"
        meta = {"level": order.body["level"], "kind": str(kind)}
        lfn = parse_lfn(f"/test/products/{order.transformation_id}/{name}")
        shared = [one.lfn for one in order.companions.values()]
        return JobRecipe(
            cwl=json.dumps(tool),
            inputs={"parts": [{"class": "File", "location": f"inputs{i.lfn}"} for i in order.inputs]},
            outputs=(ExpectedOutput(name, lfn, meta, (*(i.lfn for i in order.inputs), *shared)),),
        )

    def activities(self, log: str) -> Sequence[RanActivity]:  # noqa: ARG002
        """`cat` keeps no log."""
        return ()


class PlainObservatory:
    """The observatory."""

    name = "plain"

    def metadata_keys(self) -> Sequence[MetaKey]:
        """Five keys."""
        return KEYS

    def night_of(self, path: str) -> str:
        """A folder with the name of a day."""
        return next((part for part in path.split("/") if re.fullmatch(r"\d{4}-\d\d-\d\d", part, re.ASCII)), "")

    def quality_figures(self) -> Sequence[Figure]:
        """None: the topology defines some."""
        return ()

    def product_readers(self) -> Sequence[ProductReader]:
        """One."""
        return [PlainReader()]

    def campaigns(self) -> CampaignWriter:
        """One document for a kind."""
        return PlainCampaigns()

    def production_reader(self) -> ProductionReader:
        """JSON."""
        return PlainProductions()

    def job_types(self) -> Mapping[str, JobType]:
        """One."""
        return {"Concatenate": Concatenate()}
