"""A campaign that reprocesses raw data from tape to science data, as the observatory will do it again and again.

The raw files lie on tape only; three linked steps make level 1, 2 and 3 of them. The second campaign does the same on
the same files, and what it makes takes the place of what the first one made.
"""

from typing import Any

import pytest
from tests.steps.test_stage import OBS, TapeWorld, tape, with_tape  # noqa: F401  # fixtures
from tests.steps.test_work import Hands, go_on, submit

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.steps import catalogue, delete, files, replicate, report, run, stage, transfer
from lightkeeper.steps.catalogue import Wanted

STEPS = (
    {"query": {"kind": "a", "level": 0}, "group_size": 2},
    {"query": {"level": 1}, "group_size": 1, "parent": 1},
    {"query": {"level": 2}, "group_size": 1, "parent": 2},
)
RAW = OBS[:4]


def campaign(silo: TapeWorld, name: str, *, rotten: bool = False) -> list[str]:
    """Submit the production and do all that it leads to; the names of the science files that it made. If wanted, the
    first of them is not what its job made when it is looked at."""
    world = silo.world
    submit(world, *STEPS, name=name)
    hands = Hands.at(world, "North", name)
    while world.value("SELECT state::text FROM production WHERE name = %s", name) != "Completed":
        go_on(world)
        stage.stage(world.ctx)
        while replicate.settle(world.ctx) + transfer.carry_out(world.ctx) + delete.delete(world.ctx):
            pass
        job = hands.claim()
        if job is None:
            continue
        told = hands.upload(job)
        if rotten and science(world, name) == world.value("SELECT transformation_id FROM job WHERE job_id = %s",
                                                          job["job_id"]):  # fmt: skip
            place, (output,) = job["upload"], job["outputs"]
            PosixStorage(place["storage"], place["root"]).write(f"{place['directory']}/{output}", [b"rotten"])
            rotten = False
        run.finish(world.ctx, hands.pilot, job["job_id"], told)
    return found(silo, f'level = 3 and directory = "/test/products/{science(world, name)}"')


def science(world: Any, production: str) -> int:
    """The transformation that makes the science files of a production."""
    return world.value(
        "SELECT transformation_id FROM transformation JOIN production p USING (production_id)"
        " WHERE p.name = %s AND step = 3",
        production,
    )


def found(silo: TapeWorld, query: str) -> list[str]:
    return sorted(file.lfn for file in catalogue.find(silo.ctx, Wanted(query)))


@pytest.mark.feature("S0-104", "S0-109", "S0-110", "S2-004", "S2-006", "S2-008", "S3-006", "S3-010", "S3-019")
def test_raw_data_on_tape_are_reprocessed_to_science_data_again_and_the_newer_pass_takes_the_place(
    tape: TapeWorld,  # noqa: F811
):
    tape.only_on_tape(*RAW, kind="a")
    first = campaign(tape, "pass1", rotten=True)
    assert len(first) == 2
    told = tape.world.value("SELECT application_status FROM job WHERE application_status LIKE '%not what the pilot%'")
    assert told, "what was damaged was refused, and made again"
    for name in first:
        story = report.why_file(tape.ctx, name)
        assert len({copy.site for copy in story.replicas}) == 2
        assert [step.depth for step in story.made_from] == [0, 1, 2, 3, 3]
        assert {step.lfn for step in story.made_from if step.depth == 3} < set(RAW)

    second = campaign(tape, "pass2")
    assert len(second) == 2
    assert found(tape, "level = 3") == sorted(first + second)
    files.supersede(tape.ctx, list(zip(first, second, strict=True)), "made again with newer software")
    assert found(tape, "level = 3") == second
    assert found(tape, "level = 3 and file_state = Superseded") == first
    assert tape.statistics()["staged"] >= len(RAW)
