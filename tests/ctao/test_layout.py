"""Places and names of delivered files."""

from datetime import UTC, date, datetime

import pytest

from lightkeeper_ctao.layout import ELEMENTS, in_night, parse_delivery

IDS = "SBID0000000002000000066_OBSID0000000002000000200"
LST_1 = (
    "/ctao/acada/DL0/LSTN-01/ctao-acada-n/acada-adh/events/2026/03/14/"
    f"TEL001_SDH001_20260314T210023_{IDS}_TEL_SHOWER_CHUNK000.fits.fz"
)


def problems_of(path):
    return parse_delivery(path)[1]


def test_path_and_name_of_a_telescope_file_are_read():
    delivery, problems = parse_delivery(LST_1)
    assert problems == []
    assert delivery is not None
    assert (delivery.vo, delivery.scope, delivery.level) == ("ctao", "acada", "DL0")
    assert (delivery.array_element, delivery.site, delivery.product_type) == (
        "LSTN-01",
        "CTAO-North",
        "events",
    )
    assert (delivery.tel_id, delivery.subarray_id, delivery.chunk_id) == (1, None, 0)
    assert (delivery.source, delivery.source_id) == ("SDH", 1)
    assert (delivery.sb_id, delivery.obs_id) == (2000000066, 2000000200)
    assert (delivery.stream, delivery.content) == ("TEL", "SHOWER")
    assert delivery.night == date(2026, 3, 14)
    assert delivery.start == datetime(2026, 3, 14, 21, 0, 23, tzinfo=UTC)


def test_the_shorter_layout_without_a_program_folder_is_read():
    delivery, problems = parse_delivery(
        "/ctao/acada/DL0/LSTN-01/ctao-north/events/2026/01/31/"
        "TEL001_SDH0000_20260131T210000_SBID0000000000000000123_OBSID0000000000000000456_TEL_SHOWER_CHUNK000.fits.fz"
    )
    assert problems == []
    assert delivery is not None
    assert (delivery.program, delivery.obs_id, delivery.source_id) == ("", 456, 0)


def test_a_subarray_file_takes_its_site_from_the_folder():
    folder = "/ctao/acada/DL0/ARRAY/ctao-acada-s/acada-adh/triggers/2026/03/14"
    delivery, problems = parse_delivery(f"{folder}/SUB007_SWAT001_20260315T010000_{IDS}_SUBARRAY_CHUNK003.fits.fz")
    assert problems == []
    assert delivery is not None
    assert (delivery.site, delivery.subarray_id, delivery.tel_id) == ("CTAO-South", 7, None)
    assert (delivery.stream, delivery.chunk_id) == ("SUBARRAY", 3)


@pytest.mark.feature("S0-020")
def test_the_northern_array_has_four_large_and_nine_medium_telescopes():
    telescopes = {e.name for e in ELEMENTS.values() if e.site == "CTAO-North" and e.is_telescope}
    assert telescopes == {f"LSTN-{i:02d}" for i in range(1, 5)} | {f"MSTN-{i:02d}" for i in range(1, 10)}
    for name in telescopes:
        path = LST_1.replace("LSTN-01", name).replace("TEL001", f"TEL{ELEMENTS[name].ae_id:03d}")
        assert problems_of(path) == []


@pytest.mark.feature("S0-020")
def test_a_fifth_large_telescope_in_the_north_does_not_exist():
    assert problems_of(LST_1.replace("LSTN-01", "LSTN-05")) == ["'LSTN-05' is not an array element of the observatory"]


@pytest.mark.feature("S0-023")
def test_the_southern_array_has_fourteen_medium_and_thirty_seven_small_telescopes():
    names = [f"MSTS-{i:02d}" for i in range(1, 15)] + [f"SSTS-{i:02d}" for i in range(1, 38)]
    for name in names:
        path = LST_1.replace("LSTN-01", name).replace("ctao-acada-n", "ctao-acada-s")
        path = path.replace("TEL001", f"TEL{ELEMENTS[name].ae_id:03d}").replace("20260314T21", "20260315T01")
        delivery, problems = parse_delivery(path)
        assert (problems, delivery and delivery.site) == ([], "CTAO-South")
    assert "SSTS-38" not in ELEMENTS
    assert "MSTS-15" not in ELEMENTS


def test_every_number_belongs_to_one_element_only():
    assert len({element.ae_id for element in ELEMENTS.values()}) == len(ELEMENTS)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("LSTN-01", "LSTN-02"), "the name says TEL 1, but LSTN-02 is number 2"),
        (("LSTN-01", "ARRAY"), "TEL001 is one element; its files do not lie below ARRAY"),
        (("acada-n/", "acada-s/"), "LSTN-01 is at CTAO-North, but the folder 'ctao-acada-s' says CTAO-South"),
        (
            ("/events/", "/evts/"),
            "'evts' is not a product type; known are events, triggers, monitoring, service",
        ),
        (("/events/", "/triggers/"), "the folder 'triggers' holds files of subarrays, the name says TEL"),
        (("/DL0/", "/DL9/"), "'DL9' is not a data level"),
        (("/03/14/", "/02/30/"), "'2026/02/30' is not a date folder (YYYY/MM/DD)"),
        (("/03/14/", "/3/14/"), "'2026/3/14' is not a date folder (YYYY/MM/DD)"),
        (("T210023", "T250023"), "the time '20260314T250023' in the name does not exist"),
        (("TEL001_", "Tel1_"), "does not follow the pattern"),
        (("CHUNK000", "CHUNK٣"), "does not follow the pattern"),
        (
            ("20260314T21", "20260316T21"),
            "the name's time 2026-03-16T21:00:23 is not in the folder's night, 2026-03-14",
        ),
        (("/ctao/acada/", "/"), "is outside the directory layout"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(change, problem):
    assert any(problem in said for said in problems_of(LST_1.replace(*change)))


def test_an_array_file_needs_a_folder_that_tells_the_site():
    path = "/ctao/acada/DL0/ARRAY/somebody/triggers/2026/03/14/SUB002_SWAT001_20260314T210023"
    assert any("does not tell the site" in said for said in problems_of(f"{path}_{IDS}_TEL_CHUNK000.fits.fz"))


def test_all_problems_are_said_not_only_the_first():
    path = LST_1.replace("LSTN-01", "LSTN-05").replace("/events/", "/evts/").replace("/DL0/", "/DL9/")
    assert len(problems_of(path)) == 3


def test_a_night_lasts_from_noon_to_noon_of_local_time():
    night = date(2026, 3, 14)
    assert in_night(datetime(2026, 3, 14, 12, 30, tzinfo=UTC), night, "CTAO-North")
    assert in_night(datetime(2026, 3, 15, 11, 30, tzinfo=UTC), night, "CTAO-North")
    assert not in_night(datetime(2026, 3, 15, 12, 30, tzinfo=UTC), night, "CTAO-North")
    assert not in_night(datetime(2026, 3, 14, 13, 0, tzinfo=UTC), night, "CTAO-South")
    assert in_night(datetime(2026, 3, 15, 14, 0, tzinfo=UTC), night, "CTAO-South")
