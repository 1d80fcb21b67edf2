"""Productions written in CWL: a CommandLineTool is a transformation, a Workflow a production of its steps.

The document is read in a process of its own (cwl_check.py) and then compiled to the same plan as every production. Each
step becomes a small document that cwltool runs in a job: the workflow with this step alone, so that its scatter, its
expressions and its defaults mean what they mean in CWL. What flows between steps are files: each step takes those that
an earlier one made. A document may also be one step, run as it is, once for each object of inputs.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from lightkeeper.adapters.cwl_compile import compile_step
from lightkeeper.adapters.cwl_document import FILE, as_list, check_supported, local, named, shape
from lightkeeper.adapters.cwl_hints import Hints, hints_of
from lightkeeper.adapters.cwl_step import Files, Step, Value
from lightkeeper.domain.errors import Invalid, LightkeeperError, NotFound, Unavailable
from lightkeeper.domain.work import PlannedStep, ProductionPlan

MAX_DOCUMENT = 1_000_000
MAX_TEXTS = 5_000_000
PATIENCE = 60.0
MARK = re.compile(r"""^\s*[{]?\s*["']?cwlVersion["']?\s*:""", re.MULTILINE)
NAMED = re.compile(r"""["']?(?:run|\$import|\$include)["']?[ \t]*:[ \t]*["']?(?:\./)?([A-Za-z0-9][A-Za-z0-9._-]*)""")

AS = "lightkeeper:as"
"""With the value 'job' in an object of inputs, the document is not split into its steps."""

Sandbox = Callable[[str], bytes]


class CwlProductions:
    """Reads CWL, from v1.0 to v1.2."""

    def recognises(self, text: str) -> bool:
        """Every document of CWL says its version."""
        return MARK.search(text) is not None

    def read(
        self,
        text: str,
        *,
        sandbox: Sandbox,
        dataset: Callable[[str], Mapping[str, Any]],
        single_jobs: bool = False,
    ) -> ProductionPlan:
        """The plan of the document, once for each object of inputs that follows it behind a line `---`; raises
        Invalid. See ports.WorkflowReader."""
        first, *others = [part for part in re.split(r"(?m)^---[ \t]*$", text) if part.strip()]
        document = _checked(first, sandbox)
        check_supported(document)
        objects = [_input_object(one) for one in others] or [{}]
        whole = "job" in [one.pop(AS, "") for one in objects]
        steps: list[PlannedStep] = []
        warnings: list[str] = []
        for given in objects:
            for step in _steps(document, whole):
                if step.hints.dataset is not None:
                    dataset(step.hints.dataset)
            planned, told = _Compiler(document, given, sandbox, whole, single_jobs).plan(first=len(steps) + 1)
            steps += planned
            warnings += [warning for warning in told if warning not in warnings]
        name = local(document.get("id", "")) or str(document.get("label", "")) or "cwl"
        return ProductionPlan(tuple(steps), re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:60], tuple(warnings))


# --- reading ---------------------------------------------------------------------------------------------------
def _checked(text: str, sandbox: Sandbox) -> Mapping[str, Any]:
    """The document as one, found valid by a process that can do nothing else."""
    if len(text) > MAX_DOCUMENT:
        raise Invalid(f"the document has {len(text)} characters; at most {MAX_DOCUMENT} are read")
    given = json.dumps({"document": text, "files": _beside(text, sandbox)})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lightkeeper.adapters.cwl_check"],
            input=given,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        )
    except subprocess.TimeoutExpired:
        raise Invalid(f"reading the document takes more than {PATIENCE:.0f} s, which no honest one does") from None
    if "No module named 'cwltool'" in done.stderr:
        raise Unavailable("cwltool, which reads CWL, is not installed here", hint="pip install 'lightkeeper[cwl]'")
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Invalid(f"the document could not be read (exit code {done.returncode}): {last[:300]}") from None
    if "error" in answer:
        raise Invalid(answer["error"], hint=answer["hint"])
    return answer["packed"]


def _beside(text: str, sandbox: Sandbox) -> dict[str, str]:
    """The files beside the document that it names, and those that they name."""
    texts: dict[str, str] = {}
    wanted = NAMED.findall(text)
    while wanted:
        name = wanted.pop()
        if name in texts:
            continue
        try:
            texts[name] = sandbox(name).decode()
        except NotFound:
            continue  # whoever names it is told where
        except UnicodeDecodeError:
            raise Invalid(f"{name} is not a text in UTF-8") from None
        if sum(map(len, texts.values())) > MAX_TEXTS:
            raise Invalid(f"the document and what it names have more than {MAX_TEXTS} characters")
        wanted += NAMED.findall(texts[name])
    return texts


def _input_object(text: str) -> dict[str, Any]:
    """An object of inputs, YAML or JSON."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if len(text) > MAX_DOCUMENT or re.search(r"(^|[\s\[{,:-])[&*][A-Za-z0-9_]", text):
        raise Invalid("the inputs are too long, or use YAML anchors or aliases (&name, *name)")
    try:
        found: Any = YAML(typ="safe", pure=True).load(text)  # pyright: ignore[reportUnknownMemberType]
    except (YAMLError, ValueError, RecursionError) as error:
        raise Invalid(f"the inputs are not YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(found, dict):
        raise Invalid("the inputs must be a map: the name of an input and its value")
    return cast("dict[str, Any]", found)


# --- steps -----------------------------------------------------------------------------------------------------
def _steps(document: Mapping[str, Any], whole: bool) -> list[Step]:
    """The steps of a workflow, or the document as the only one."""
    if whole or document["class"] != "Workflow":
        name = local(document.get("id", "")) or "job"
        return [Step.whole(name, document, hints_of(document.get("hints")))]
    return [
        Step.of_workflow(name, step, document, _hints(document, step))
        for name, step in named(document.get("steps")).items()
    ]


def _hints(document: Mapping[str, Any], step: Mapping[str, Any]) -> Hints:
    return hints_of(document.get("hints"), step["run"].get("hints"), step.get("hints"))


@dataclass(frozen=True, slots=True)
class _Made:
    """What a planned step makes: its number, and whether it may be more than one file of each output."""

    number: int
    many: bool
    step: Step


class _Compiler:
    """Compiles one document with one object of inputs."""

    def __init__(
        self,
        document: Mapping[str, Any],
        given: Mapping[str, Any],
        sandbox: Sandbox,
        whole: bool,
        single_jobs: bool = False,
    ) -> None:
        self._document, self._given, self._sandbox, self._single_jobs = document, given, sandbox, single_jobs
        self._inputs = named(document.get("inputs"))
        self._steps = {step.name: step for step in _steps(document, whole)}
        for name in given:
            if name not in self._inputs and name not in ("cwl:tool", "cwl:requirements"):
                raise Invalid(f"the inputs name '{name}', which the document does not have",
                              hint=f"its inputs are {', '.join(self._inputs)}")  # fmt: skip

    def plan(self, first: int) -> tuple[list[PlannedStep], list[str]]:
        """The steps as transformations, numbered from `first`, and warnings."""
        made: dict[str, _Made] = {}
        planned: list[PlannedStep] = []
        warnings: list[str] = []
        for number, step in enumerate(self._in_order(), first):
            sources = {name: self._source(step, name, made) for name in step.sources}
            one, many, told = compile_step(number, step, sources, self._document, self._single_jobs)
            planned.append(one)
            warnings += told
            made[step.name] = _Made(number, many, step)
        return planned, warnings

    def _in_order(self) -> list[Step]:
        """Parents before children."""
        left, ordered = dict(self._steps), list[Step]()
        while left:
            ready = [step for step in left.values() if not step.parents & left.keys()]
            if not ready:
                raise Invalid(f"the steps {', '.join(left)} wait for each other")
            for step in ready:
                ordered.append(left.pop(step.name))
        return ordered

    # --- where something comes from
    def _source(self, step: Step, name: str, made: Mapping[str, _Made]) -> Files | Value:
        parent, _, output = name.rpartition("/")
        if parent:
            return self._from_step(step, made[parent], output)
        declared = self._inputs[name]
        kind = shape(declared["type"])
        if kind.hidden:
            raise Invalid(f"CWL feature 'files within records' is not supported: input '{name}'")
        if kind.is_file:
            return self._files(step, name, declared)
        if name in self._given:
            return Value(declared["type"], self._given[name], True)
        if kind.base != "other" and not kind.optional and "default" not in declared:
            raise Invalid(f"CWL feature 'input of type Directory' is not supported: input '{name}'")
        if not kind.optional and "default" not in declared:
            raise Invalid(
                f"input '{name}' has no value", hint="give it with --inputs FILE, as a line of YAML: name: value"
            )
        return Value(declared["type"], declared.get("default"), "default" in declared)

    def _from_step(self, step: Step, parent: _Made, output: str) -> Files | Value:
        kind = parent.step.outputs[output]
        if not kind.is_file:
            raise Invalid(
                f"step {step.name}: what flows between steps must be files, and '{parent.step.name}/{output}' is none",
                hint="run the document as one job: lightkeeper job submit",
            )
        many = parent.many or kind.depth > 0
        return Files(kind.depth, many, parent=parent.number, query={"output": output})

    def _files(self, step: Step, name: str, declared: Mapping[str, Any]) -> Files | Value:
        kind = shape(declared["type"])
        if declared.get("secondaryFiles"):
            raise Invalid(f"CWL feature 'secondaryFiles of an input' is not supported: input '{name}'")
        if name in self._given or name in step.hints.input_data or "default" in declared:
            told = self._given.get(name, step.hints.input_data.get(name, declared.get("default")))
            if name in step.hints.input_data and name not in self._given:
                return Files(kind.depth, True, files=tuple(_lfn(name, one) for one in told))
            return self._told_files(name, declared, told)
        if step.hints.says_inputs:
            return Files(kind.depth, True, query=step.hints.input_query, dataset=step.hints.dataset)
        if kind.optional:
            return Value(declared["type"], None, False)
        raise Invalid(
            f"nothing says which files are input '{name}'",
            hint="a hint dirac:ExecutionHooks with input_query, or --inputs FILE with lfn:/… in it",
        )

    def _told_files(self, name: str, declared: Mapping[str, Any], told: Any) -> Files | Value:
        """Files that are named: those of the catalogue by lfn:, and others that lie where the job runs."""
        kind = shape(declared["type"])
        each = as_list(told)
        places = [_place(name, one) for one in each]
        if not each or all(not place.startswith("lfn:") for place in places):
            texts = {place: self._text(name, place) for place in places if not place.startswith("/cvmfs/")}
            laid = [{"class": FILE, "location": f"file://{p}" if p.startswith("/") else p} for p in places]
            return Value(declared["type"], laid if isinstance(told, list) else laid[0], True, texts)
        files = tuple(_lfn(name, place) for place in places)
        return Files(kind.depth, kind.depth > 0, files=files, all_at_once=True)

    def _text(self, name: str, place: str) -> str:
        try:
            return self._sandbox(place).decode()
        except (LightkeeperError, UnicodeDecodeError):
            raise Invalid(
                f"input '{name}': '{place}' is neither a text file beside the document nor a file of the catalogue",
                hint="name a file of the catalogue like lfn:/ctao/…",
            ) from None


def _place(name: str, told: Any) -> str:
    """Where a file of the inputs lies."""
    if isinstance(told, Mapping):
        file = cast("Mapping[str, Any]", told)
        told = file.get("location", file.get("path"))
    if not isinstance(told, str):
        raise Invalid(f"input '{name}': a file is needed, by its location", hint="{class: File, location: lfn:/ctao/…}")
    if re.match(r"lfn:", told, re.IGNORECASE):
        return "lfn:" + told[4:]
    if told.startswith(("/cvmfs/", "file:///cvmfs/")):
        return told.removeprefix("file://")
    if re.match(r"[a-z]+://|/", told):
        raise Invalid(
            f"input '{name}': '{told[:200]}' is not fetched", hint="files are of the catalogue (lfn:/…) or below /cvmfs"
        )
    return told.removeprefix("./")


def _lfn(name: str, place: str) -> str:
    found = re.sub(r"^lfn:(//)?", "", place, flags=re.IGNORECASE)
    if not found.startswith("/"):
        raise Invalid(f"input '{name}': '{place[:200]}' is no logical name", hint="like lfn:/ctao/…")
    return found
