"""Nights of any number of files of any size: valid, all different, announced when they are complete."""

import json
import os
import time
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightkeeper.cli import app
from lightkeeper.domain.errors import Invalid
from lightkeeper_ctao.dl0 import Dl0Reader
from lightkeeper_ctao.layout import ELEMENTS
from lightkeeper_ctao.simulate import NightPlan, stamp_night

NIGHT = date(2026, 6, 14)
TELESCOPES = tuple(ELEMENTS[name] for name in ("LSTN-01", "MSTN-09", "MSTS-14", "SSTS-37"))


def read(root: Path, path: Path):
    with path.open("rb") as file:
        return Dl0Reader().read(file, "/" + str(path.relative_to(root)))


def files(root: Path):
    return sorted(root.rglob("*.fits.fz"))


@pytest.mark.feature("S2-012", "S0-023")
def test_both_arrays_and_three_streams_are_valid_and_all_different(tmp_path):
    made = stamp_night(NightPlan(tmp_path, NIGHT, TELESCOPES, files=200))
    products = [read(tmp_path, path) for path in files(tmp_path)]
    assert [product.problems for product in products] == [()] * 200
    assert len({product.fixity.sha256 for product in products}) == 200
    assert sum(product.fixity.size for product in products) == made.size
    assert {product.meta["stream"] for product in products} == {"Telescope", "Subarray", "Trigger"}
    assert {product.meta["site"] for product in products} == {"CTAO-North", "CTAO-South"}
    assert {product.meta["observing_night"] for product in products} == {"2026-06-14"}
    assert {product.meta.get("tel_id") for product in products} == {None, *(one.ae_id for one in TELESCOPES)}
    for path in files(tmp_path):
        assert path.with_name(path.name + ".trigger").readlink() == Path(path.name)


@pytest.mark.feature("S4-006")
def test_files_are_as_large_as_wanted_and_valid(tmp_path):
    stamp_night(NightPlan(tmp_path, NIGHT, TELESCOPES[:1], files=3, size=3_000_001))
    for path in files(tmp_path):
        assert 3_000_001 <= path.stat().st_size < 3_000_001 + 2880
        assert read(tmp_path, path).problems == ()


def test_each_damaged_delivery_has_its_problem(tmp_path):
    made = stamp_night(NightPlan(tmp_path, NIGHT, TELESCOPES[:1], files=30, bad=26))
    assert len({one.fault for one in made.bad}) == 13
    for one in made.bad:
        path = tmp_path / one.path[1:]
        assert path.with_name(path.name + ".trigger").is_symlink()
        if path.exists():
            assert any(one.problem in said for said in read(tmp_path, path).problems), one.fault
    bad = {tmp_path / one.path[1:] for one in made.bad}
    good = [path for path in files(tmp_path) if path not in bad]
    assert len(good) == 30
    assert all(read(tmp_path, path).problems == () for path in good)


def test_several_processes_write_the_same_night(tmp_path):
    told: list[int] = []
    one = stamp_night(NightPlan(tmp_path / "one", NIGHT, TELESCOPES, files=120, bad=7))
    two = stamp_night(
        NightPlan(tmp_path / "two", NIGHT, TELESCOPES, files=120, bad=7), processes=2, progress=told.append
    )
    assert sorted(one.bad, key=str) == sorted(two.bad, key=str)
    names = [[path.relative_to(root) for path in files(root)] for root in (tmp_path / "one", tmp_path / "two")]
    assert names[0] == names[1]
    assert told == sorted(told)


def test_at_a_pace_files_come_one_after_the_other(tmp_path):
    plan = NightPlan(tmp_path, NIGHT, TELESCOPES[:1], files=12, observations=4, hours=1, pace=3600 / 0.8)
    begun = time.time()
    stamp_night(plan)
    came = sorted(os.lstat(path).st_mtime - begun for path in tmp_path.rglob("*.trigger"))
    assert came[-1] - came[0] >= 0.5, "the fourth observation begins after three quarters of the night"


@pytest.mark.parametrize(
    "wrong", [{"files": -1}, {"observations": 0}, {"hours": 13}, {"pace": 0}, {"telescopes": ()}, {"size": -1}]
)
def test_a_night_that_cannot_be_is_refused(tmp_path, wrong):
    with pytest.raises(Invalid):
        NightPlan(**{"root": tmp_path, "night": NIGHT, "telescopes": TELESCOPES, "files": 1} | wrong)


def test_the_command_writes_a_night_and_says_what_must_be_refused(tmp_path):
    arguments = ["simulate", "night", str(tmp_path), "--night", "2026-03-14", "--files", "20", "--bad", "2"]
    planned = CliRunner().invoke(app, [*arguments, "--dry-run", "--json"])
    assert json.loads(planned.stdout)["files"] == 20
    assert files(tmp_path) == []
    done = CliRunner().invoke(app, [*arguments, "--processes", "1", "--json"])
    told = json.loads(done.stdout)
    assert (told["files"], told["bad"], len(told["refused"])) == (20, 2, 2)
    assert len(told["telescopes"]) == 13
    assert len(files(tmp_path)) == 22


def test_the_command_makes_showers_too(tmp_path):
    arguments = ["simulate", "night", str(tmp_path), "--night", "2026-03-14", "--telescopes", "LSTN-01,LSTN-02"]
    done = CliRunner().invoke(app, [*arguments, "--showers", "3", "--observations", "2", "--json"])
    assert json.loads(done.stdout)["files"] == 2 * (2 + 2) == len(files(tmp_path))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--telescopes", "LSTN-05"], "'LSTN-05' is not a telescope"),
        (["--site", "east"], "'east' is not a site"),
        (["--night", "tomorrow"], "'tomorrow' is no date"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, options, why):
    done = CliRunner().invoke(app, ["simulate", "night", str(tmp_path), *options])
    assert isinstance(done.exception, Invalid)
    assert why in done.exception.message
