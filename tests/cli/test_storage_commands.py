"""storage scrub, compare, dark … and mark as a user types them: exit status, what is said, and what changed."""

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.cli.typed import run
from tests.conftest import SilentLog

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings
from lightkeeper.steps import audit, manifests, probe, topology

TOPOLOGY = """
version: 1
sites: {North: {}, South: {}}
storages:
  north: {site: North, root: "ROOT/north", scrub: {every: 30 d, rate: 1 B/s}}
  south: {site: South, root: "ROOT/south"}
"""

Cli = Callable[..., str]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """An instance with two files at north, on which nothing runs by itself."""
    for name in ("north", "south"):
        (tmp_path / name).mkdir()
    with Instance(Settings(home=tmp_path, port=0), work=False, log=SilentLog()) as instance:
        topology.apply(instance.context, TOPOLOGY.replace("ROOT", str(tmp_path)))
        yield instance
        found = audit.fsck(instance.context, read_bytes=True).violations
        assert [v for v in found if " is dark since " not in v.detail] == []


@pytest.fixture
def cli(instance: Instance) -> Cli:
    cli = partial(run, instance.settings.home)
    for name in ("/ctao/sim/a", "/ctao/sim/b"):
        content = name.encode() * 5000
        PosixStorage("north", instance.settings.home / "north").write(name, [content])
        sums = fixity_of([content])
        line = {"lfn": name, "size": sums.size, "sha256": sums.sha256, "adler32": sums.adler32, "storage": "north"}
        path = instance.settings.home / "list.ndjson"
        path.write_text(json.dumps(line))
        cli(0, "register", str(path))
    audit.recheck(instance.context)
    return cli


def stray(instance: Instance, path: str) -> Path:
    file = instance.settings.home / "north" / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("dark")
    os.utime(file, times=(1e9, 1e9))
    return file


def test_the_scrub_tells_how_far_it_is_what_it_found_and_how_long_a_pass_takes(cli: Cli, instance: Instance):
    lines = cli(0, "storage", "scrub").splitlines()
    assert lines[0].split()[:4] == ["storage", "state", "progress", "copies"]
    assert lines[1].split()[:2] == ["north", "waits"]
    cli(0, "storage", "scrub", "south", "--now")
    assert "a pass begins over one storage" in cli(2, "storage", "scrub", "--now")
    cli(0, "storage", "scrub", "north", "--now")
    audit.scrub(instance.context)
    (north,) = json.loads(cli(0, "storage", "scrub", "north", "--json"))
    assert (north["state"], north["progress"], north["read"], north["faults"]) == ("reading", 0.5, 1, 0)
    assert (north["every_days"], north["rate"]) == (30, 1)
    assert round(north["days"], 3) == round(110_000 / 86400, 3)
    assert "'nroth' does not exist" in cli(3, "storage", "scrub", "nroth")


def test_dark_and_lost_files_are_told_with_exit_status_1(cli: Cli, instance: Instance):
    assert cli(0, "storage", "compare", "north") == "2 files, 110.0 kB: 0 dark (0 B), 0 lost; 0 too young to say\n"
    stray(instance, "/left/over [1].txt")
    gone = instance.settings.home / "north/ctao/sim/b"
    gone.rename(gone.with_name(".b"))
    told = json.loads(cli(1, "storage", "compare", "north", "--json"))
    assert (told["dark"], told["counts"]["young"]) == (["/left/over [1].txt"], 1)
    assert told["lost"] == [{"lfn": "/ctao/sim/b", "fault": "is not there"}]
    assert json.loads(cli(0, "storage", "dark", "list", "north", "--json"))[0]["path"] == "/left/over [1].txt"
    assert "/left/over [1].txt" in cli(0, "storage", "dark", "list", "north")
    gone.with_name(".b").rename(gone)
    audit.recheck(instance.context)
    (again,) = json.loads(cli(1, "storage", "compare", "north", "--json", "--limit", "5"))["dark"]
    assert again == "/left/over [1].txt"


def test_dark_files_are_adopted_and_deleted_by_name_or_all(cli: Cli, instance: Instance):
    one, other = stray(instance, "/ctao/sim/c"), stray(instance, "/old/d")
    assert "no dark file is known" in cli(0, "storage", "dark", "list", "north")
    cli(1, "storage", "compare", "north", "--json")
    assert "no dark file is named" in cli(2, "storage", "dark", "delete", "north", "--why", "x")
    assert cli(0, "storage", "dark", "delete", "north", "--all", "--why", "x", "--dry-run").splitlines() == [
        "/ctao/sim/c", "/old/d", "2 would be deleted, 0 left",
    ]  # fmt: skip
    assert "1 adopted, 0 left" in cli(0, "storage", "dark", "adopt", "north", "/ctao/sim/c", "--meta", "data_level=3")
    assert cli(0, "find", "data_level = 3") == "/ctao/sim/c\n"
    assert "is not among the dark files" in cli(1, "storage", "dark", "adopt", "north", "/ctao/sim/c")
    assert "1 deleted, 0 left" in cli(0, "storage", "dark", "delete", "north", "--all", "--why", "asked its owner")
    assert (one.exists(), other.exists()) == (True, False)
    cli(0, "storage", "compare", "north")


def test_a_storage_whose_disk_is_away_is_told_and_marked_by_a_person(cli: Cli, instance: Instance):
    root = instance.settings.home / "south"
    (root / ".lightkeeper/storage").unlink()
    told = cli(6, "storage", "compare", "south")
    assert "the disk of south is not mounted, or it is another one" in told
    assert "lightkeeper storage mark south" in told
    assert cli(0, "storage", "mark", "south") == "south is marked\n"
    cli(0, "storage", "compare", "south")


def test_changing_needs_the_operators_token(instance: Instance):
    import httpx2 as httpx

    for path in ("scrub", "mark", "compare", "dark/adopt", "dark/delete"):
        body = {"storage": "north", "paths": ["/a"], "why": "x"}
        assert httpx.post(f"{instance.url}/api/v1/storages/{path}", json=body).status_code == 403


def test_manifests_are_shown_and_a_storage_is_made_again_from_them(cli: Cli, instance: Instance):
    assert cli(0, "storage", "manifests").splitlines()[1].split()[:2] == ["north", "0"]
    audit.tell_again(instance.context, "north")
    while manifests.write_due(instance.context):
        pass
    north = next(one for one in json.loads(cli(0, "storage", "manifests", "--json")) if one["storage"] == "north")
    assert (north["manifests"], north["copies"], north["due"]) == (1, 2, 0)
    assert "2 agree; 0 files" in cli(0, "storage", "rebuild", "north", "--dry-run")
    assert "no recovery is under way" in cli(0, "recovery", "status")
    assert json.loads(cli(0, "storage", "rebuild", "north", "--json"))["agree"] == 2
    assert "rebuild of north" in cli(0, "recovery", "status")
    assert "under way already" in cli(0, "recovery", "begin", "--why", "once more")
    assert "not compared" in cli(5, "recovery", "end")
    cli(0, "recovery", "end", "--why", "a test")
    assert json.loads(cli(0, "recovery", "status", "--json"))["end_why"] == "a test"
    assert "does not exist" in cli(3, "storage", "rebuild", "nowhere")
    (told,) = (instance.settings.home / "north" / ".lightkeeper" / "manifests").rglob("*.manifest")
    good = told.read_bytes()
    told.write_bytes(good + b"\n")
    assert "was changed" in cli(1, "storage", "rebuild", "north", "--dry-run")
    told.write_bytes(good)


def test_copies_in_doubt_are_listed_and_repaired_when_asked(cli: Cli, instance: Instance):
    assert "no copy is in doubt" in cli(0, "storage", "suspicious")
    cli(0, "file", "repair", "/ctao/sim/a")
    file = instance.settings.home / "north" / "ctao" / "sim" / "a"
    good = file.read_bytes()
    file.write_bytes(b"other")
    cli(1, "file", "get", "/ctao/sim/a", "--to", str(instance.settings.home))
    (copy,) = json.loads(cli(0, "storage", "suspicious", "north", "--json"))["copies"]
    assert (copy["lfn"], copy["state"], copy["readers"]) == ("/ctao/sim/a", "Suspect", ["get"])
    assert "/ctao/sim/a" in cli(0, "storage", "suspicious")
    assert "1 copies would be repaired" in cli(0, "file", "repair", "/ctao/sim/a", "--dry-run")
    file.write_bytes(good)
    (step,) = json.loads(cli(0, "file", "repair", "/ctao/sim/a", "--json"))["steps"]
    assert (step["storage"], step["action"]) == ("north", "read")
    audit.recheck(instance.context)
    assert "no copy is in doubt" in cli(0, "storage", "suspicious")
    assert "not in the catalogue" in cli(1, "file", "repair", "/ctao/sim/nobody")


def test_the_status_tells_of_a_storage_that_does_not_answer(cli: Cli, instance: Instance):
    assert json.loads(cli(0, "status", "--json"))["storages_in_trouble"] == []
    disk = instance.settings.home / "south"
    disk.rename(disk.with_name("unmounted"))
    probed(instance, 3)
    told = " ".join(cli(0, "status").split())
    assert "south is Banned" in told and "storage south is not there" in told, told[-200:]
    disk.with_name("unmounted").rename(disk)
    probed(instance, 3)
    assert json.loads(cli(0, "status", "--json"))["storages_in_trouble"] == []


def probed(instance: Instance, times: int) -> None:
    prober = probe.Prober()
    for _ in range(times):
        with instance.context.db.transaction() as conn:
            conn.execute("UPDATE probe SET due = now()")
        prober(instance.context)
