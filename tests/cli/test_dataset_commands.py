"""dataset … as a user types it: exit status, what is said, and what changed."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.cli.typed import run
from tests.conftest import SilentLog

from lightkeeper.client import Client
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings
from lightkeeper.steps import audit, topology

TOPOLOGY = """
version: 1
sites: {North: {}, South: {}}
storages:
  north: {site: North, root: "ROOT/north"}
  south: {site: South, root: "ROOT/south"}
"""

Cli = Callable[..., str]


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance with 24 files of two particles, on which nothing runs by itself."""
    home = tmp_path_factory.mktemp("datasets")
    for name in ("north", "south"):
        (home / name).mkdir()
    settings = Settings(home=home, port=0)
    with Instance(settings, work=False, log=SilentLog()) as instance:
        topology.apply(instance.context, TOPOLOGY.replace("ROOT", str(home)))
        with api(instance) as client:
            client.register(
                (
                    {"lfn": f"/ctao/sim/{particle}/run{n:02}",
                     "meta": {"particle": particle, "thetaP": theta, "data_level": 0}}
                    for particle in ("gamma", "proton") for theta in (20, 40) for n in range(theta, theta + 6)
                ),
                virtual=True,
            )  # fmt: skip
        yield instance
        assert audit.fsck(instance.context).violations == []


def api(instance: Instance) -> Client:
    return Client(instance.url, (instance.settings.home / "run/operator.token").read_text())


@pytest.fixture
def cli(instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Type a command; the exit status it must end with comes first. Datasets are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    yield partial(run, instance.settings.home)
    with api(instance) as client:
        for one in client.datasets():
            client.remove_dataset(one["name"])


@pytest.mark.feature("S0-071", "S3-072")
def test_a_dataset_is_created_listed_and_never_twice(cli: Cli):
    create = ("dataset", "create", "gammas", 'particle = "gamma"')
    names = cli(0, *create, "--dry-run").splitlines()
    assert (names[0], names[-1]) == ("/ctao/sim/gamma/run20", "gammas would hold 12 files, 0 B")
    assert cli(0, "dataset", "list") == "no dataset: lightkeeper dataset create NAME QUERY\n"
    assert cli(0, *create, "--description", "signal [1]") == "gammas holds 12 files, 0 B\n"
    assert "conflict: there is a dataset 'gammas' already" in cli(4, *create)
    assert "did you mean 'particle'?" in cli(2, "dataset", "create", "x", "particel = gamma")
    assert "is not a name for a dataset" in cli(2, "dataset", "create", "a b", "data_level = 0")
    assert "needs a name and a query" in cli(2, "dataset", "create", "x")
    assert "needs a condition" in cli(2, "dataset", "create", "x", "")
    assert json.loads(cli(0, "dataset", "create", "y", "data_level = 9", "--json")) == [
        {"name": "y", "files": 0, "bytes": 0}
    ]
    assert [one["name"] for one in json.loads(cli(0, "dataset", "list", "--json"))] == ["gammas", "y"]


@pytest.mark.feature("S0-072")
def test_datasets_are_shown_by_name_wildcard_list_and_pipe(cli: Cli, tmp_path: Path):
    for particle in ("gamma", "proton"):
        for theta in (20, 40):
            query = f"particle = {particle} and thetaP = {theta}"
            cli(0, "dataset", "create", f"/ctao/{particle}/deg{theta}", query)
    table = cli(0, "dataset", "list").splitlines()
    assert table[0].split() == ["name", "status", "files", "bytes"]
    assert [line.split()[:3] for line in table[1:]] == [
        [f"/ctao/{particle}/deg{theta}", "Dynamic", "6"] for particle in ("gamma", "proton") for theta in (20, 40)
    ]
    told = cli(0, "dataset", "show", "gamma/deg20")
    assert 'particle = "gamma" and thetaP = 20.0' in told
    assert "6" in told
    assert len(cli(0, "dataset", "list", "deg2?").splitlines()) == 3
    assert len(cli(0, "dataset", "show", "/ctao/gamma/*", "proton/deg20").splitlines()) == 4
    (tmp_path / "list").write_text("# mine\n\n/ctao/gamma/deg20\nproton/*\n")
    shown = json.loads(cli(0, "dataset", "show", "@list", "--json"))
    assert [one["name"] for one in shown] == ["/ctao/gamma/deg20", "/ctao/proton/deg20", "/ctao/proton/deg40"]
    shown = json.loads(cli(0, "dataset", "show", "-", "--json", stdin="/ctao/proton/*\n"))
    assert [one["name"] for one in shown] == ["/ctao/proton/deg20", "/ctao/proton/deg40"]
    assert "thetaP = 40" in cli(0, "dataset", "list", "--long", "*deg40")
    assert "may be any of 2 datasets" in cli(4, "dataset", "show", "deg20")
    assert "did you mean" in cli(3, "dataset", "show", "/ctao/gamma/deg21")
    assert "no dataset matches" in cli(3, "dataset", "show", "none*")
    assert cli(0, "dataset", "list", "none*").startswith("no dataset")
    assert "there is no file nolist" in cli(2, "dataset", "list", "@nolist")


@pytest.mark.feature("S0-073", "S0-074")
def test_a_dump_and_the_usage_of_a_dataset(cli: Cli, tmp_path: Path):
    (tmp_path / "sky.txt").write_text("stars")
    put = ("file", "put", "sky.txt", "--meta", "data_level=5", "--at", "north", "--to")
    cli(0, *put, "/ctao/user/maria/a")
    cli(0, *put, "/ctao/user/maria/b")
    cli(0, "dataset", "create", "sky", "data_level = 5")
    lines = "/ctao/user/maria/a/sky.txt\n/ctao/user/maria/b/sky.txt\n"
    assert cli(0, "dataset", "dump", "sky") == lines
    assert cli(0, "dataset", "dump", "sky", "--to", "sky.list") == "2 files in sky.list\n"
    assert (tmp_path / "sky.list").read_text() == lines
    assert cli(0, "dataset", "usage", "sky").splitlines()[1].split() == ["north", "North", "2", "10", "B"]
    assert json.loads(cli(0, "dataset", "usage", "sky", "--json")) == [
        {"storage": "north", "site": "North", "files": 2, "bytes": 10}
    ]
    assert "no dataset 'sjy'" in cli(3, "dataset", "dump", "sjy", "--to", "sjy.list")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["sky.list", "sky.txt"]
    assert "no dataset" in cli(3, "dataset", "usage", "sjy")
    assert cli(0, "dataset", "usage", "sky") != ""
    cli(0, "dataset", "create", "virtual", "particle = gamma")
    assert cli(0, "dataset", "usage", "virtual") == "no copy anywhere\n"


def test_a_dataset_is_frozen_updated_and_released(cli: Cli):
    cli(0, "dataset", "create", "d", "particle = gamma")
    assert cli(0, "dataset", "freeze", "d") == "d is Frozen: 12 files, 0 B\n"
    told = json.loads(cli(0, "dataset", "freeze", "d", "--json"))
    assert (told["status"], len(told["digest"])) == ("Frozen", 64)
    assert cli(0, "dataset", "update", "d") == "d: 12 files, 0 B, as its counters said\n"
    assert "Frozen" in cli(0, "dataset", "list")
    assert told["digest"] in cli(0, "dataset", "show", "d")
    assert cli(0, "find", "dataset = d", "--count").split()[0] == "12"
    assert cli(0, "dataset", "release", "d") == "d is Dynamic: 12 files, 0 B\n"
    cli(0, "dataset", "update", "d", "--description", "for ever")
    assert json.loads(cli(0, "dataset", "show", "d", "--json"))[0]["description"] == "for ever"
    assert json.loads(cli(0, "dataset", "update", "d", "--json"))["counted"] == {"files": 12, "bytes": 0}
    for command in ("freeze", "release", "update"):
        assert "not_found" in cli(3, "dataset", command, "e")


def test_a_removed_dataset_is_gone_and_its_files_are_not(cli: Cli):
    cli(0, "dataset", "create", "/ctao/d", "particle = gamma")
    assert cli(0, "dataset", "remove", "d", "--dry-run") == "/ctao/d would be forgotten; its files stay\n"
    assert json.loads(cli(0, "dataset", "remove", "d", "--json")) == {"removed": "/ctao/d"}
    assert cli(0, "dataset", "remove", "d") == "there is no dataset d\n"
    assert json.loads(cli(0, "dataset", "remove", "d", "--json")) == {"removed": None}
    assert cli(0, "find", "particle = gamma", "--count").split()[0] == "12"


def test_a_dataset_is_split_once(cli: Cli):
    cli(0, "dataset", "create", "p", "particle = proton")
    split = ("dataset", "split", "p", "--fractions", "0.25,0.25,0.5")
    cli(0, *split, "--dry-run")
    assert len(cli(0, "dataset", "list").splitlines()) == 2
    told = [line.split() for line in cli(0, *split).splitlines()]
    assert told[1:] == [["p_train_en", "train_en", "3"], ["p_train_cl", "train_cl", "3"], ["p_test", "test", "6"]]
    assert json.loads(cli(0, *split, "--json"))[2] == {"value": "test", "dataset": "p_test", "files": 6}
    assert cli(0, "find", "dataset = p_test and split = test", "--count").split()[0] == "6"
    assert "split already" in cli(4, "dataset", "split", "p", "--fractions", "0.5,0.5", "--names", "a,b")
    cli(0, "dataset", "split", "p", "--fractions", "0.5,0.5", "--names", "a, b", "--again")
    assert "sum to 0.9" in cli(2, "dataset", "split", "p", "--fractions", "0.5,0.4")


def test_datasets_are_found_by_values_and_by_file(cli: Cli):
    cli(0, "dataset", "create", "g", "particle = gamma and thetaP = 20")
    cli(0, "dataset", "create", "p", "particle = proton")
    cli(0, "dataset", "create", "all", "data_level = 0")

    def found(*arguments: str) -> list[str]:
        return [one["name"] for one in json.loads(cli(0, "dataset", "find", *arguments, "--json"))]

    assert found("particle=gamma") == ["g"]
    assert found("particle=gamma", "thetaP=20.0") == ["g"]
    assert found("particle=gamma", "thetaP=40") == []
    assert found("--file", "/ctao/sim/gamma/run20") == ["all", "g"]
    assert found("particle=proton", "--file", "/ctao/sim/gamma/run20") == []
    assert 'particle = "gamma" and thetaP = 20.0' in cli(0, "dataset", "find", "particle=gamma")
    assert cli(0, "dataset", "find", "particle=electron") == "no dataset is like that\n"
    assert "nothing to find datasets by" in cli(2, "dataset", "find")
    assert "is not KEY=VALUE" in cli(2, "dataset", "find", "gamma")
    assert "write a number like 20.5" in cli(2, "dataset", "find", "thetaP=high")
    assert "not_found" in cli(3, "dataset", "find", "--file", "/ctao/none")


def test_a_family_is_described_and_created_and_described_again(cli: Cli, tmp_path: Path):
    vary = ("--vary", "particle=gamma,proton", "--vary", "thetaP=20,40", "--name", "Prod6_{particle}_{thetaP}deg")
    lines = cli(0, "dataset", "describe", "data_level = 0", *vary)
    assert len(lines.splitlines()) == 4
    (tmp_path / "family.json").write_text(lines)
    assert len(cli(0, "dataset", "create", "@family.json", "--dry-run").splitlines()) == 4
    assert cli(0, "dataset", "list").startswith("no dataset")
    assert cli(0, "dataset", "create", "@family.json").splitlines()[0] == "Prod6_gamma_20deg holds 6 files, 0 B"
    before = cli(0, "dataset", "list")
    again = cli(0, "dataset", "describe", "Prod6_*")
    for name in ("gamma_20deg", "gamma_40deg", "proton_20deg", "proton_40deg"):
        cli(0, "dataset", "remove", f"Prod6_{name}")
    (tmp_path / "again").write_text(again)
    cli(0, "dataset", "create", "@again")
    assert cli(0, "dataset", "list") == before
    said = cli(4, "dataset", "create", "@again")
    assert "4 of 4 datasets were not created; the first: there is a dataset" in said
    assert "cannot be filled" in cli(2, "dataset", "describe", "data_level = 0", *vary[:5], "{energy}")
    assert "gives the name x twice" in cli(2, "dataset", "describe", "data_level = 0", *vary[:5], "x")
    assert "--vary needs one query" in cli(2, "dataset", "describe", "a", "b", *vary)
    assert "no dataset" in cli(3, "dataset", "describe", "none")


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ('{"particle": "gamma", "thetaP": {"<": 30}}', 6),
        ('particle = gamma and\n  thetaP < 30\n', 6),
        ('"particle = gamma"', 12),
        ('{"key": "particle", "op": "=", "value": "gamma"}', 12),
        ('\n{\n "particle": "gamma"\n}\n', 12),
    ],
)  # fmt: skip
def test_a_file_that_holds_a_query_names_its_dataset(cli: Cli, tmp_path: Path, text: str, held: int):
    (tmp_path / "Prod6.query").write_text(text)
    assert cli(0, "dataset", "create", "@Prod6.query") == f"Prod6 holds {held} files, 0 B\n"


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (2, b"[1, 2]", "describes no dataset"),
        (2, b'{"name": "x", "query": "data_level = 0", "colour": "red"}', "unknown metadata key"),
        (2, b"\xff\xfe", "not a text file"),
        (2, b"", "bad.json is empty"),
        (2, b'{"particle": "gamma"', "is not JSON"),
        (2, b'{"name": 7, "query": "data_level = 0"}', "unknown metadata key 'name'"),
    ],
)
def test_descriptions_that_are_none_are_refused(cli: Cli, tmp_path: Path, status: int, content: bytes, message: str):
    (tmp_path / "bad.json").write_bytes(content)
    assert message in cli(status, "dataset", "create", "@bad.json")


def test_a_description_that_is_not_there_is_told(cli: Cli):
    assert "there is no file none.json" in cli(3, "dataset", "create", "@none.json")
