"""CWL documents are read behind walls, and compiled to plans: or refused with the feature that is not supported."""

import subprocess
import sys
from typing import Any

import pytest
from tests.cwl.documents import ALL_BESIDE, CAT, GREP, HEAD, REFUSED, RUN, TWO_STEPS, tool

from lightkeeper.adapters.production_cwl import CwlProductions
from lightkeeper.cli.documents import AS_JOB
from lightkeeper.domain.errors import Invalid, NotFound
from lightkeeper.domain.work import ALL_FILES, ProductionPlan


def read(text: str, *inputs: str, beside: dict[str, str] = ALL_BESIDE) -> ProductionPlan:
    def sandbox(name: str) -> bytes:
        if name not in beside:
            raise NotFound(f"no file {name}")
        return beside[name].encode()

    return CwlProductions().read("\n---\n".join([text, *inputs]), sandbox=sandbox, dataset=lambda _: {})


def refused(text: str, *inputs: str) -> Invalid:
    with pytest.raises(Invalid) as error:
        read(text, *inputs)
    return error.value


def with_hints(**fields: Any) -> str:
    return CAT + f'hints: {{"dirac:ExecutionHooks": {fields}}}\n$namespaces: {{dirac: "https://dirac.invalid/#"}}\n'


# --- which language --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "is_cwl"),
    [(CAT, True), ('{"cwlVersion": "v1.2"}', True), ("ProdSteps: []\n", False), ("# cwlVersion: v1.2\nx: 1", False)],
)
def test_the_language_is_told_by_the_content(text: str, is_cwl: bool):
    assert CwlProductions().recognises(text) is is_cwl


# --- compiled --------------------------------------------------------------------------------------------------
@pytest.mark.feature("S1-004")
def test_hints_of_a_workflow_are_inherited_by_its_steps_field_by_field():
    document = TWO_STEPS.replace(
        "input_query: {data_level: 0}", "input_query: {data_level: 0}, priority: 12, sites: [PIC], group_size: 2"
    ).replace("out: [whole]}", 'out: [whole], hints: {"lightkeeper:Transformation": {sites: [DESY, PIC]}}}')
    find, join = read(document).steps
    assert (find.query, find.group_size, find.sites, find.priority) == ({"data_level": 0}, 2, ("PIC",), 3)
    assert (join.query, join.group_size, join.sites, join.priority) == ({"output": "lines"}, 2, ("DESY", "PIC"), 3)
    assert (find.parent, join.parent) == (None, 1)


def test_a_list_that_is_not_scattered_over_gathers_everything():
    assert [step.group_size for step in read(TWO_STEPS).steps] == [1, ALL_FILES]


def test_resources_are_what_a_pilot_must_have_and_inner_ones_overrule_outer_ones():
    inner = GREP.replace("baseCommand", "requirements: {ResourceRequirement: {coresMin: 2, ramMin: 3000}}\nbaseCommand")
    outer = TWO_STEPS.replace("requirements: {", "requirements: {ResourceRequirement: {coresMin: 8}, ", 1)
    find, join = read(outer, beside={**ALL_BESIDE, "grep.cwl": inner}).steps
    assert (find.processors, find.memory) == (2, 3000)
    assert (join.processors, join.memory) == (8, 0)


ASKS = (
    "requirements: {ResourceRequirement: {ramMin: 100, ramMax: 3000, tmpdirMax: 50, outdirMin: 10}, "
    "ToolTimeLimit: {timelimit: 90}}\n"
)
MAY = {"memory": 3000 * 1024**2, "disk": 60 * 1024**2}


def test_what_a_tool_reserves_at_the_most_is_what_its_jobs_may_use():
    (step,) = read(with_hints(input_query={"data_level": 0}) + ASKS).steps
    assert step.limits == MAY | {"wall_time": 150}  # its runner also begins and ends
    (endless,) = read(with_hints(input_query={"data_level": 0}) + ASKS.replace("90", "0")).steps
    assert endless.limits == MAY | {"wall_time": 0}
    assert read(TWO_STEPS).steps[0].limits == {}


def test_the_time_of_a_tool_that_a_job_runs_more_than_once_is_left_to_its_runner():
    steps = read(TWO_STEPS, beside={**ALL_BESIDE, "grep.cwl": GREP + ASKS}).steps
    assert steps[0].limits == MAY | {"wall_time": 0}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"group_sise": 2}, "unknown key 'group_sise'"),
        ({"group_size": 0}, "group_size"),
        ({"hook_plugin": "Mine"}, "no plug-in 'Mine'"),
        ({"input_query": {"a": 1}, "input_data": {"parts": []}}, "both input_query and input_data"),
        ({"output_paths": {"hole": "/x"}}, "has no output 'hole'"),
    ],
)
def test_hints_that_say_something_else_are_refused(fields: dict[str, Any], told: str):
    assert told in refused(with_hints(**({"input_query": {"data_level": 0}} | fields))).message


def test_static_files_and_a_configuration_do_not_exclude_each_other():
    (step,) = read(with_hints(input_data={"parts": ["/ctao/a/1"]}, configuration={"campaign": "D", "site": "X"})).steps
    assert step.files == ("/ctao/a/1",)
    assert step.body["outputs"]["whole"]["folder"] == "/grid/data/D/X"


def test_a_document_whose_files_nobody_names_is_refused():
    error = refused(CAT)
    assert "nothing says which files are input 'parts'" in error.message
    assert "input_query" in error.hint


@pytest.mark.parametrize("place", ["http://a.invalid/x", "file:///etc/passwd", "/etc/passwd", "../x", "ftp://x/y"])
def test_files_are_taken_from_the_catalogue_and_from_nowhere_else(place: str):
    assert refused(GREP, f"word: x\nfile: {{class: File, location: '{place}'}}\n{AS_JOB}").message


def test_files_below_cvmfs_are_used_where_they_are():
    (step,) = read(GREP, "word: x\nfile: {class: File, location: /cvmfs/sw/file.txt}").steps
    assert step.body["inputs"]["file"] == {"class": "File", "location": "file:///cvmfs/sw/file.txt"}
    assert step.without_input


@pytest.mark.parametrize("feature", REFUSED)
def test_what_is_not_supported_is_refused_by_its_name(feature: str):
    assert feature in refused(REFUSED[feature]).message


@pytest.mark.parametrize("kind", ["a list is taken apart", "a graph of several processes", "an expression tool"])
def test_a_document_that_is_one_job_has_one_step_without_input(kind: str):
    (step,) = read(RUN[kind], AS_JOB).steps
    assert (step.without_input, step.n_tasks, step.job_type) == (True, 1, "CWL")


def test_a_container_is_needed_when_it_is_required_and_wanted_when_it_is_hinted_at():
    docker = "DockerRequirement: {dockerPull: 'debian:12'}"
    plain = tool("baseCommand: x\ninputs: {}\noutputs: {}\n")
    (needed,) = read(plain + f"requirements: {{{docker}}}\n").steps
    (wanted,) = read(plain + f"hints: {{{docker}}}\n").steps
    assert (needed.body["container"], needed.tags) == ("needed", ("container",))
    assert (wanted.body["container"], wanted.tags) == ("wanted", ())


# --- invalid ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (CAT.replace("File[]", "Fil[]"), "Fil"),
        (CAT.replace("baseCommand", "baseComand"), "baseComand"),
        (TWO_STEPS.replace("word: word", "word: wrod"), "wrod"),
        (TWO_STEPS.replace("find/lines", "find/line"), "line"),
        (CAT.replace("v1.2", "v9"), "cwlVersion 'v9'"),
        (HEAD + "class: CommandLineTool\n  x: [", "not YAML"),
        (TWO_STEPS.replace("grep.cwl", "gone.cwl"), "no file 'gone.cwl' beside"),
    ],
)
def test_a_document_that_is_not_valid_is_refused_with_what_is_wrong(wrong: str, told: str):
    assert told in refused(wrong).message


# --- hostile ---------------------------------------------------------------------------------------------------
BOMB = HEAD + "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)  # fmt: skip


@pytest.mark.parametrize(
    "hostile",
    [
        tool("baseCommand: x\ninputs: {$import: /etc/passwd}\noutputs: {}\n"),
        tool("baseCommand: x\ninputs: {$import: 'file:///etc/passwd'}\noutputs: {}\n"),
        tool("baseCommand: x\ninputs: {}\noutputs: {}\ndoc: {$include: 'http://169.254.169.254/latest'}\n"),
        tool("baseCommand: x\ninputs: {}\noutputs: {}\ndoc: {$include: '../../../etc/shadow'}\n"),
        tool("baseCommand: x\ninputs: {$mixin: a.cwl, x: int}\noutputs: {}\n"),
        TWO_STEPS.replace("grep.cwl", "https://evil.invalid/tool.cwl"),
        TWO_STEPS.replace("grep.cwl", "/etc/hosts"),
        BOMB,
        HEAD + "x: " + "[" * 20_000,
        HEAD + "x: &x {y: *x}\n",
        HEAD + "class: !!python/object/apply:os.system ['touch /tmp/owned']\n",
        HEAD + "doc: " + "x" * 1_100_000,
    ],
    ids=["import", "import-url", "include-http", "include-up", "mixin", "run-https", "run-path", "bomb", "deep", "self",
         "python", "long"],
)  # fmt: skip
@pytest.mark.feature("S1-004")
def test_a_hostile_document_is_refused_in_a_sentence(hostile: str):
    error = refused(hostile)
    assert len(error.message) < 800


def test_expressions_are_text_until_a_job_runs_them():
    evil = "${require('fs').writeFileSync('/tmp/owned', 'x'); return 1;}"
    (step,) = read(
        tool(
            "requirements: {InlineJavascriptRequirement: {}}\nbaseCommand: echo\ninputs: {}\noutputs: {}\n"
            f'arguments: ["{evil}"]\n'
        )
    ).steps
    assert evil in step.body["cwl"]


def test_a_process_that_reads_a_document_can_open_no_file_and_reach_nobody():
    script = """
import os, socket, subprocess, lightkeeper.adapters.cwl_check as c
c._limit(); c._lock()
for attempt in (lambda: open('/etc/hosts'), lambda: open('/tmp/x', 'w'), lambda: os.system('true'),
                lambda: socket.create_connection(('127.0.0.1', 1)), lambda: subprocess.run(['true'])):
    try:
        attempt()
    except c.Wrong as wrong:
        print(wrong.message)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 5, done.stderr
