"""The walk over FITS files finds whatever is not as it was written."""

import hashlib
import io
import zlib
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightkeeper_ctao.fits import BLOCK, CHUNK, ones_complement, walk

SHARED = Path(__file__).parents[2].parent / "shared"
NIGHT = SHARED / "data" / "dl0" / "night_with_bad"
PROTOZFITS = find_spec("protozfits")
CAMERA_FILES = (
    sorted((Path(PROTOZFITS.submodule_search_locations[0]) / "tests" / "resources").glob("*.fits.fz"))
    if PROTOZFITS and PROTOZFITS.submodule_search_locations
    else []
)
SMALL = next((path for path in CAMERA_FILES if path.name == "example_LST_R1_10_evts.fits.fz"), None)

with_small = pytest.mark.skipif(SMALL is None, reason="the protozfits package carries no example files")


def walk_bytes(content, **options):
    return walk(io.BytesIO(content), **options)


def header(*cards):
    text = "".join(card.ljust(80) for card in [*cards, "END"])
    return text.ljust(-(-len(text) // BLOCK) * BLOCK).encode()


PRIMARY = header("SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    0")


@pytest.mark.parametrize("path", CAMERA_FILES, ids=lambda path: path.name)
def test_real_camera_files_are_whole(path):
    content = path.read_bytes()
    told = walk_bytes(content)
    assert told.problems == ()
    assert told.complete
    assert told.fixity.size == len(content)
    assert told.fixity.sha256 == hashlib.sha256(content).hexdigest()
    assert told.fixity.adler32 == f"{zlib.adler32(content):08x}"
    assert told.hdus[-1].name == "Events"


class Dribble(io.BytesIO):
    """A file that never gives as much as it is asked for."""

    def read(self, size=-1):
        return super().read(min(size, 7777))


@with_small
def test_short_reads_change_nothing():
    content = SMALL.read_bytes()
    assert walk(Dribble(content)) == walk_bytes(content)


def test_a_file_larger_than_memory_for_it_is_walked_in_pieces():
    size = 3 * CHUNK + 17
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size].ljust(-(-size // BLOCK) * BLOCK, b"\0")
    extension = header(
        "XTENSION= 'IMAGE   '",
        "BITPIX  =                    8",
        "NAXIS   =                    1",
        f"NAXIS1  = {size:20d}",
        "PCOUNT  =                    0",
        "GCOUNT  =                    1",
        "EXTNAME = 'BIG     '",
        "CHECKSUM= '0000000000000000'",
        f"DATASUM = '{ones_complement(data)}'",
    )
    told = walk_bytes(PRIMARY + extension + data)
    assert told.fixity.sha256 == hashlib.sha256(PRIMARY + extension + data).hexdigest()
    assert "DATASUM of HDU BIG is wrong: its data are not what was written" not in told.problems
    assert "HDU BIG carries no CHECKSUM" in told.problems


@with_small
def test_every_single_flipped_bit_is_found():
    content = bytearray(SMALL.read_bytes())
    for position in range(0, len(content), 3):
        bit = 1 << (position % 8)
        content[position] ^= bit
        assert walk_bytes(bytes(content)).problems, position
        content[position] ^= bit


@with_small
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_changed_byte_is_found(data):
    content = bytearray(SMALL.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    assert walk_bytes(bytes(content)).problems


@with_small
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_cut_inside_an_hdu_is_found(data):
    content = SMALL.read_bytes()
    starts = [at for at in range(0, len(content), BLOCK) if content.startswith(b"XTENSION=", at)]
    length = data.draw(st.integers(0, len(content) - 1).filter(lambda n: n not in starts))
    assert walk_bytes(content[:length]).problems


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=20_000),
    st.sampled_from([b"", b"SIMPLE  =", PRIMARY, PRIMARY + b"XTENSION= 'BINTABLE'"]),
)
def test_hostile_bytes_never_raise(rest, begin):
    assert walk_bytes(begin + rest).problems


@pytest.mark.parametrize(
    ("cards", "problem"),
    [
        (["BITPIX  = 8", "NAXIS   = 99999999999"], "impossible size: BITPIX 8, NAXIS 99999999999"),
        (["BITPIX  = 8", "NAXIS   = 1", "NAXIS1  = -5"], "impossible size: NAXIS1 is -5"),
        (["BITPIX  = 7", "NAXIS   = 0"], "impossible size: BITPIX 7"),
        (
            ["BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 9999999999999", "NAXIS2  = 9999999999999"],
            "impossible size",
        ),
        (
            ["BITPIX  = 8", "NAXIS   = 1", "NAXIS1  = 1", "PCOUNT  = 9223372036854775807"],
            "impossible size: PCOUNT",
        ),
        (["BITPIX  = 8", "NAXIS   = 1", "NAXIS1  = 1", "PCOUNT  = -1"], "impossible size: PCOUNT -1"),
        (["BITPIX  = 8", "NAXIS   = 1"], "no usable NAXIS1 card"),
        (["BITPIX  = 'x'", "NAXIS   = 1"], "no usable BITPIX card"),
        (["BITPIX  = 8", "NAXIS   = 1", "NAXIS1  = 9000000000"], "the file is cut"),
        (
            ["BITPIX  = 8", "NAXIS   = 0", "ORIGIN  = 'A'", "ORIGIN  = 'B'"],
            "carries the card ORIGIN more than once",
        ),
        (["BITPIX  = 8", "NAXIS   = 0", "ORIGIN  = 'Å'"], "characters that FITS does not allow"),
    ],
)
def test_hostile_headers_are_bounded(cards, problem):
    text = "".join(card.ljust(80) for card in ["SIMPLE  = T", *cards, "END"]).encode("latin1")
    assert any(problem in said for said in walk_bytes(text.ljust(BLOCK)).problems)


def test_a_header_without_end_is_not_read_for_ever():
    told = walk_bytes(b"SIMPLE  =".ljust(BLOCK) + b" " * BLOCK * 500)
    assert any("no END card in 100 blocks" in said for said in told.problems)
    assert told.fixity.size == BLOCK * 501


def test_problems_are_not_listed_without_end():
    extension = header("XTENSION= 'IMAGE   '", "BITPIX  = 8", "NAXIS   = 0")
    told = walk_bytes(PRIMARY + extension * 110)
    assert told.problems[-1] == "and so on: there are too many problems to list them all"
    assert len(told.problems) < 60
    assert not told.complete


@pytest.mark.skipif(not NIGHT.exists(), reason="the shared data are not here")
@pytest.mark.feature("S3-030")
@pytest.mark.parametrize(
    ("name", "problems"),
    [
        (
            "flipped_data_byte",
            [
                "CHECKSUM of HDU Events is wrong: its header or data are not what was written",
                "DATASUM of HDU Events is wrong: its data are not what was written",
            ],
        ),
        (
            "flipped_header_byte",
            ["CHECKSUM of HDU Events is wrong: its header or data are not what was written"],
        ),
        (
            "truncated_mid_block",
            ["the file is cut: HDU Events has 97481 bytes of the data, its header says 191148"],
        ),
        (
            "truncated_at_block",
            ["the file is cut: HDU Events has 95040 bytes of the data, its header says 191148"],
        ),
        (
            "truncated_in_header",
            ["the file is cut: it ends inside the header of HDU number 4, before an END card"],
        ),
        ("empty", ["the file is empty"]),
        ("not_fits", ["this is not a FITS file: it does not begin with a SIMPLE card"]),
        ("trailing_bytes", ["1234 bytes follow the last HDU"]),
        (
            "missing_checksums",
            [
                f"HDU {name} carries no {key}"
                for name in ("PRIMARY", "DataStream", "CameraConfiguration", "Events")
                for key in ("CHECKSUM", "DATASUM")
            ],
        ),
    ],
)
def test_each_kind_of_damage_is_named(name, problems):
    with (NIGHT / "bad" / f"{name}.fits.fz").open("rb") as file:
        assert list(walk(file).problems) == problems
