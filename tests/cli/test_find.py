"""find and metadata as a user types them: plain names to pipe, JSON for programs, errors with the place and a hint."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from lightkeeper.app import make_log
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings
from lightkeeper.steps import ingest, watch
from lightkeeper_ctao.demo import CtaoDemonstration
from lightkeeper_ctao.simulate import simulate_night


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An instance with a night, on which nothing runs by itself."""
    home = tmp_path_factory.mktemp("find")
    settings = Settings(home=home, port=0, trigger_patience=0)
    with Instance(settings, work=False, log=make_log(settings)) as instance:
        document, roots = CtaoDemonstration().topology(home)
        for root in roots:
            root.mkdir(parents=True)
        (home / "topology.yaml").write_text(document)
        cli(home, 0, "apply", str(home / "topology.yaml"))
        simulate_night(home / "storage/LaPalma-onsite", night=date(2026, 3, 14), observations=1, events=4)
        watch.scan(instance.context)
        while ingest.register_accepted(instance.context):
            pass
        yield home


def cli(home: Path, status: int, *arguments: str) -> str:
    """Run a command; the exit status it must end with comes first. Answers of a success, else what it complained."""
    ran = subprocess.run(
        [sys.executable, "-m", "lightkeeper", "--home", str(home), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == status, ran.stdout + ran.stderr
    assert bool(ran.stderr) is bool(status), ran.stderr
    return ran.stderr if status else ran.stdout


def test_find_prints_one_name_on_each_line(home: Path):
    names = cli(home, 0, "find", "data_level = 0").splitlines()
    assert len(names) > 3
    assert all(name.startswith("/") for name in names)
    assert cli(home, 0, "find").splitlines() == names
    assert cli(home, 0, "file", "list", '{"data_level": 0}').splitlines() == names
    assert cli(home, 0, "find", '{"key": "data_level", "op": "in", "value": [0, 1]}').splitlines() == names
    assert cli(home, 0, "find", "--at", "LaPalma-onsite", "--limit", "2").splitlines() == names[:2]
    assert cli(home, 0, "find", "--sort", "-name").splitlines() == sorted(
        names, key=lambda name: name.rpartition("/")[2], reverse=True
    )
    assert cli(home, 0, "find", "data_level > 5") == ""


def test_find_counts_and_measures(home: Path):
    n = len(cli(home, 0, "find").splitlines())
    assert cli(home, 0, "find", "--count") == f"{n}\n"
    count, size = cli(home, 0, "find", "name like 'TEL*' and copies >= 1", "--count", "--size").splitlines()
    assert 0 < int(count) <= n
    assert size.endswith("B")
    assert json.loads(cli(home, 0, "find", "--count", "--json"))["files"] == n


def test_find_json_is_one_object_on_each_line(home: Path):
    lines = cli(home, 0, "find", '"site" = "CTAO-North"', "--json")
    assert lines
    for line in lines.splitlines():
        file = json.loads(line)
        assert file["meta"]["site"] == "CTAO-North"
        assert len(file["sha256"]) == 64


def test_find_explains(home: Path):
    told = cli(home, 0, "find", "data_level = 0 and size < 1GB", "--explain")
    assert "query: data_level = 0 and size < 1GB" in told
    assert "set-level conditions leave" in told
    assert json.loads(cli(home, 0, "find", "data_level = 0", "--explain", "--json"))["json"]["key"] == "data_level"


@pytest.mark.parametrize(
    ("query", "message", "hint"),
    [
        ("data_levl = 0", "query, position 1: unknown metadata key 'data_levl'", "did you mean 'data_level'?"),
        ("thetaP < 40rad", "position 10: metadata key 'thetaP' is in 'deg'", ""),
        ("data_level = 0 and", "position 19: expected a metadata key", ""),
        ("site = CTAO-North", "site 'CTAO-North' does not exist", '"site"'),
        ('{"data_levl": 0}', "unknown metadata key 'data_levl'", "did you mean 'data_level'?"),
        ("{data_level: 0}", "begins with a brace but is not JSON", "as text: data_level = 0"),
    ],
)
def test_a_query_that_cannot_be_is_refused_with_the_place(home: Path, query: str, message: str, hint: str):
    said = " ".join(cli(home, 2, "find", query).split())
    assert message in said
    assert hint in said


def test_options_that_contradict_each_other_are_refused(home: Path):
    assert "leave out --limit" in cli(home, 2, "find", "--count", "--limit", "3")
    assert "cannot be sorted by 'nam'" in cli(home, 2, "find", "--sort", "nam")
    assert "storage 'Nowhere' does not exist" in cli(home, 2, "find", "--at", "Nowhere")


def test_metadata_keys_are_defined_listed_and_shown(home: Path):
    define = ("metadata", "define", "wind", "--type", "float", "--unit", "m/s", "--level", "file")
    assert cli(home, 0, *define) == "wind: new\n"
    assert cli(home, 0, *define) == "wind: unchanged\n"
    assert cli(home, 0, *define, "--description", "10 minutes mean") == "wind: changed\n"
    listed = {key["name"]: key for key in json.loads(cli(home, 0, "metadata", "list", "--json"))}
    assert listed["wind"]["unit"] == "m/s"
    assert "10 minutes mean" in cli(home, 0, "metadata", "list")
    shown = json.loads(cli(home, 0, "metadata", "show", "data_level", "--json"))
    assert (shown["type"], shown["level"], shown["examples"]) == ("int", "set", [0])
    assert shown["sets"] >= 1
    assert "data_level" in cli(home, 0, "metadata", "show", "data_level")
    assert cli(home, 0, "find", "wind < 10m/s") == ""


def test_metadata_keys_that_cannot_be_are_refused(home: Path):
    assert "is in use as set int" in cli(home, 4, "metadata", "define", "data_level", "--type", "string")
    assert "did you mean 'float'?" in cli(home, 2, "metadata", "define", "x", "--type", "flot")
    assert "did you mean 'file'?" in cli(home, 2, "metadata", "define", "x", "--type", "int", "--level", "fil")
    assert "is not a name for a metadata key" in cli(home, 2, "metadata", "define", "a b", "--type", "int")
    assert "did you mean 'data_level'?" in cli(home, 3, "metadata", "show", "data_levl")
