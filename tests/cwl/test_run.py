"""CWL documents run: steps as transformations, tools and workflows as jobs, by cwltool on real pilots."""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.cwl.documents import ALL_BESIDE, CAT, HEAD, RUN, TWO_STEPS, tool

from lightkeeper.app import make_log
from lightkeeper.cli.documents import AS_JOB
from lightkeeper.client import Client
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings

TOPOLOGY = """
version: 1
sites:
  North: {computing: {executor: local, pilots: 2}}
storages:
  north: {site: North, root: "ROOT"}
"""
LINES = "dark\nlight and dark\nlight\n"
RAW = [f"/ctao/raw/n{n}.txt" for n in range(3)]


@dataclass
class Here:
    """A running instance, and short words for what tests do with it."""

    client: Client
    root: Path

    def run(self, name: str, document: str, *inputs: str) -> list[dict[str, Any]]:
        """Submit, and wait until it is over; its transformations."""
        self.client.submit(name, "\n---\n".join([document, *inputs]), ALL_BESIDE)
        self.until(lambda: next(p for p in self.client.productions() if p["name"] == name)["state"] == "Completed")
        return self.client.transformations(name)

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 100
        while not done():
            failed = [job["application_status"] for job in self.client.jobs() if job["status"] == "Failed"]
            assert not failed, failed
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def made(self, name: str, output: str) -> dict[str, str]:
        """Contents of what a production made as `output`, by the last part of its name."""
        ids = {str(t["id"]) for t in self.client.transformations(name)}
        found = [f["lfn"] for f in self.client.files({"output": output})]
        mine = [lfn for lfn in found if lfn.split("/")[-3] in ids]
        return {lfn.rpartition("/")[2]: (self.root / lfn[1:]).read_text() for lfn in mine}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    home = tmp_path_factory.mktemp("cwl")
    root = home / "north"
    root.mkdir()
    programs = home / "lamp-1.0" / "bin"
    programs.mkdir(parents=True)
    (programs / "lamp").write_text("#!/bin/sh\necho bright\n")
    (programs / "lamp").chmod(0o755)
    software = {"lamp 1.0": f"venv:{programs.parent}", "lamp 2.0": "container:example.org/lamp:2"}
    settings = Settings(home=home, port=0, heartbeat=1, pilot_idle=20, retry_after=0.2, software=software)
    with (
        Instance(settings, log=make_log(settings)) as instance,
        Client(instance.url, (home / "run" / "operator.token").read_text()) as client,
    ):
        client.apply(TOPOLOGY.replace("ROOT", str(root)))
        for n, lfn in enumerate(RAW):
            content = f"{LINES}light {n}\n".encode()
            meta = {"data_level": 0, "particle": "gamma"}
            client.put_content(lfn, "north", [content], len(content), hashlib.sha256(content).hexdigest(), meta)
        yield Here(client, root)


@pytest.mark.feature("S1-004")
def test_a_workflow_is_a_production_and_its_steps_are_transformations(here: Here):
    find, join = here.run("two-steps", TWO_STEPS)
    assert (find["name"].partition("_")[2], find["tasks"], find["outputs"]) == ("Step1_find", 3, 3)
    assert (join["name"].partition("_")[2], join["tasks"], join["outputs"]) == ("Step2_join", 1, 1)
    (whole,) = here.made("two-steps", "whole").values()
    assert sorted(whole.splitlines()) == sorted(
        line for n in range(3) for line in ["light and dark", "light", f"light {n}"]
    )
    (lfn,) = [f["lfn"] for f in here.client.files({"output": "whole"}) if "/joined/" not in f["lfn"]]
    story = str(here.client.why(lfn))
    assert all(raw in story for raw in RAW)


def test_what_is_left_below_the_size_of_a_group_is_not_dropped(here: Here):
    hint = (
        '{"dirac:ExecutionHooks": {input_query: {data_level: 0}, group_size: 2, output_paths: {whole: /ctao/joined}}}'
    )
    (one,) = here.run("groups", f"{CAT}hints: {hint}\n$namespaces: {{dirac: 'https://dirac.invalid/#'}}\n")
    assert (one["tasks"], one["files"], one["processed"]) == (2, 3, 3)
    assert all(
        f["lfn"].startswith("/ctao/joined/") for f in here.client.files({"output": "whole"}) if "joined" in f["lfn"]
    )
    assert len(here.made("groups", "whole")) == 1  # two tasks, one name, two directories
    assert len([f for f in here.client.files({"output": "whole"}) if "/ctao/joined/" in f["lfn"]]) == 2


def test_files_of_the_catalogue_are_named_by_lfn_and_each_object_of_inputs_is_a_job(here: Here):
    objects = [
        f"word: light\nfile: {{class: File, location: 'lfn:{RAW[0]}'}}\n{AS_JOB}",
        f"word: dark\nfile: 'lfn:{RAW[1]}'\n{AS_JOB}",
    ]
    steps = here.run("named", ALL_BESIDE["grep.cwl"], *objects)
    assert [step["tasks"] for step in steps] == [1, 1]
    assert here.made("named", "lines") == {
        "n0.txt.lines": "light and dark\nlight\nlight 0\n",
        "n1.txt.lines": "dark\nlight and dark\n",
    }


def test_a_file_that_an_earlier_step_makes_goes_to_every_job_of_a_later_one(here: Here):
    document = (
        HEAD
        + """class: Workflow
requirements: {ScatterFeatureRequirement: {}}
hints: {"lightkeeper:Transformation": {input_query: {data_level: 0}}}
inputs: {raw: "File[]"}
steps:
  teach: {run: cat.cwl, in: {parts: raw}, out: [whole]}
  apply: {run: pair.cwl, scatter: a, in: {a: raw, b: first/o}, out: [o]}
  first: {run: copy.cwl, in: {f: teach/whole}, out: [o]}
outputs: {}
"""
    )
    done = {t["name"].partition("_")[2]: t for t in here.run("companion", document)}
    assert {name: (t["tasks"], t["outputs"]) for name, t in done.items()} == {
        "Step1_teach": (1, 1),
        "Step2_first": (1, 1),
        "Step3_apply": (3, 3),
    }


def test_documents_of_many_kinds_run_as_jobs(here: Here):
    names = {kind: f"kind-{n}" for n, kind in enumerate(RUN)}
    for kind, name in names.items():
        here.client.submit(name, f"{RUN[kind]}\n---\n{AS_JOB}", ALL_BESIDE)
    here.until(lambda: all(p["state"] == "Completed" for p in here.client.productions()))
    assert here.made(names["a list is taken apart"], "out") == {"out.txt": "-w a b\n"}
    assert here.made(names["an expression of parameters"], "out") == {"n3.txt": "3 1"}
    assert here.made(names["a shell"], "out") == {"made.txt": "b\n"}
    assert here.made(names["javascript"], "out") == {"double.txt": "6\n"}
    assert here.made(names["an environment and a folder that is made before"], "out") == {"out.txt": "word\nbright\n"}
    assert here.made(names["a record and an enumeration"], "out") == {"out.txt": "gamma -n 4\n"}
    assert here.made(names["success codes"], "out") == {"out.txt": "x\n"}
    assert here.made(names["an older version"], "out") == {"out.txt": "old\n"}
    assert here.made(names["a workflow within a workflow, as one job"], "text") == {"said.txt": "3\n"}
    assert here.made(names["a graph of several processes"], "texts") == {"x.txt": "x\n", "y.txt": "y\n"}
    kinds = here.client.transformations(names["outputs of several kinds"])
    assert kinds[0]["outputs"] == 3


def test_a_container_that_is_needed_fails_where_there_is_no_engine_and_one_that_is_wanted_does_not(here: Here):
    document = tool("baseCommand: [echo, x]\ninputs: {}\noutputs: {out: stdout}\nstdout: out.txt\n")
    wanted = document + "hints: {DockerRequirement: {dockerPull: 'debian:12'}}\n"
    assert here.run("wanted", wanted, AS_JOB)[0]["outputs"] == 1


def test_software_is_found_where_it_is_declared_to_be_and_that_is_recorded(here: Here):
    document = tool("baseCommand: lamp\ninputs: {}\noutputs: {out: stdout}\nstdout: lamp.txt\n")
    hint = 'hints: {SoftwareRequirement: {packages: {lamp: {version: ["1.0"]}}}}\n'
    assert here.run("lamp", document + hint, AS_JOB)[0]["outputs"] == 1
    assert here.made("lamp", "out") == {"lamp.txt": "bright\n"}
    (lfn,) = [f["lfn"] for f in here.client.files({"output": "out"}) if f["lfn"].endswith("/lamp.txt")]
    assert "lamp-1.0" in str(here.client.why(lfn))


def test_nothing_is_broken_afterwards(here: Here):
    assert here.client.fsck(read_bytes=True)["violations"] == []
