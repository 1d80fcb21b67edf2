"""The pages of nights: volumes by division, how far a night is, quality figures as plots."""

import re

import pytest
from fastapi.testclient import TestClient
from tests.conftest import World

from lightkeeper.api import make_api
from lightkeeper.domain.quality import Figure, NightValue
from lightkeeper.steps import nights, topology
from lightkeeper.store.nights import Volume
from lightkeeper.web.nights import HEIGHT, WIDTH, chart, plot

FIGURES = 'quality: {darkness: {key: zenith, files: {level: 0}, low: 10, high: 60, unit: deg, description: "<i>dark"}}'


def value(night: str, mean: float, bad: int = 0) -> NightValue:
    return NightValue(night, "", 3, mean, mean - 1, mean + 1, 0, bad)


def test_a_column_is_as_high_as_its_part_of_the_largest_night():
    drawn = chart([Volume("b", "Event", 80), Volume("b", "Service", 20), Volume("a", "Event", 50)], ["a", "b"])
    assert [[piece.height for piece in column] for column in drawn.columns] == [[50], [80, 20]]
    assert [(d.name, d.bytes) for d in drawn.shares] == [("Event", 130), ("Service", 20)]
    assert chart([], []).most == 0


def test_a_plot_shows_the_range_and_marks_what_is_out_of_it():
    drawn = plot(Figure("f", "x", low=10, high=60), [value("a", 20), value("b", 70, bad=2)])
    assert [point.bad for point in drawn.points] == [False, True]
    assert drawn.points[1].y < drawn.band_top < drawn.points[0].y < drawn.band_bottom, "up is more"
    assert drawn.out_of_range == 2
    far = plot(Figure("f", "x", high=1e9), [value("a", 20), value("b", 21)])
    assert (far.band_top, far.band_bottom) == (0, HEIGHT)
    assert far.points[0].y - far.points[1].y > 10, "a bound far away does not flatten the values"
    alone = plot(Figure("f", "x", low=0), [value("a", 5)])
    assert (alone.points[0].x, 0 <= alone.points[0].y <= HEIGHT) == (WIDTH / 2, True)


@pytest.mark.feature("S0-022")
def test_the_pages_tell_what_came_what_lacks_and_what_was_signed_without_believing_any_text(world: World):
    topology.apply(world.ctx, FIGURES)
    hostile = "<script>alert(1)</script>"
    for n, night in enumerate(("2030-01-02", "2030-01-03")):
        world.deliver(f"/test/{night}/n.plain", night=night, kind=hostile, zenith=30.0 + 50 * n)
    world.ingest()
    world.settle()
    world.deliver("/test/2030-01-03/bad.plain", content="size=1")
    world.ingest()
    nights.close(world.ctx, "2030-01-02", by=hostile)
    client = TestClient(make_api(world.ctx, "token"))
    page = client.get("/nights").text
    assert 'href="/nights/2030-01-03"' in page and "Closed" in page
    assert "80 deg is above 60 deg" in page and "<polyline" in page
    one = client.get("/nights/2030-01-03").text
    assert "refused" in one and "the file says it has 1 bytes" in one
    assert re.search(r'<li>\s*<time datetime="\d{4}-[^"]+">[^<]+</time>\s*<div><p class="path"', one), "when it was"
    assert "revision 1" in client.get("/nights/2030-01-02").text
    for text in (page, one, client.get("/nights/2030-01-02").text):
        assert "<script>alert" not in text and "<i>dark" not in text
    assert client.get("/nights/1999-01-01").status_code == 404
    receipt = client.get("/api/v1/nights/2030-01-02/receipt")
    assert receipt.status_code == 200 and receipt.headers["content-type"].startswith("text/plain")


def test_the_pages_are_whole_when_nothing_has_come_in(world: World):
    page = TestClient(make_api(world.ctx, "token")).get("/nights")
    assert page.status_code == 200 and "No night has come in yet" in page.text
