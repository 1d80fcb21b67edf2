"""Places and names of delivered files."""

from datetime import UTC, date, datetime
from io import BytesIO
from pathlib import PurePosixPath

import pytest

from lightkeeper.domain.errors import Invalid
from lightkeeper.domain.names import lfn_below
from lightkeeper_ctao.layout import ELEMENTS, in_night, night_of, parse_delivery
from lightkeeper_ctao.products import FitsReader, parse_product_type

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
    assert problems_of(LST_1.replace("LSTN-01", "LSTN-05")) == [
        "'LSTN-05' is not an array element of the observatory; there are LSTN-01 to LSTN-04"
    ]


def test_an_element_whose_kind_does_not_stand_yet_is_said_to():
    assert "no SCTS stands yet" in problems_of(LST_1.replace("LSTN-01", "SCTS-01"))[0]


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
        (("/ctao/", "/ctbo/"), "the path must start with /ctao/, not /ctbo/"),
        (("/acada/", f"/{'a' * 26}/"), "has 26 characters; it may have 25"),
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


def test_the_night_begins_at_noon_of_the_clock_summer_and_winter():
    for month, noon_north, noon_south in ((1, 12, 15), (7, 11, 16)):
        for site, noon in (("CTAO-North", noon_north), ("CTAO-South", noon_south)):
            assert night_of(datetime(2026, month, 14, noon, 0, tzinfo=UTC), site) == date(2026, month, 14)
            assert night_of(datetime(2026, month, 14, noon - 1, 59, 59, tzinfo=UTC), site) == date(2026, month, 13)


@pytest.mark.parametrize(
    ("product", "change"),
    [
        ("DL0/Event/Telescope/AirShower", ()),
        ("DL0/Event/Telescope/MuonCandidate", ("TEL_SHOWER", "TEL_MUON")),
        ("DL0/Event/Telescope/Calibration", ("TEL_SHOWER", "TEL_CALIB")),
        (None, ("_TEL_SHOWER", "")),
    ],
)
def test_path_and_name_tell_the_product_type(product, change):
    delivery, problems = parse_delivery(LST_1.replace(*change) if change else LST_1)
    assert problems == []
    assert delivery is not None
    assert delivery.product == product
    if product:
        assert "/".join(parse_product_type(product)) == product


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("DL3/Binned/Region/FluxMap", "products of level DL3 are not Binned"),
        ("DL5/Event/Region/FluxMap", "products of level DL5 are not Event"),
        ("DL9/Event/Telescope/AirShower", "'DL9' is no data level"),
        ("DL0/Events/Telescope/AirShower", "'Events' is no division"),
        ("DL0/Event/Camera/AirShower", "'Camera' is no association"),
        ("DL0/Event", "is not a product type"),
    ],
)
def test_product_types_that_cannot_be_are_refused(wrong, why):
    with pytest.raises(Invalid, match=why):
        parse_product_type(wrong)


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("ctao/acada/x", "must be absolute"),
        ("/elsewhere/ctao/acada/x", "is not within data_path"),
        ("/data/../etc/passwd", "is not within data_path"),
        ("/data", "is not within data_path"),
        ("/data/ctao/ac ada/x", "is not allowed"),
    ],
)
def test_a_file_outside_the_data_path_has_no_name(file, why):
    with pytest.raises(Invalid, match=why):
        lfn_below(PurePosixPath(file), PurePosixPath("/data"))


def test_a_delivery_of_another_organisation_is_told():
    lfn = lfn_below(PurePosixPath("/data/other/acada/x"), PurePosixPath("/data"))
    assert "the path must start with /ctao/, not /other/" in parse_delivery(lfn)[1]


def test_the_name_is_what_follows_the_data_path():
    assert lfn_below(PurePosixPath("/data" + LST_1), PurePosixPath("/data")) == LST_1


def card(key, value):
    return f"{key:8s}= {value}".ljust(80).encode()


def primary(*cards):
    header = b"".join([card("SIMPLE", "T"), card("BITPIX", "8"), card("NAXIS", "0"), *cards, b"END".ljust(80)])
    return header.ljust(2880)


def test_cards_of_the_data_model_become_metadata_of_a_product():
    cards = [
        card(key, f"'{value}'")
        for key, value in (
            ("DATALEVL", "DL3"),
            ("DATADIV", "Event"),
            ("DATAASSO", "Subarray"),
            ("DATATYPE", "Observation"),
            ("RIGHTS", "proprietary"),
        )
    ]
    product = FitsReader().read(BytesIO(primary(*cards, card("OBS_ID", "17"))), "/ctao/prod/DL3/x.fits")
    assert product.problems == (), "checksums that are not there are not wrong"
    assert product.meta == {
        "data_level": 3,
        "product_type": "DL3/Event/Subarray/Observation",
        "division": "Event",
        "obs_id": 17,
        "rights": "proprietary",
    }


@pytest.mark.parametrize(
    ("cards", "why"),
    [
        ([card("CHECKSUM", "'0000000000000001'"), card("DATASUM", "'0'")], "CHECKSUM of HDU PRIMARY is wrong"),
        ([card("DATALEVL", "'DL3'"), card("DATADIV", "'Binned'")], "is not a product type"),
    ],
)
def test_a_product_with_a_wrong_sum_or_an_impossible_type_is_refused(cards, why):
    problems = FitsReader().read(BytesIO(primary(*cards)), "/ctao/prod/DL3/x.fits").problems
    assert any(why in problem for problem in problems)
