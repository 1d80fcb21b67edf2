"""night … and quality … as a user types them: exit status, what is said, and what changed."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.cli.typed import run
from tests.conftest import TOPOLOGY, SilentLog, World

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings
from lightkeeper.steps import delete, replicate, topology, transfer

Cli = Callable[..., str]
NIGHT = "2030-01-02"
FIGURES = "\nquality:\n  pointing: {key: dec, files: {data_level: 0}, low: -90, high: 60, unit: deg}\n"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    for name in ("mountain", "north", "east", "south", "vault"):
        (tmp_path / name).mkdir()
    with Instance(Settings(home=tmp_path, port=0), work=False, log=SilentLog()) as instance:
        text = TOPOLOGY.replace("ROOT", str(tmp_path)).replace("{level:", "{data_level:")
        topology.apply(instance.context, text.replace("executor: none", "executor: local") + FIGURES)
        yield instance


@pytest.fixture
def cli(instance: Instance) -> Cli:
    """Two files of a night, on site."""
    home = instance.settings.home
    lines = []
    for n in range(2):
        name, content = f"/ctao/acada/{NIGHT}/f{n}", f"content {n}".encode()
        PosixStorage("mountain", home / "mountain").write(name, [content])
        sums = fixity_of([content])
        meta = {"data_level": 0, "observing_night": NIGHT, "array_element": "LSTN-01", "chunk_id": n, "dec": 20.0 + n}
        file = {"lfn": name, "size": sums.size, "sha256": sums.sha256, "adler32": sums.adler32, "storage": "mountain"}
        lines.append(json.dumps(file | {"meta": meta}))
    (home / "list.ndjson").write_text("\n".join(lines))
    cli = partial(run, home)
    cli(0, "register", str(home / "list.ndjson"))
    return cli


def settle(instance: Instance) -> None:
    from lightkeeper.steps import audit

    audit.recheck(instance.context)
    world = World(instance.context, instance.settings.home)
    while replicate.settle(world.ctx) + transfer.carry_out(world.ctx) + delete.delete(world.ctx):
        pass


def test_a_night_from_its_list_to_a_receipt_that_is_checked(instance: Instance, cli: Cli):
    home = instance.settings.home
    assert "Open" in cli(0, "night", "list")
    (home / "expected").write_text(f"# a comment\n/ctao/acada/{NIGHT}/f0\nctao/acada/{NIGHT}/f9\n")
    assert "2 files more would be expected" in cli(0, "night", "expect", NIGHT, str(home / "expected"), "--dry-run")
    assert "2 files more are expected" in cli(0, "night", "expect", NIGHT, str(home / "expected"))
    assert cli(0, "night", "missing", NIGHT) == f"/ctao/acada/{NIGHT}/f9\n"
    assert "1 expected file did not come" in cli(4, "night", "close", NIGHT)
    assert "2 forgotten" in cli(0, "night", "expect", NIGHT, "--clear")
    assert "lacks" in cli(0, "night", "show", NIGHT)
    assert "needs" not in cli(2, "night", "close", NIGHT, "--as-it-is")
    settle(instance)
    assert "would be closed with 2 files" in cli(0, "night", "close", NIGHT, "--dry-run")
    assert "receipt 1 names 2 files" in cli(0, "night", "close", NIGHT, "--by", "maria")
    assert json.loads(cli(0, "night", "show", NIGHT, "--json"))["receipts"][0]["closed_by"] == "maria"
    receipt = home / "receipt.txt"
    cli(0, "night", "receipt", NIGHT, "--output", str(receipt))
    assert receipt.read_text() == cli(0, "night", "receipt", NIGHT)
    assert "is as it was signed, with 2 files" in cli(0, "night", "receipt", "--verify", str(receipt))
    (home / "key.pem").write_text(cli(0, "night", "key"))
    told = cli(0, "night", "receipt", "--verify", str(receipt), "--key", str(home / "key.pem"), "--json")
    assert json.loads(told)["files"] == 2
    receipt.write_text(receipt.read_text().replace("maria", "marie"))
    assert "the signature is not one of this file" in cli(7, "night", "receipt", "--verify", str(receipt))
    cli(2, "night", "receipt")
    cli(3, "night", "receipt", "2031-01-01")
    cli(3, "night", "show", "2031-01-01")


def test_quality_is_listed_shown_recorded_and_alarms_end_with_status_1(instance: Instance, cli: Cli):
    assert "pointing" in cli(0, "quality", "list")
    assert "every figure is in its range" in cli(0, "quality", "alarms")
    name = f"/ctao/acada/{NIGHT}/f1"
    assert "would be noted" in cli(0, "quality", "record", name, "pointing=70", "--dry-run")
    cli(0, "quality", "record", name, "pointing=70")
    cli(0, "night", "list")
    alarms = json.loads(cli(1, "quality", "alarms", "--json"))
    assert alarms[0]["told"].startswith(f"pointing of LSTN-01 in night {NIGHT}: 70 deg is above 60 deg")
    assert NIGHT in cli(0, "quality", "show", "pointing", "--by-element")
    assert name in cli(0, "quality", "files", "pointing", NIGHT, "--out-of-range")
    assert "quality_alarms" in cli(0, "status", "--json")
    cli(2, "quality", "record", name, "pointing")
    cli(3, "quality", "show", "pointin")
    cli(0, "quality", "remove", "pointing")
    cli(3, "quality", "show", "pointing")
