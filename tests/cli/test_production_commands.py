"""production … as a user types it: exit status, what is said, and what changed; and the pages that show it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import httpx2 as httpx
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

DOCUMENT = """ProdSteps:
  - ID: 1
    name: Process
    input_meta_query: {data_level: -1, array_layout: Hyper, particle: gamma, moon: dark}
    job_config:
      type: CtapipeProcessing
      data_level: 1
      output_extension: DL1.h5
      group_size: 4
      options: -c v1/dl1.yaml
      cpu_time: 600
  - ID: 2
    input_meta_query: {parentID: 1}
    job_config: {type: Merging, output_extension: merged.DL1.h5, group_size: 10, cpu_time: 60}
Common:
  MCCampaign: DEMO
  configuration_id: 7
  base_path: /ctao/demo/prod
  version: v0.28.0
"""

Cli = Callable[..., str]


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance with twelve simulated files of each of two particles, on which nothing runs by itself."""
    home = tmp_path_factory.mktemp("productions")
    for name in ("north", "south"):
        (home / name).mkdir()
    with Instance(Settings(home=home, port=0), work=False, log=SilentLog()) as instance:
        topology.apply(instance.context, TOPOLOGY.replace("ROOT", str(home)))
        with api(instance) as client:
            client.register(
                (
                    {"lfn": f"/ctao/sim/{particle}/run{n:02}",
                     "meta": {"particle": particle, "array_layout": "Hyper", "data_level": -1, "nsb": 1}}
                    for particle in ("gamma", "proton") for n in range(12)
                ),
                virtual=True,
            )  # fmt: skip
        yield instance
        assert audit.fsck(instance.context).violations == []


def api(instance: Instance) -> Client:
    return Client(instance.url, (instance.settings.home / "run/operator.token").read_text())


@pytest.fixture
def cli(instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Type a command; the exit status it must end with comes first. The document lies there, and what it names."""
    monkeypatch.chdir(tmp_path)
    Path("v1").mkdir()
    Path("v1/dl1.yaml").write_text("x: 1\n")
    Path("p.yaml").write_text(DOCUMENT)
    return partial(run, instance.settings.home)


def count(instance: Instance, table: str) -> int:
    with instance.context.db.transaction() as conn:
        return conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608


@pytest.mark.feature("S0-126W")
def test_a_document_is_checked_and_looked_at_before_anything_is_done(cli: Cli, instance: Instance):
    before = count(instance, "production")
    said = cli(0, "production", "validate", "p.yaml")
    assert "p.yaml is in order: campaign DEMO, 2 steps" in said
    assert "what 1 makes" in said
    said = cli(0, "production", "plan", "p.yaml")
    assert "in all 12 files" in said
    assert "missing: step 1: of 12 files there is no copy anywhere" in said
    (told,) = json.loads(cli(0, "production", "plan", "p.yaml", "--json"))
    assert told["total"]["files"] == 12
    assert told["steps"][1]["estimate"]["known"] is False
    said = cli(0, "production", "submit", "never", "p.yaml", "--dry-run")
    assert "in all 12 files" in said
    assert count(instance, "production") == before


def test_what_is_wrong_is_told_with_the_name_of_the_file(cli: Cli):
    Path("p.yaml").write_text(DOCUMENT.replace("group_size: 4", "grup_size: 4"))
    said = cli(2, "production", "validate", "p.yaml")
    assert "p.yaml: line 9, key 'grup_size' of step 1: unknown key" in said
    assert "did you mean 'group_size'?" in said


def test_a_file_that_is_named_and_not_there_is_told_and_holds_the_submission_up(cli: Cli):
    Path("v1/dl1.yaml").unlink()
    told = json.loads(cli(1, "production", "validate", "p.yaml", "--json"))
    assert told[0]["missing"] == [
        "line 10, key 'options' of step 1: there is no file 'v1/dl1.yaml' beside the document"
    ]
    said = cli(2, "production", "submit", "p", "p.yaml")
    assert "put the files where the document names them" in said


def test_a_production_is_submitted_shown_drawn_stopped_and_started(cli: Cli):
    assert "shown is Active: campaign DEMO, group observatory, 0 %" in cli(0, "production", "submit", "shown", "p.yaml")
    told = json.loads(cli(0, "production", "show", "shown", "--json"))
    assert [step["parents"] for step in told["steps"]] == [[], [1]]
    assert cli(0, "production", "show", "shown", "--document") == DOCUMENT
    assert "1 Process     ░░░░░░░░░░   0 %  Active  0 of 12 files\n└─ 2 Merging  Active" in cli(
        0, "production", "graph", "shown"
    )
    assert "s1 -> s2;" in cli(0, "production", "graph", "shown", "--dot")
    picture = ElementTree.fromstring(cli(0, "production", "graph", "shown", "--svg"))  # noqa: S314  # our own
    assert picture.tag.endswith("svg")
    assert "2 steps stop" in cli(0, "production", "stop", "shown", "--why", "wrong calibration", "--dry-run")
    assert "2 steps stop" in cli(0, "production", "stop", "shown", "--why", "wrong calibration")
    (told,) = [one for one in json.loads(cli(0, "production", "list", "--json")) if one["name"] == "shown"]
    assert (told["state"], told["files"], told["share"]) == ("Stopped", 12, None)
    assert "2 steps go on" in cli(0, "production", "start", "shown")
    assert "nothing was held back" in cli(0, "production", "start", "shown")
    assert "did you mean 'shown'?" in cli(3, "production", "show", "show")


def test_a_production_is_of_a_group_of_people_and_may_become_one_of_another(cli: Cli):
    assert "campaign DEMO, group lst, 0 %" in cli(0, "production", "submit", "ours", "p.yaml", "--group", "lst")
    assert "ours would be of group mst; it was of lst" in cli(
        0, "production", "set", "ours", "--group", "mst", "--dry-run"
    )
    assert "ours is of group mst; it was of lst" in cli(0, "production", "set", "ours", "--group", "mst")
    assert json.loads(cli(0, "production", "show", "ours", "--json"))["group"] == "mst"
    assert "group mst" in cli(0, "production", "clone", "ours", "ours2", "--set", "MCCampaign=NEXT")
    assert "group" in cli(2, "production", "set", "ours", "--group", "no/group")
    assert "there is no production 'theirs'" in cli(3, "production", "set", "theirs", "--group", "mst")


def test_a_production_is_extended_by_a_longer_document(cli: Cli):
    cli(0, "production", "submit", "longer", "p.yaml", "--hold")
    step = "  - ID: 3\n    input_meta_query: {parentID: 2}\n    job_config: {type: Merging, output_extension: all.h5, "
    Path("p.yaml").write_text(DOCUMENT.replace("Common:", f"{step}group_size: 10000}}\nCommon:"))
    assert "what 2 makes" in cli(0, "production", "extend", "longer", "p.yaml", "--dry-run")
    assert "what 2 makes" in cli(0, "production", "extend", "longer", "p.yaml")
    assert "there is no step to add" in cli(0, "production", "extend", "longer", "p.yaml")
    assert len(json.loads(cli(0, "production", "show", "longer", "--json"))["steps"]) == 3
    assert "say what to add" in cli(2, "production", "extend", "longer")


@pytest.mark.feature("S0-126W")
def test_one_command_submits_a_campaign_of_three_layouts_and_four_particles(cli: Cli, instance: Instance):
    text = DOCUMENT.replace("array_layout: Hyper", "array_layout: $layout").replace(
        "particle: gamma", "particle: $particle"
    )
    Path("p.yaml").write_text(text.replace("{data_level: -1,", "{data_level: -1, site: Any,"))
    words = ("--for", "layout=Alpha,Beta,Gamma", "--for", "particle=gamma,electron,proton,helium")
    before = count(instance, "production")
    told = json.loads(cli(0, "production", "submit", "c", "p.yaml", *words, "--hold", "--json"))
    assert len(told) == count(instance, "production") - before == 12
    assert told[0]["name"] == "c_Alpha_gamma"
    cli(0, "production", "submit", "c", "p.yaml", *words, "--hold")
    assert count(instance, "production") - before == 12
    assert "the document does not say $site" in cli(2, "production", "plan", "p.yaml", "--for", "site=A")


def test_a_clone_has_other_settings_where_it_is_said(cli: Cli):
    cli(0, "production", "submit", "first", "p.yaml")
    changes = ("--set", "MCCampaign=NEXT", "--set", "1.group_size=3", "--set", "array_layout=Beta")
    told = json.loads(cli(0, "production", "clone", "first", "next", *changes, "--dry-run", "--json"))
    assert "  MCCampaign: NEXT\n" in told["document"]
    assert told["plan"]["campaign"] == "NEXT"
    assert "settings are changed only where each has a line of its own" in cli(
        2, "production", "clone", "first", "next", "--set", "2.group_size=3"
    )
    assert "campaign NEXT" in cli(0, "production", "clone", "first", "next", "--set", "MCCampaign=NEXT")
    assert "there is a production 'next' already" in cli(4, "production", "clone", "first", "next")


def test_a_template_becomes_documents_that_are_in_order(cli: Cli):
    Path("t.yaml").write_text(
        "MCCampaign: PROD6\nsite: LaPalma\ninput_array_layout: Hyper\nprocessing_array_layout: $layout\nzenith: 20\n"
        "analysis_prog_version: v0.28.0\nanalysis_config_version: v1\nconfiguration_id: 16\n"
        "moon: dark\npointing: North\n"
    )
    words = ("--for", "layout=Alpha,Beta")
    cli(0, "production", "generate", "t.yaml", "--to", "out", *words, "--dry-run")
    assert not Path("out").exists()
    cli(0, "production", "generate", "t.yaml", "--to", "out", *words)
    assert len(list(Path("out").rglob("*.yml"))) == 12
    assert "is in order" in cli(0, "production", "validate", "out/Alpha/merge.yml")
    cli(0, "production", "generate", "t.yaml", "--to", "out", *words)
    Path("out/Beta/merge.yml").write_text("mine")
    assert "is there already, and says something else" in cli(
        4, "production", "generate", "t.yaml", "--to", "out", *words
    )
    assert "did you mean 'evndisp'?" in cli(2, "production", "generate", "t.yaml", "--kind", "evdisp", *words)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [BOMB, "[" * 100_000, "{" * 100_000, "- x\n" * 200_000, "a: !!python/object/apply:os.system [ls]", "a: 1\na: 2",
     "x" * 999_999, '"\\UFFFFFFFF"', "a: 1\n---\nb: 2", "\0", "? " * 100_000],
    ids=["bomb", "lists", "maps", "long", "tag", "twice", "huge", "character", "documents", "nul", "keys"],
)  # fmt: skip
def test_a_hostile_document_is_refused_and_the_next_one_is_read(cli: Cli, text: str):
    Path("hostile.yaml").write_text(text)
    cli(2, "production", "validate", "hostile.yaml")
    cli(0, "production", "validate", "p.yaml")


def test_the_pages_show_productions_with_their_graphs(cli: Cli, instance: Instance):
    cli(0, "production", "submit", "drawn", "p.yaml")
    page = httpx.get(f"{instance.url}/productions")
    assert page.status_code == 200
    assert 'href="/productions/drawn"' in page.text
    page = httpx.get(f"{instance.url}/productions/drawn")
    assert page.status_code == 200
    assert "<svg" in page.text
    assert "what step 1 made" in page.text
    assert "style=" not in page.text, "the page allows no inline style"
    assert httpx.get(f"{instance.url}/productions/nothing").status_code == 404


# --- the slide, and old names ----------------------------------------------------------------------------------
SLIDE = """ProdSteps:
  - ID: 1
    input_meta_query:
      parentID:
        MCCampaign: PROD5b
        array_layout: Alpha
        site: LaPalma
        particle: gamma-diffuse
        thetaP: 20.0
        phiP: 180.0
        split: train_en
        analysis_prog: ctape-process
        analysis_prog_version: v0.19.2
        data_level: 2
        outputType: Data
        configuration_id: 15
        merged: 0
        moon: dark
        job_config:
          type: Merging
          version: v0.19.2
          group_size: 50
          output_extension: merged.DL2.h5
  - ID: 2
    input_meta_query:
      parentID: 1
    job_config:
      type: Merging
      version: v0.19.2
      group_size: 10000
      output_extension: alpha_train_en_merged.DL2.h5
      options: --no-dll-images --no-true-images
      catalogs: DIRACFileCatalog
      TP: 7
Common:
  MCCampaign: PROD5b
  configuration_id: 15
  base_path: /ctao/MC
"""


@pytest.mark.feature("S1-010", "S1-014", "S1-022")
def test_the_slide_as_it_was_read_is_led_to_the_right_file(cli: Cli):
    Path("slide.yaml").write_text(SLIDE)
    said = cli(2, "production", "validate", "slide.yaml")
    assert "line 34, key 'TP' of step 2: unknown key" in said
    for slip in (
        "line 4, step 1: conditions below parentID mean a step without parent",
        "line 19, step 1: job_config inside input_meta_query is read as the step's own",
        "line 12, key 'analysis_prog' of step 1: no program 'ctape-process' is known here; did you mean 'ctapipe-",
        "ctapipe-merge has no option --no-dll-images; did you mean '--no-dl1-images'?",
    ):
        assert slip in said
    mended = SLIDE.replace("      TP: 7\n", "").replace("ctape-", "ctapipe-").replace("-dll-", "-dl1-")
    lines = mended.splitlines()
    for n in range(4, 23):
        lines[n] = lines[n][2:] if n < 18 else lines[n][4:]
    Path("slide.yaml").write_text("\n".join(lines))
    assert "slide.yaml is in order: campaign PROD5b, 2 steps" in cli(0, "production", "validate", "slide.yaml")


@pytest.mark.feature("S1-023")
def test_productions_are_submitted_and_listed_by_the_old_names(cli: Cli, instance: Instance):
    def typed(program: str, *words: str) -> str:
        code = f"from lightkeeper_ctao.old_commands import {program}; {program}()"
        environment = {**os.environ, "LIGHTKEEPER_HOME": str(instance.settings.home)}
        command = [sys.executable, "-c", code, *words]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return f"{ran.returncode}: {ran.stdout}{ran.stderr}"

    before = count(instance, "production")
    assert typed("submit", "old", "p.yaml", "dry-run").startswith("0: ")
    assert count(instance, "production") == before
    assert "old is Active" in typed("submit", "old", "p.yaml")
    assert "old" in typed("get_all", "--long")
    assert "there is no mode 'remote'" in typed("submit", "old", "p.yaml", "remote")
    assert typed("submit", "old").startswith("2: invalid: too many or too few words")
