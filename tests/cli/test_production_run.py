"""production run as a user types it on a machine where nothing else of Lightkeeper runs: the command does the work."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.cli.typed import run
from tests.cwl.documents import BESIDE, GREP, TWO_STEPS

Cli = Callable[..., str]

TOPOLOGY = """
version: 1
sites: {North: {COMPUTING}}
storages:
  north: {site: North, root: "ROOT/north"}
keeper: {max_reassign: 0}
"""
HERE = "computing: {executor: local, pilots: 2}"
EACH = GREP + "hints: " + '{"lightkeeper:Transformation": {input_query: {data_level: 0}}}\n'
DOCUMENTS = {
    **BESIDE,
    "two.cwl": TWO_STEPS,
    "fails.cwl": TWO_STEPS.replace("default: light", "default: dusk"),
    "each.cwl": EACH,
    "word.yaml": "word: light\n",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small files at one site that may compute here; no instance runs."""
    home = tmp_path_factory.mktemp("run")
    (home / "north").mkdir()
    for name in "abc":
        (home / f"{name}.txt").write_text(f"light {name}\ndark\n" + "dusk\n" * (name == "a"))
    (home / "topology.yaml").write_text(TOPOLOGY.replace("ROOT", str(home)).replace("COMPUTING", HERE))
    run(home, 0, "apply", str(home / "topology.yaml"))
    texts = [str(home / f"{name}.txt") for name in "abc"]
    run(home, 0, "file", "put", *texts, "--to", "/ctao/raw", "--at", "north", "--meta", "data_level=0")
    return home


@pytest.fixture
def cli(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Type a command; the exit status it must end with comes first. Documents lie there."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"RETRY_AFTER": "0.1", "HEARTBEAT": "1", "PILOT_IDLE": "2"}.items():
        monkeypatch.setenv(f"LIGHTKEEPER_{name}", value)
    for name, text in DOCUMENTS.items():
        Path(name).write_text(text)
    return partial(run, home)


def made(home: Path, cli: Cli, output: str) -> dict[str, str]:
    """What was made as an output, by the name of the file."""
    found = map(json.loads, cli(0, "find", f"output = {output}", "--json").splitlines())
    return {one["lfn"].rpartition("/")[2]: (home / "north" / one["lfn"][1:]).read_text() for one in found}


def test_a_production_runs_here_to_its_end_and_a_second_time_there_is_nothing_to_do(home: Path, cli: Cli):
    command = [Path(sys.executable).parent / "lightkeeper", "--home", home, "production", "run", "two", "two.cwl"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert "two is Completed: campaign cwl, group observatory, 100 %" in ran.stdout
    assert sorted(made(home, cli, "whole")["whole.txt"].split("\n")) == ["", "light a", "light b", "light c"]
    (told,) = json.loads(cli(0, "production", "run", "two", "two.cwl", "--json"))
    assert [(step["tasks"], step["done"]) for step in told["steps"]] == [(3, 3), (1, 1)]
    assert not list((home / "pilots").rglob("job-*")), "jobs leave their folders"


def test_with_single_jobs_each_step_is_one_job_on_all_its_files(home: Path, cli: Cli):
    words = ("each.cwl", "--inputs", "word.yaml", "--single-jobs")
    (planned,) = json.loads(cli(0, "production", "plan", *words, "--json"))
    assert (planned["total"]["files"], planned["total"]["tasks"]) == (3, 1)
    (told,) = json.loads(cli(0, "production", "run", "each", *words, "--json"))
    assert [(step["tasks"], step["outputs"]) for step in told["steps"]] == [(1, 3)]
    assert made(home, cli, "lines")["c.txt.lines"] == "light c\n"


def test_a_dry_run_says_what_it_would_do_and_leaves_nothing(home: Path, cli: Cli):
    before = {path for path in (home / "north").rglob("*") if path.is_file()}
    for command in (("run", "never"), ("submit", "never"), ("plan",)):
        words = (*command, "two.cwl", *(["--dry-run"] if len(command) > 1 else []))
        assert "in all 3 files" in cli(0, "production", *words)
    assert "there is no production 'never'" in cli(3, "production", "show", "never")
    assert {path for path in (home / "north").rglob("*") if path.is_file()} == before
    assert {path.name for path in Path().iterdir()} == DOCUMENTS.keys()


def test_what_fails_in_every_attempt_ends_the_command_with_the_reason_and_what_to_do(cli: Cli):
    said = cli(1, "production", "run", "fails", "fails.cwl")
    assert "2 of 3 tasks failed in every attempt" in said
    assert "lightkeeper transformation retry" in said
    assert "see: lightkeeper transformation report" in said


def test_without_a_site_that_could_run_it_the_command_says_so_and_ends(home: Path, cli: Cli):
    Path("topology.yaml").write_text(TOPOLOGY.replace("ROOT", str(home)).replace("COMPUTING", ""))
    cli(0, "apply", "topology.yaml")
    said = cli(1, "production", "run", "nowhere", "each.cwl", "--inputs", "word.yaml", "--single-jobs")
    assert "1 waiting for a pilot, and no site where they may run has any with what they need" in said
    assert "lightkeeper apply FILE, with computing: {executor: local, pilots: 2} at a site" in said


def test_nothing_is_broken_afterwards(cli: Cli):
    assert json.loads(cli(0, "fsck", "--read-bytes", "--json"))["violations"] == []
