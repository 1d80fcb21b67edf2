"""One step of a CWL document as a transformation: what makes its tasks, and the document that each job runs."""

import json
from collections.abc import Mapping
from typing import Any, Final

from lightkeeper.adapters.cwl_document import FILE, as_list, by_class, named, shape
from lightkeeper.adapters.cwl_hints import PREFIXES, limits, resources, warnings_of, without_ours
from lightkeeper.adapters.cwl_step import Files, Step, Value
from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.work import ALL_FILES, Companion, PlannedStep

DIRAC_PRIORITY: Final = 15
"""DIRAC's 10 is our 5; there a higher number goes first, here a lower one."""
AS_JOB: Final = "run the document as one job: lightkeeper job submit"

Sources = Mapping[str, Files | Value]


def compile_step(
    number: int, step: Step, sources: Sources, document: Mapping[str, Any], single_job: bool = False
) -> tuple[PlannedStep, bool, list[str]]:
    """The step as planned, whether it makes more than one file of an output, and warnings. `single_job`: it has one
    task with all files."""
    files = {name: source for name, source in sources.items() if isinstance(source, Files)}
    driver = _driver(step, files)
    group, alone = _group_size(step, files, driver, ALL_FILES if single_job else step.hints.group_size)
    companions = tuple(
        Companion(_plain(name), source.query, source.parent, source.files[0] if source.files else None)
        for name, source in files.items()
        if name != driver
    )
    levels = _levels(step, document)
    needs = resources(levels)
    container = _container(levels)
    body = {
        "cwl": json.dumps(_document(step, sources, driver, document, group > 1 and alone)),
        "inputs": {_plain(name): one.value for name, one in sources.items() if isinstance(one, Value) and one.given},
        "stream": None if driver is None else {"parameter": _plain(driver), "list": not (alone and group == 1)},
        "lists": {_plain(name): source.depth > 0 for name, source in files.items()},
        "formats": _formats(step, files),
        "outputs": {
            name: {"folder": step.hints.output_paths.get(name) or step.hints.folder}
            for name, kind in step.outputs.items()
            if kind.base != "other"
        },
        "meta": dict(step.hints.output_meta),
        "inherit": list(step.hints.inherit),
        "sandbox": {k: text for one in sources.values() if isinstance(one, Value) for k, text in one.texts.items()},
        "container": container,
        "needs": _software(levels),
    }
    _check_outputs(step)
    taken = files[driver] if driver is not None else Files(0, False)
    planned = PlannedStep(
        number=number,
        name=step.name,
        type="Workflow" if step.tool["class"] == "Workflow" else "Processing",
        job_type="CWL",
        query=dict(taken.query),
        parent=taken.parent,
        group_size=group,
        group_by=",".join(step.hints.group_by) or None,
        grouping="number" if group == ALL_FILES and not step.hints.group_by else None,
        sites=tuple(dict.fromkeys(step.hints.sites)),
        priority=max(0, min(9, DIRAC_PRIORITY - step.hints.priority)),
        processors=int(needs.get("coresMin", needs.get("coresMax", 1)) + 0.999),
        memory=int(needs.get("ramMin", needs.get("ramMax", 0))),
        limits=limits(needs, levels, once=not step.scatter and not (alone and group > 1)),
        dataset=taken.dataset,
        files=taken.files,
        companions=companions,
        tags=("container",) if container == "needed" else (),
        without_input=driver is None,
        n_tasks=int(driver is None),
        body=body,
    )
    many = driver is not None and taken.many and (group != ALL_FILES or alone)
    return planned, many, warnings_of(step.hints, f"step {step.name}")


# --- what makes tasks ------------------------------------------------------------------------------------------
def _driver(step: Step, files: Mapping[str, Files]) -> str | None:
    """The source whose files make the step's tasks; all others must be one file each, which every job gets."""
    many = [name for name, source in files.items() if source.many]
    if len(many) > 1:
        raise Invalid(
            f"step {step.name} joins the files of {' and '.join(many)}: CWL feature 'join of several streams of files' "
            "is not supported between transformations",
            hint=AS_JOB,
        )
    named_together = [name for name in files if name not in many and files[name].parent is None]
    first = (many or named_together or list(files) or [None])[0]
    for name, source in files.items():
        if name != first and (source.depth or len(source.files) > 1):
            raise Invalid(
                f"step {step.name}: '{name}' would be a list of files beside those of '{first}', "
                "which is not supported",
                hint=AS_JOB,
            )
    return first


def _group_size(step: Step, files: Mapping[str, Files], driver: str | None, wanted: int | None) -> tuple[int, bool]:
    """How many files a task has, when so many are wanted, and whether the tool takes them one by one."""
    if driver is None:
        return 1, False
    parameters = step.sources[driver]
    source = files[driver]
    scattered = [parameter for parameter in parameters if parameter in step.scatter]
    if scattered:
        if len(scattered) > 1 or len(parameters) > 1:
            raise Invalid(
                f"step {step.name}: CWL feature 'scatter over the same files in several inputs' is not supported",
                hint=AS_JOB,
            )
        return (ALL_FILES if source.all_at_once and wanted is None else wanted or 1), False
    declared = named(step.tool.get("inputs"))[parameters[0]]
    if shape(declared["type"]).depth == 0 and len(as_list(step.takes[parameters[0]].get("source"))) == 1:
        if len(parameters) > 1 and (wanted or 1) > 1:
            raise Invalid(f"step {step.name}: group_size is for inputs that are lists of files")
        return wanted or 1, True
    gathers = step.written is not None or source.all_at_once
    return wanted or (ALL_FILES if gathers else 1), False


# --- the document of a job -------------------------------------------------------------------------------------
def _document(
    step: Step, sources: Sources, driver: str | None, document: Mapping[str, Any], each: bool
) -> dict[str, Any]:
    """What each job runs: the document itself, or a workflow of this step alone."""
    if step.written is None and not each:
        tool = {key: value for key, value in step.tool.items() if key != "$namespaces"}
        return {**tool, **_namespaces(document), "hints": without_ours(step.tool.get("hints"))}
    written = step.written or {"run": step.tool, "in": step.takes, "out": list(step.outputs)}
    if "SchemaDefRequirement" in by_class(document.get("requirements")):
        raise Invalid(
            f"step {step.name}: CWL feature 'SchemaDefRequirement of a Workflow' is not supported", hint=AS_JOB
        )
    tool = {key: value for key, value in step.tool.items() if key != "cwlVersion"}
    one = {key: value for key, value in written.items() if key not in ("id", "in", "run", "hints")}
    one |= {"run": {**tool, "hints": without_ours(tool.get("hints"))}, "hints": without_ours(written.get("hints"))}
    one["in"] = {parameter: _renamed(told) for parameter, told in step.takes.items()}
    requirements = by_class(document.get("requirements")) if step.written is not None else {}
    scattered = bool(step.scatter)
    if each and driver is not None:
        one["scatter"] = step.sources[driver][0]
        scattered = True
    for needed, used in (
        ("ScatterFeatureRequirement", scattered),
        ("SubworkflowFeatureRequirement", tool["class"] == "Workflow"),
    ):
        if used:
            requirements.setdefault(needed, {})
    is_list = {name: source.depth > 0 or each for name, source in sources.items() if isinstance(source, Files)}
    return {
        "cwlVersion": document["cwlVersion"],
        **_namespaces(document),
        "class": "Workflow",
        "requirements": [{"class": kind, **told} for kind, told in requirements.items()],
        "hints": without_ours(document.get("hints")) if step.written is not None else [],
        "inputs": {
            _plain(name): {"type": _list_of(FILE, is_list[name] or _takes_list(step, name))}
            if isinstance(source, Files)
            else _declared(source)
            for name, source in sources.items()
        },
        "steps": {step.name: one},
        "outputs": {
            name: {"type": _output_type(step, name, each), "outputSource": f"{step.name}/{name}"}
            for name in step.outputs
        },
    }


def _namespaces(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document's namespaces, without those of hints that are for us."""
    kept = {key: value for key, value in document.get("$namespaces", {}).items() if key not in PREFIXES}
    return {"$namespaces": kept} if kept else {}


def _takes_list(step: Step, source: str) -> bool:
    """Whether a source of files is a list for the step: it scatters over it, or its parameter is one."""
    parameters = step.sources[source]
    declared = named(step.tool.get("inputs"))
    return any(
        parameter in step.scatter
        or (
            parameter in declared
            and shape(declared[parameter]["type"]).depth > 0
            and len(as_list(step.takes[parameter].get("source"))) == 1
        )
        for parameter in parameters
    )


def _declared(source: Value) -> dict[str, Any]:
    told: dict[str, Any] = {"type": source.type}
    if not source.given and not shape(source.type).optional:
        told["type"] = ["null", source.type]
    return told


def _output_type(step: Step, name: str, each: bool) -> Any:
    kind = step.outputs[name]
    declared = named(step.tool.get("outputs"))[name]["type"]
    plain: Any = FILE if declared in ("stdout", "stderr") else declared
    depth = kind.depth - shape(declared).depth + int(each)
    for _ in range(depth):
        plain = {"type": "array", "items": plain}
    return ["null", plain] if step.written is not None and "when" in step.written else plain


def _list_of(kind: str, is_list: bool) -> Any:
    return {"type": "array", "items": kind} if is_list else kind


def _renamed(told: Mapping[str, Any]) -> dict[str, Any]:
    """How a parameter is filled, its sources under the names that the job's document gives them."""
    if "source" not in told:
        return dict(told)
    source = told["source"]
    renamed = [_plain(str(one).rpartition("#")[2]) for one in as_list(source)]
    return {**told, "source": renamed if isinstance(source, list) else renamed[0]}


def _plain(source: str) -> str:
    return source.replace("/", "__")


def _formats(step: Step, files: Mapping[str, Files]) -> dict[str, str]:
    """Formats that inputs ask for, which their files then have."""
    declared = named(step.tool.get("inputs"))
    return {
        _plain(name): told
        for name in files
        for parameter in step.sources[name]
        if isinstance(told := declared.get(parameter, {}).get("format"), str) and "$" not in told
    }


def _check_outputs(step: Step) -> None:
    for name in step.hints.output_paths:
        if name not in step.outputs:
            raise Invalid(f"hint output_paths: step {step.name} has no output '{name}'")


# --- requirements ----------------------------------------------------------------------------------------------
def _levels(step: Step, document: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Requirements and hints that hold for a step, outermost first."""
    levels = [(document.get("requirements"), document.get("hints"))]
    if step.written is not None:
        levels.append((step.written.get("requirements"), step.written.get("hints")))
        levels.append((step.tool.get("requirements"), step.tool.get("hints")))
    return levels


def _software(levels: list[tuple[Any, Any]]) -> str:
    """Name and version of the first package that a SoftwareRequirement names, the innermost."""
    for requirements, hints in reversed(levels):
        for level in (requirements, hints):
            told = by_class(level).get("SoftwareRequirement", {}).get("packages", {})
            packages = told.items() if isinstance(told, Mapping) else [(one["package"], one) for one in told]
            for name, one in packages:
                versions = one.get("version", []) if isinstance(one, Mapping) else []
                return " ".join([str(name), *map(str, versions[:1])])
    return ""


def _container(levels: list[tuple[Any, Any]]) -> str:
    """'needed' when a container is required, 'wanted' when it is hinted at, else nothing."""
    if any("DockerRequirement" in by_class(requirements) for requirements, _ in levels):
        return "needed"
    return "wanted" if any("DockerRequirement" in by_class(hints) for _, hints in levels) else ""
