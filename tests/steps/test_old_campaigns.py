"""Campaigns of many years and many layouts: found, read, counted, and done once more."""

import json

import pytest
from tests.chaos.clock import pass_time
from tests.conftest import World
from tests.steps.test_work import Hands, do_all

from lightkeeper.domain.query import Query
from lightkeeper.steps import manifests, produce, productions, report
from lightkeeper.store import db, queries, topology
from lightkeeper.store import productions as store

YEARS = 10


def campaign(name: str) -> str:
    return json.dumps({"steps": [{"query": {"level": 0, "kind": name}, "group_size": 2}]})


def made(world: World, kind: str) -> list[str]:
    """Products of a kind, by the query of their metadata."""
    with world.ctx.db.transaction() as conn:
        vocabulary = topology.vocabulary(conn)
        query = Query.from_map({"level": 1, "kind": kind}, vocabulary)
        plan = queries.compile_query(query, vocabulary, db.now(conn))
        return [lfn for _, lfn in queries.in_order_of_name(conn, plan)]


@pytest.mark.feature("S0-001")
def test_a_campaign_of_ten_years_ago_is_found_read_and_done_once_more(world: World):
    hands = Hands.at(world, "North")
    for year in range(YEARS):
        name = f"prod{year}"
        world.register(*(f"/test/raw/{name}/n{n}.plain" for n in range(4)), kind=name, night=f"{2016 + year}-01-02")
        produce.submit(world.ctx, name, campaign(name), {})
        do_all(world, hands)
        manifests.write_due(world.ctx)
        pass_time(world, days=365)
        hands = Hands.at(world, "North", name)
    with world.ctx.db.transaction() as conn:
        found = {one.name: one for one in store.summaries(conn)}
        now = conn.execute("SELECT now()").fetchone()
    assert now
    assert len(found) == YEARS
    assert {str(one.state) for one in found.values()} == {"Completed"}
    assert (now[0] - found["prod0"].created).days >= 365 * YEARS

    first = made(world, "prod0")
    assert len(first) == 2
    for lfn in first:
        with world.ctx.storage(next(s for s in world.storages if s.name == "north")).open(lfn) as file:
            assert file.read().startswith(b"made by task")
        raw = [step.lfn for step in report.why_file(world.ctx, lfn).made_from if step.depth == 1]
        assert all(name.startswith("/test/raw/prod0/") for name in raw)

    text, beside, _ = productions.clone(world.ctx, "prod0", "prod0-again", {})
    produce.submit(world.ctx, "prod0-again", text, beside)
    do_all(world, hands)
    again = productions.show(world.ctx, "prod0-again")
    assert (str(again.of.state), again.of.files, again.of.outputs) == ("Completed", 4, 2)
    assert len(made(world, "prod0")) == 4, "beside those of ten years ago"


@pytest.mark.feature("S0-002")
def test_one_call_makes_as_many_products_of_every_layout(world: World):
    layouts, particles = ("Alpha", "Beta", "Gamma"), ("gamma", "electron", "proton", "helium")
    for layout in layouts:
        for particle in particles:
            kind = f"{layout}-{particle}"
            world.register(*(f"/test/raw/{kind}/n{n}.plain" for n in range(4)), kind=kind)
    values = {"layout": layouts, "particle": particles}
    productions.submit_all(world.ctx, "c", campaign("$layout-$particle"), {}, values)
    do_all(world, Hands.at(world, "North"))
    counts = {layout: [len(made(world, f"{layout}-{particle}")) for particle in particles] for layout in layouts}
    assert counts == {layout: [2, 2, 2, 2] for layout in layouts}
