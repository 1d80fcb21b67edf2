"""Bad input gets a clear error: what, which one, what to do; and the exit status says that it did not work."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest

from lightkeeper.app import make_log
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings
from lightkeeper.steps import delete, ingest, replicate, transfer, watch
from lightkeeper_ctao.demo import CtaoDemonstration
from lightkeeper_ctao.simulate import simulate_night

Run = Callable[..., str]

PRODUCTION = """
ProdSteps:
  - ID: 1
    input_meta_query: {data_level: 0}
    job_config:
      type: CtapipeProcessing
      version: v0.28.0
      data_level: 2
      output_extension: DL2.h5
      group_size: 6
      group_by: obs_id
  - ID: 2
    input_meta_query: {parentID: 1}
    job_config: {type: Merging, version: v0.28.0, output_extension: merged.DL2.h5, group_size: 2}
Common: {MCCampaign: TEST, configuration_id: 1, base_path: /ctao/test}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An instance with a night, on which nothing runs by itself."""
    home = tmp_path_factory.mktemp("cli")
    settings = Settings(home=home, port=0, trigger_patience=0)
    with Instance(settings, work=False, log=make_log(settings)) as instance:
        document, roots = CtaoDemonstration().topology(home)
        for root in roots:
            root.mkdir(parents=True)
        (home / "topology.yaml").write_text(document)
        cli(home, 0, "apply", str(home / "topology.yaml"))
        simulate_night(home / "storage/LaPalma-onsite", night=date(2026, 3, 14), observations=1, events=4, bad=7)
        watch.scan(instance.context)
        while ingest.register_accepted(instance.context):
            pass
        while (
            replicate.settle(instance.context) + transfer.carry_out(instance.context) + delete.delete(instance.context)
        ):
            pass
        yield home


def cli(home: Path, status: int, *arguments: str) -> str:
    """Run a command; the exit status it must end with comes first. Returns everything it said."""
    ran = subprocess.run(
        [sys.executable, "-m", "lightkeeper", "--home", str(home), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert ran.returncode == status, ran.stdout + ran.stderr
    return " ".join((ran.stdout + ran.stderr).split())


@pytest.fixture
def run(home: Path) -> Run:
    return lambda status, *arguments: cli(home, status, *arguments)


@pytest.fixture
def production(tmp_path: Path) -> Callable[..., str]:
    def write(**changes: str) -> str:
        text = PRODUCTION
        for old, new in changes.items():
            old = old.replace("__", ": ")
            assert old in text
            text = text.replace(old, new, 1)
        file = tmp_path / "production.yaml"
        file.write_text(text)
        return str(file)

    return write


def test_an_unknown_key_in_a_topology_names_the_nearest_known_one(run: Run, tmp_path: Path):
    (tmp_path / "t.yaml").write_text("sites:\n  PIC: {kind: data centre, contry: ES}\n")
    said = run(2, "apply", str(tmp_path / "t.yaml"))
    assert "unknown key 'contry' at sites.PIC.contry" in said
    assert "did you mean 'country'?" in said


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("sites: [", "not YAML"),
        ("- a\n", "must be a map"),
        ("storages:\n  X: {site: Nowhere, root: /tmp}\n", "'Nowhere' does not exist"),
        ("storages:\n  X: {site: PIC, root: /tmp, driver: posx}\n", "did you mean 'posix'?"),
        ("policies:\n  X: {files: {data_levl: 0}, copies: 2}\n", "did you mean 'data_level'?"),
        ("policies:\n  X: {files: {data_level: 0}, copies: 0}\n", "policies.X.copies"),
        ("links:\n  - {from: PIC, to: DESY, max_rate: fast}\n", "'fast' is not a rate"),
        ("a: &a [1]\nb: *a\n", "anchors or aliases"),
        ("sites: " + "[" * 20_000, "more than 20 deep"),
    ],
)
def test_a_topology_that_cannot_be_is_refused_with_the_place(run: Run, tmp_path: Path, document: str, message: str):
    (tmp_path / "t.yaml").write_text(document)
    assert message in run(2, "apply", str(tmp_path / "t.yaml"))


def test_a_storage_that_cannot_be_written_is_not_taken_up(run: Run, tmp_path: Path):
    (tmp_path / "file").write_text("not a directory")
    (tmp_path / "t.yaml").write_text(f"storages:\n  Bad: {{site: PIC, root: {tmp_path}/file}}\n")
    said = run(6, "apply", str(tmp_path / "t.yaml"))
    assert "storage Bad cannot be used" in said
    assert "Bad" not in run(0, "storage", "list")


def test_a_storage_that_holds_replicas_is_not_moved_away(run: Run, home: Path, tmp_path: Path):
    elsewhere = re.sub(r"storage/(\w+)-disk", r"storage/\1-other", (home / "topology.yaml").read_text())
    (tmp_path / "t.yaml").write_text(elsewhere)
    assert "holds replicas below" in run(4, "apply", str(tmp_path / "t.yaml"))


def test_dry_run_says_what_would_change_and_changes_nothing(run: Run, home: Path, tmp_path: Path):
    more = (home / "topology.yaml").read_text().replace("copies: 2, free_on_site: true, priority: 3", "copies: 3")
    (tmp_path / "t.yaml").write_text(more)
    assert "policy DL0: copies 2 → 3" in run(0, "apply", "--dry-run", str(tmp_path / "t.yaml"))
    assert "nothing to change" in run(0, "apply", str(home / "topology.yaml"))


def test_a_missing_file_is_named(run: Run):
    assert "there is no file nowhere.yaml" in run(2, "production", "submit", "p", "nowhere.yaml")
    assert "there is no file nowhere.yaml" in run(2, "apply", "nowhere.yaml")


@pytest.mark.feature("S1-008", "S1-022")
def test_an_unknown_key_in_a_production_names_line_and_nearest_key(run: Run, production: Callable[..., str]):
    said = run(2, "production", "submit", "p", production(**{"group_by__obs_id": "gruop_by: obs_id"}))
    assert "line 11" in said
    assert "gruop_by" in said
    assert "did you mean 'group_by'?" in said


def test_a_wrong_group_size_is_refused(run: Run, production: Callable[..., str]):
    said = run(2, "production", "submit", "p", production(**{"group_size__6": "group_size: 0"}))
    assert "group_size" in said
    assert "line 10" in said


def test_a_parent_that_does_not_exist_is_refused(run: Run, production: Callable[..., str]):
    said = run(2, "production", "submit", "p", production(**{"parentID__1": "parentID: 7"}))
    assert "parentID" in said
    assert "7" in said


def test_a_production_without_input_says_what_it_looked_for(run: Run, production: Callable[..., str]):
    said = run(2, "production", "submit", "p", production(**{"data_level__0}": "data_level: 0, obs_id: 12}"}))
    assert "no registered file matches" in said
    assert "obs_id" in said
    assert "no production yet" in run(0, "production", "list")


@pytest.mark.feature("S1-009")
def test_validating_a_production_shows_its_steps_and_does_nothing(run: Run, production: Callable[..., str]):
    assert "CtapipeProcessing" in run(0, "production", "validate", production())
    assert "CtapipeProcessing" in run(0, "production", "submit", "p", production(), "--dry-run")
    assert "no production yet" in run(0, "production", "list")


def test_corrupted_fits_and_a_trigger_without_a_file_are_told_in_the_quarantine(run: Run):
    said = run(0, "quarantine", "list", "--json")
    assert "DATASUM of HDU Events is wrong" in said
    assert "the file is empty" in said
    assert "its data file did not come" in said


def test_a_file_that_is_not_there_is_not_found(run: Run):
    assert "/ctao/nothing is not in the catalogue" in run(3, "why", "/ctao/nothing")
    assert "there is no transformation 'nothing'" in run(3, "why", "nothing")
    assert "there is no transformation 99" in run(3, "transformation", "report", "99")
    assert "job 99 has left no log" in run(3, "job", "logs", "99")


def test_a_query_with_an_unknown_key_names_the_nearest_known_one(run: Run):
    assert "did you mean 'data_level'?" in run(2, "file", "list", '{"data_levl": 0}')
    assert "not JSON" in run(2, "file", "list", "{data_level: 0}")


def test_a_second_instance_on_the_same_home_is_refused_and_the_first_is_named(tmp_path: Path):
    settings = Settings(home=tmp_path, port=0)
    with Instance(settings, log=make_log(settings)):
        said = cli(tmp_path, 4, "up", "--port", "0")
    assert "runs on" in said
    assert str(os.getpid()) in said


def test_a_storage_root_must_be_a_whole_path(run: Run, tmp_path: Path):
    (tmp_path / "t.yaml").write_text("storages:\n  X: {site: PIC, root: some/where}\n")
    assert "is relative" in run(2, "apply", str(tmp_path / "t.yaml"))


def test_a_folder_or_a_binary_where_a_document_is_expected_is_named(run: Run, tmp_path: Path):
    assert "Is a directory" in run(2, "apply", str(tmp_path))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "not a text file" in run(2, "apply", str(tmp_path / "binary"))


def test_an_unknown_setting_names_the_nearest_known_one(tmp_path: Path):
    (tmp_path / "lightkeeper.toml").write_text("prot = 80\n")
    said = cli(tmp_path, 2, "status")
    assert "unknown setting 'prot'" in said
    assert "did you mean 'port'?" in said


def test_the_api_does_not_listen_beyond_this_machine(tmp_path: Path):
    (tmp_path / "lightkeeper.toml").write_text('host = "0.0.0.0"\n')
    assert "may not listen on 0.0.0.0" in cli(tmp_path, 5, "up", "--port", "0")


def test_a_home_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "home").write_text("")
    assert "cannot be used" in cli(tmp_path / "home", 5, "status")


@pytest.mark.parametrize(
    "command",
    [
        ("status",), ("fsck",), ("healed",), ("traffic",), ("storage", "list"), ("night", "list"),
        ("quarantine", "list"), ("production", "list"), ("transformation", "list"), ("job", "list"),
    ],
)  # fmt: skip
def test_every_listing_prints_json_when_asked(home: Path, command: tuple[str, ...]):
    ran = subprocess.run(
        [sys.executable, "-m", "lightkeeper", "--home", str(home), *command, "--json"], capture_output=True, check=True
    )
    json.loads(ran.stdout)
