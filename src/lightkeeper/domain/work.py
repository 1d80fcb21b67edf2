"""Productions, transformations, tasks, jobs, pilots; and what decides about them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any

from lightkeeper.domain.catalog import MetaValue
from lightkeeper.domain.errors import Conflict, Invalid
from lightkeeper.domain.names import Lfn


# --- plans: what a production document says ------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Companion:
    """A file that every job of a step gets beside its own inputs, under the name `role`: a trained model. It is what
    `query` finds, a DIRAC-style map; with a `parent` what this earlier step makes, and jobs wait for it. Or it is the
    file `lfn`."""

    role: str
    query: Mapping[str, Any]
    parent: int | None = None
    lfn: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One transformation to be. `query` is the complete input query as a DIRAC-style map; with a `parent` it
    selects among the files that the parent step makes. `body` is handed to the job type as it is (JSON)."""

    number: int
    name: str
    type: str
    job_type: str
    query: Mapping[str, Any]
    parent: int | None
    group_size: int
    body: Mapping[str, Any]
    group_by: str | None = None
    sites: tuple[str, ...] = ()
    """Jobs run at one of these sites only; empty: anywhere."""
    priority: int = 5
    processors: int = 1
    dataset: str | None = None
    """Only files of this dataset, which `query` narrows."""
    companions: tuple[Companion, ...] = ()
    files: tuple[str, ...] = ()
    """Only these files, by their logical names, whatever `query` says."""
    memory: int = 0
    """What one job needs, in MB; 0: as much as any pilot has."""
    without_input: bool = False
    """It makes files from nothing: `query` is empty, and `n_tasks` says how often."""
    n_tasks: int = 0
    """Tasks that need no input, to be made at once."""
    input_limit: int | None = None
    """Only so many of the files that match, the first by their names."""
    cpu_time: int | None = None
    """Seconds of processor time that one job is expected to take."""
    tags: tuple[str, ...] = ()
    """What a pilot must offer to be given its jobs."""
    merges: bool = False
    """A task makes one file of all its inputs; else one of each. For estimates."""
    feeders: tuple[int, ...] = ()
    """Earlier steps that make what `query` asks for, though none is named as the parent: it takes what any of them
    makes."""
    limits: Mapping[str, int] = field(default_factory=dict[str, int])
    """What its jobs may use where that is not what the settings say: names of `limits.ASKED`; 0 is no limit."""
    grouping: str | None = None
    """Plug-in that puts files into tasks; None: by the values of the keys in `group_by`, or by site without them."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The metadata keys that it is grouped by."""
        return tuple(key.strip() for key in (self.group_by or "").split(",") if key.strip())

    @property
    def plug_in(self) -> str:
        """The plug-in that groups its files."""
        return self.grouping or ("keys" if self.keys else "site")


@dataclass(frozen=True, slots=True)
class ProductionPlan:
    """What a production document asks for, steps in the order of their numbers, parents before children."""

    steps: tuple[PlannedStep, ...]
    campaign: str
    warnings: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """What must still be handed in with the document before it can be submitted, told in sentences."""


class Match(StrEnum):
    """What a step with a parent takes. LINEAGE: what the parent made in this production. CATALOGUE: every file that
    matches, also of other productions."""

    LINEAGE = "lineage"
    CATALOGUE = "catalogue"


ALL_FILES = 2**31 - 1
"""A group of all the files there are."""


def in_single_jobs(plan: ProductionPlan) -> ProductionPlan:
    """The plan with one job for each step, on all its files."""
    steps = (replace(step, group_size=ALL_FILES, grouping="number", group_by=None, n_tasks=1) for step in plan.steps)
    return replace(plan, steps=tuple(step if step.without_input else replace(step, n_tasks=0) for step in steps))


# What may differ in a step that is still the same: what it is called has been told already.
_COMPARED = ("name", "type", "job_type", "query", "parent", "feeders", "group_size", "group_by", "body", "dataset")


def added_steps(before: ProductionPlan, after: ProductionPlan) -> list[PlannedStep]:
    """The steps that `after` has more; raises Conflict when it is not `before` with steps added."""
    now = {step.number: step for step in after.steps}
    for step in before.steps:
        if step.number not in now:
            raise Conflict(
                f"step {step.number} is not in the document any more", hint="a production is extended, never cut"
            )
        changed = [name for name in _COMPARED if getattr(step, name) != getattr(now[step.number], name)]
        if changed:
            raise Conflict(
                f"step {step.number} is another one in this document: {', '.join(changed)}",
                hint="steps may be added; what runs already cannot be changed",
            )
    known = {step.number for step in before.steps}
    return [step for step in after.steps if step.number not in known]


# --- jobs: one attempt -------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class JobInput:
    """One input of a job. The pilot lays it at `inputs<lfn>` in the job's folder, verified."""

    lfn: Lfn
    meta: Mapping[str, MetaValue]


@dataclass(frozen=True, slots=True)
class JobOrder:
    """What is to be done by one job: ids, the step's `body`, the inputs in order of their names, and by role the files
    that every job of the step gets."""

    transformation_id: int
    task_id: int
    job_id: int
    body: Mapping[str, Any]
    inputs: tuple[JobInput, ...]
    companions: Mapping[str, JobInput] = field(default_factory=dict[str, JobInput])
    number: int | None = None
    """Of a task without input, from 1 on in its transformation: runs are numbered with it."""


@dataclass(frozen=True, slots=True)
class ExpectedOutput:
    """A file that the job must leave under `name` in its output folder, and what it will be in the catalogue.
    `sources` are the inputs it is made from."""

    name: str
    lfn: Lfn
    meta: Mapping[str, MetaValue]
    sources: tuple[Lfn, ...]


@dataclass(frozen=True, slots=True)
class FoundOutput:
    """A file that the tool left as its output `parameter`, by its path below the job's output folder."""

    parameter: str
    name: str


@dataclass(frozen=True, slots=True)
class JobRecipe:
    """How a job is run: a CWL document (one text, nothing referenced), its input object with paths relative to the
    job's folder, files to be laid into that folder first, the outputs, and the names of the provenance logs the
    tool leaves among its outputs (patterns are not allowed). `collected` are the tool's outputs whose files have names
    that only the run tells: their job type says in `collect` what they are. `software` is told of a run that keeps no
    provenance log of its own. `container`: '', 'wanted' or 'needed'. `needs`: name and version of the software that it
    runs, which may be declared to be somewhere."""

    cwl: str
    inputs: Mapping[str, Any]
    outputs: tuple[ExpectedOutput, ...]
    sandbox: Mapping[str, str] = field(default_factory=dict[str, str])
    provenance_logs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    collected: tuple[str, ...] = ()
    software: Mapping[str, str] = field(default_factory=dict[str, str])
    container: str = ""
    needs: str = ""


# --- software ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Software:
    """Where software is: in a virtual environment, in a folder of a file system that all sites mount, in an image."""

    kind: str
    place: str


def parse_software(text: str) -> Software:
    """Read `venv:/opt/x`, `cvmfs:/cvmfs/x` or `container:image`."""
    kind, _, place = text.partition(":")
    if kind not in ("venv", "cvmfs", "container") or not place or (kind != "container" and not place.startswith("/")):
        raise Invalid(f"'{text}' says of no software where it is", hint="venv:/opt/x, cvmfs:/cvmfs/x, container:image")
    return Software(kind, place)


# --- decisions -----------------------------------------------------------------------------------------------
RETRY_AFTER = timedelta(seconds=2)
MAX_RETRY_AFTER = timedelta(minutes=30)


def retry_delay(attempts: int, base: timedelta = RETRY_AFTER) -> timedelta:
    """How long to wait before attempt `attempts + 1`: doubling from `base`, at most half an hour."""
    return min(base * 2 ** max(0, min(attempts, 20) - 1), MAX_RETRY_AFTER)
