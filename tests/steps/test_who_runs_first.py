"""Which waiting jobs a pilot gets: by priorities, by shares, and only what its site is allowed and able to run."""

import json
from collections import Counter

import pytest
from tests.conftest import World
from tests.steps.test_work import Hands, do_all, go_on, submit, transformation

from lightkeeper.domain.errors import Invalid
from lightkeeper.steps import produce, productions, run, topology, transformations
from lightkeeper.steps.queue import Queue
from lightkeeper.steps.why import why


@pytest.mark.feature("S2-027")
def test_what_became_urgent_goes_before_what_waits_already(world: World):
    world.register(*(f"/test/raw/n{n}.plain" for n in range(4)))
    submit(world, {"query": {"level": 0}, "group_size": 1}, name="low")
    submit(world, {"query": {"level": 0}, "group_size": 2}, name="high")
    go_on(world)
    transformations.set_priority(world.ctx, ["high"], 1)
    hands = Hands.at(world, "North")
    claimed = [hands.claim() for _ in range(6)]
    assert [job["transformation"][:8] for job in claimed if job] == [*["00000002"] * 2, *["00000001"] * 4]
    for job in claimed:
        assert job
        hands.finish(job)


@pytest.mark.feature("S0-010")
def test_productions_share_pilots_by_their_shares(world: World):
    world.register(*(f"/test/raw/n{n:02}.plain" for n in range(12)))
    for name in ("one", "three"):
        submit(world, {"query": {"level": 0}, "group_size": 1}, name=name)
    go_on(world)
    transformations.set_share(world.ctx, "production", "three", 3.0)
    hands, queue = Hands.at(world, "North"), Queue()
    claimed = [job for _ in range(12) for job in run.claim(world.ctx, hands.pilot, queue=queue)]
    by = [job["transformation"][:8] for job in claimed]
    assert (by.count("00000001"), by.count("00000002")) == (3, 9)
    with pytest.raises(Invalid, match="no kind of share"):
        transformations.set_share(world.ctx, "person", "me", 3.0)
    for job in claimed:
        hands.finish(job)


@pytest.mark.feature("S0-016")
def test_pilots_are_started_and_get_jobs_only_where_these_can_run(world: World):
    topology.apply(
        world.ctx,
        "sites: {East: {computing: {executor: none, pilots: 2, processors: 8, memory: 16 GB, tags: [gpu]}}}",
    )
    world.register("/test/raw/n1.plain", storage="north")
    submit(world, {"query": {"level": 0}, "group_size": 1, "processors": 4, "memory": 4000, "tags": ["gpu"]})
    go_on(world)
    assert Hands.at(world, "North").claim() is None
    assert run.keep_pilots(world.ctx, "http://nowhere") == 1
    assert world.value("SELECT site.name FROM pilot JOIN site USING (site_id) WHERE pilot.name LIKE 'East%%'") == "East"
    assert Hands.at(world, "East", "big").claim()


@pytest.mark.feature("S0-010")
def test_productions_of_two_groups_get_processors_by_the_shares_of_their_groups(world: World):
    world.register(*(f"/test/raw/n{n}.plain" for n in range(12)))
    for name, group in {"theirs": "mst", "ours": "lst", "ours-too": "lst"}.items():
        document = json.dumps({"steps": [{"query": {"level": 0}, "group_size": 1}]})
        produce.submit(world.ctx, name, document, {}, group=group)
    transformations.set_share(world.ctx, "group", "lst", 3.0)
    go_on(world)
    hands = Hands.at(world, "North")
    claimed = [hands.claim() for _ in range(16)]
    of = Counter(job["transformation"].partition("_")[0] for job in claimed if job)
    assert of == {"00000001": 4, "00000002": 6, "00000003": 6}
    productions.set_group(world.ctx, "theirs", "lst")
    transformations.set_share(world.ctx, "production", "theirs", 9.0)
    more = [hands.claim() for _ in range(4)]
    assert {job["transformation"].partition("_")[0] for job in more if job} == {"00000001"}
    for job in [*claimed, *more]:
        assert job
        hands.finish(job)
    do_all(world, hands)


def test_jobs_of_a_step_go_to_pilots_of_the_sites_that_it_names_and_to_no_others(world: World):
    world.register("/test/raw/n1.plain", "/test/raw/n2.plain", storage="north")
    world.register("/test/raw/e1.plain", storage="east")
    world.register("/test/raw/s1.plain", "/test/raw/s2.plain", storage="south")
    submit(world, {"query": {"level": 0}, "group_size": 1, "sites": ["North", "East"]})
    go_on(world)
    north, east, south = (Hands.at(world, site, site) for site in ("North", "East", "South"))
    assert south.claim() is None
    first = [hands.claim() for hands in (north, north, east)]
    read = [job["input_files"][0]["lfn"].rpartition("/")[2] for job in first if job]
    assert read == ["n1.plain", "n2.plain", "e1.plain"], "each its own first"
    others = [north.claim(), east.claim()]
    assert [job["input_files"][0]["lfn"] for job in others if job] == ["/test/raw/s1.plain", "/test/raw/s2.plain"]
    assert south.claim() is None
    for hands, job in zip((north, north, east, north, east), [*first, *others], strict=True):
        assert job
        hands.finish(job)
    go_on(world)
    do_all(world, north)


def test_tasks_without_input_are_done_at_the_sites_that_are_named(world: World):
    submit(world, {"group_size": 1, "without_input": True, "n_tasks": 3, "sites": ["East"]})
    go_on(world)
    assert Hands.at(world, "North").claim() is None
    assert why(world.ctx, "1").person is False
    do_all(world, Hands.at(world, "East", "east"))
    assert transformation(world).done == 3


def test_why_says_when_no_site_that_is_named_has_pilots(world: World):
    submit(world, {"group_size": 1, "without_input": True, "n_tasks": 3, "sites": ["South"]})
    go_on(world)
    answer = why(world.ctx, "1")
    assert answer.person
    assert answer.waits_for == "3 waiting for a pilot, and no site where they may run has any with what they need"
    assert why(world.ctx, "task 1").waits_for == "a pilot, but no site where it may run has any with what it needs"
    do_all(world, Hands.at(world, "South"))


def test_a_step_at_a_site_that_is_none_is_refused(world: World):
    with pytest.raises(Invalid, match="step 1: its destination 'Nort' is not a site") as told:
        submit(world, {"query": {"level": 0}, "group_size": 1, "sites": ["East", "Nort"]})
    assert "North" in told.value.hint
