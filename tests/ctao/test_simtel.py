"""Reading simulated runs: names in two fashions, and streams that must decompress to their end."""

import gzip
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightkeeper.domain.catalog import Vocabulary
from lightkeeper_ctao.keys import KEYS
from lightkeeper_ctao.simtel import SimtelReader, parse_run

zstandard = pytest.importorskip("zstandard")

SIMTEL = Path(__file__).parents[2].parent / "shared" / "data" / "simtel"
with_shared = pytest.mark.skipif(not SIMTEL.exists(), reason="the shared data are not here")
GAMMA = "gamma_diffuse_run000010_za20deg_azm000deg_North_alpha_6.0.0_test_file.simtel.zst"
CAMPAIGN = "/ctao/simulation/PROD6/"


def an_object(size):
    return b"\x37\x8a\x1f\xd4" + bytes(8) + size.to_bytes(4, "little") + bytes(i % 251 for i in range(size))


RUN = b"".join(an_object(size) for size in (0, 5000, 17, 200_000, 16))
PACKED = zstandard.ZstdCompressor(write_checksum=True).compress(RUN)


def problems_of(content, path=CAMPAIGN + GAMMA):
    return SimtelReader().read(io.BytesIO(content), path).problems


def test_a_name_by_azimuth_tells_the_site_and_the_direction_of_flight():
    assert parse_run(GAMMA) == (
        {
            "data_level": -1,
            "outputType": "Data",
            "tel_sim_prog": "sim_telarray",
            "particle": "gamma-diffuse",
            "runNumber": "00000010",
            "thetaP": 20.0,
            "phiP": 180.0,
            "array_layout": "North_alpha_6.0.0",
            "site": "LaPalma",
        },
        [],
    )


def test_versions_before_the_name_do_not_disturb():
    meta, problems = parse_run("v0.33.0__proton_run000001_za20deg_azm180deg_North_alpha_6.0.2_test.simtel.zst")
    assert problems == []
    assert (meta["particle"], meta["runNumber"], meta["phiP"]) == ("proton", "00000001", 0.0)
    assert meta["array_layout"] == "North_alpha_6.0.2"
    meta, _ = parse_run("v0.35.0__proton_run000001_za20deg_azm180deg_North_CTAO-North-Alpha_7.0.0_test.simtel.zst")
    assert meta["array_layout"] == "North_CTAO-North-Alpha_7.0.0"


def test_a_name_of_a_production_has_its_angles_as_they_are():
    meta, problems = parse_run("proton_20deg_180deg_run000012___cta-prod6-paranal-2147m-Paranal-dark.simtel.zst")
    assert problems == []
    assert (meta["particle"], meta["runNumber"]) == ("proton", "00000012")
    assert (meta["thetaP"], meta["phiP"], meta["site"]) == (20.0, 180.0, "Paranal")
    meta, _ = parse_run("gamma_40deg_0deg_run7___cta-prod5-lapalma-x-LaPalma-dark_cone10.simtel.zst")
    assert (meta["site"], meta["view_cone"]) == ("LaPalma", 10.0)
    assert meta["array_layout"] == "cta-prod5-lapalma-x-LaPalma-dark"


def test_a_name_that_tells_no_site_gets_none():
    meta, problems = parse_run("electron_20deg_0deg_run000012___cta-prod6-hyperarray.simtel.zst")
    assert problems == []
    assert "site" not in meta


def test_a_file_without_a_run_number_is_refused():
    assert problems_of(PACKED, CAMPAIGN + "camsettings_v6.simtel.zst") == (
        "the name 'camsettings_v6.simtel.zst' has no run number (run000010)",
    )


def test_the_campaign_is_the_folder():
    product = SimtelReader().read(io.BytesIO(PACKED), CAMPAIGN + GAMMA)
    assert product.problems == ()
    assert product.meta["MCCampaign"] == "PROD6"
    Vocabulary(list(KEYS)).split(dict(product.meta))
    assert any("outside the layout" in said for said in problems_of(PACKED, "/ctao/simulation/" + GAMMA))


def test_of_what_a_production_simulates_only_the_bytes_are_judged():
    name = "/ctao/prod/PROD6/LaPalma/gamma/simpipe/5/Data/000xxx/gamma_run000001.simtel.zst"
    assert problems_of(PACKED, name) == ()
    assert any("is cut" in said for said in problems_of(PACKED[:-1], name))


@with_shared
@pytest.mark.parametrize("path", sorted(SIMTEL.glob("*run0*")) or [None], ids=lambda path: str(path)[-40:])
def test_real_runs_are_whole_and_a_cut_one_is_found(path):
    content = path.read_bytes()
    name = CAMPAIGN + path.name
    assert problems_of(content, name) == ()
    for length in (len(content) - 1, 2_000_000, 1000):
        assert problems_of(content[:length], name) == (
            f"the file is cut: the compressed stream does not end within its {length} bytes",
        )
    damaged = bytearray(content)
    damaged[len(content) // 3] ^= 1
    assert any("damaged" in said for said in problems_of(bytes(damaged), name))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_cuts_and_flips_never_raise_and_are_found(data):
    damaged = bytearray(PACKED)
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(PACKED) - 1)) :]
    else:
        damaged[data.draw(st.integers(20, len(PACKED) - 1))] ^= data.draw(st.integers(1, 255))
    assert problems_of(bytes(damaged))


def test_a_run_cut_before_it_was_compressed_is_found():
    assert problems_of(zstandard.compress(RUN[:-10])) == (
        "the run is cut: the last of its 5 data objects is not complete",
    )


def test_something_else_compressed_is_found():
    assert any("is not a run" in said for said in problems_of(zstandard.compress(b"not a run" * 100)))


def test_gzip_in_several_members_is_read_and_its_cut_found():
    name = CAMPAIGN + GAMMA.replace(".zst", ".gz")
    packed = gzip.compress(RUN[:5000]) + gzip.compress(RUN[5000:])
    assert problems_of(packed, name) == ()
    assert any("is cut" in said for said in problems_of(packed[:-1], name))
    damaged = bytearray(packed)
    damaged[-6] ^= 1
    assert any("damaged" in said for said in problems_of(bytes(damaged), name))


def test_a_file_of_countless_empty_streams_is_refused():
    assert any("compressed streams" in said for said in problems_of(zstandard.compress(b"") * 20_000))


def test_a_stream_that_swells_without_end_is_refused():
    head = b"\x37\x8a\x1f\xd4" + bytes(8) + (0x3FFFFFFF).to_bytes(4, "little")
    packed = zstandard.compress(head + bytes(600 * 1024 * 1024))
    assert any("swells to more than" in said for said in problems_of(packed))
