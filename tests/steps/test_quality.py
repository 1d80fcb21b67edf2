"""Quality figures: from metadata of products, by night, with alarms when they are out of range."""

import pytest
from tests.conftest import World

from lightkeeper.domain.errors import Invalid, NotFound
from lightkeeper.steps import audit, nights, quality, topology

NIGHTS = ("2030-01-02", "2030-01-03")
FIGURES = """
quality:
  darkness: {key: zenith, files: {level: 0}, low: 10, high: 60, unit: deg}
  reduction: {reduction_to: 1, low: 50}
"""


def observed(world: World, *zeniths: tuple[str, str, float]) -> None:
    """Files with a number, which is the zenith angle: night, element, value."""
    for n, (night, element, zenith) in enumerate(zeniths):
        world.deliver(f"/test/{night}/n{n}.plain", night=night, kind=element, zenith=zenith)
    world.ingest()
    nights.count_all(world.ctx)


@pytest.mark.feature("S3-007")
def test_a_figure_goes_from_night_to_night_and_rings_an_alarm_out_of_range(world: World):
    topology.apply(world.ctx, FIGURES)
    assert topology.apply(world.ctx, FIGURES) == [], "applied twice it changes nothing"
    one, two = NIGHTS
    observed(world, (one, "LSTN-01", 20), (one, "LSTN-02", 40), (two, "LSTN-01", 30), (two, "LSTN-02", 80))
    trend = quality.trend(world.ctx, "darkness")
    assert [(v.night, v.files, v.mean, v.out_of_range) for v in trend] == [(one, 2, 30, 0), (two, 2, 55, 1)]
    by_element = quality.trend(world.ctx, "darkness", by_element=True)
    assert [(v.night, v.element, v.mean) for v in by_element][2:] == [(two, "LSTN-01", 30), (two, "LSTN-02", 80)]
    (alarm,) = quality.alarms(world.ctx)
    assert alarm.told == "darkness of LSTN-02 in night 2030-01-03: 80 deg is above 60 deg (1 value out of range)"
    (bad,) = quality.files(world.ctx, "darkness", two, only_out_of_range=True)
    assert (bad.lfn, bad.value, bad.above) == (f"/test/{two}/n3.plain", 80, True)


def test_an_alarm_ends_when_its_night_is_closed_and_the_receipt_has_it(world: World):
    topology.apply(world.ctx, FIGURES)
    observed(world, (NIGHTS[0], "LSTN-01", 5))
    world.settle()
    assert len(quality.alarms(world.ctx)) == 1
    nights.close(world.ctx, NIGHTS[0], by="maria")
    assert quality.alarms(world.ctx) == []
    assert "# quality: darkness of LSTN-01" in nights.receipt(world.ctx, NIGHTS[0])[2].read_text()


def test_a_figure_that_is_defined_later_is_counted_for_the_nights_before(world: World):
    observed(world, (NIGHTS[0], "LSTN-01", 5))
    topology.apply(world.ctx, FIGURES)
    nights.count_all(world.ctx)
    assert [v.least for v in quality.trend(world.ctx, "darkness")] == [5]
    topology.apply(world.ctx, FIGURES.replace("low: 10", "low: 1"))
    nights.count_all(world.ctx)
    assert quality.alarms(world.ctx) == []


def test_what_a_job_or_a_person_measured_is_recorded_on_the_file(world: World):
    topology.apply(world.ctx, FIGURES)
    observed(world, (NIGHTS[0], "LSTN-01", 20))
    name = f"/test/{NIGHTS[0]}/n0.plain"
    quality.record(world.ctx, name, {"darkness": 70}, dry_run=True)
    nights.count_all(world.ctx)
    assert quality.alarms(world.ctx) == []
    quality.record(world.ctx, name, {"darkness": 70})
    nights.count_all(world.ctx)
    assert quality.alarms(world.ctx)[0].value.most == 70
    with pytest.raises(Invalid, match="computed"):
        quality.record(world.ctx, name, {"reduction": 70})
    with pytest.raises(NotFound):
        quality.record(world.ctx, "/test/unknown", {"darkness": 1})
    with pytest.raises(NotFound, match="no quality figure"):
        quality.record(world.ctx, name, {"darknes": 1})


@pytest.mark.feature("S0-025")
def test_the_reduction_of_a_night_is_measured_and_alarms_under_its_target(world: World):
    topology.apply(world.ctx, FIGURES)
    world.register("/test/raw", level=0)
    world.register("/test/made", level=1)
    nights.count_all(world.ctx)
    (value,) = quality.trend(world.ctx, "reduction")
    assert value.mean == pytest.approx(len("content of /test/raw") / len("content of /test/made"))
    assert "below 50" in quality.alarms(world.ctx)[0].told
    assert nights.show(world.ctx, "2030-01-02").products[0].reduction == pytest.approx(value.mean)


def test_a_figure_that_cannot_be_is_refused(world: World):
    for wrong, told in (
        ("{key: night, low: 1}", "no number"),
        ("{key: zenith}", "no range"),
        ("{key: zenith, low: 3, high: 2}", "before it begins"),
        ("{low: 1}", "needs a key"),
        ("{key: zenith, low: 1, per: [night, night]}", "no time"),
        ("{key: zenit, low: 1}", "unknown metadata key"),
        ("{key: zenith, lo: 1}", "unknown key"),
    ):
        with pytest.raises(Invalid, match=told):
            topology.apply(world.ctx, f"quality: {{bad: {wrong}}}")


def test_counters_of_figures_equal_a_recount(world: World):
    topology.apply(world.ctx, FIGURES)
    observed(world, (NIGHTS[0], "LSTN-01", 20), (NIGHTS[0], "LSTN-02", 80))
    world.settle()
    nights.count_all(world.ctx)
    assert not [v for v in audit.fsck(world.ctx).violations if v.id == "I10"]
    world.value("UPDATE quality_count SET n_above = n_above + 1")
    assert [v for v in audit.fsck(world.ctx).violations if v.id == "I10"]
    world.value("UPDATE quality_count SET n_above = n_above - 1")


def test_a_figure_that_is_removed_is_forgotten(world: World):
    topology.apply(world.ctx, FIGURES)
    observed(world, (NIGHTS[0], "LSTN-01", 80))
    quality.remove(world.ctx, "darkness")
    assert [state.figure.name for state in quality.find(world.ctx)] == ["reduction"]
    assert quality.alarms(world.ctx) == []
