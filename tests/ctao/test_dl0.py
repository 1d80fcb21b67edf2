"""Reading DL0 files: the values are the writer's, and whatever is wrong is a problem."""

import io
import json
from datetime import date
from pathlib import Path

import pytest

from lightkeeper.domain.catalog import Vocabulary
from lightkeeper_ctao.dl0 import Dl0Reader
from lightkeeper_ctao.keys import KEYS
from lightkeeper_ctao.simulate import simulate_night

DATA = Path(__file__).parents[2].parent / "shared" / "data"
NIGHT = DATA / "dl0" / "night_with_bad"
PLACE = "/ctao/acada/DL0/LSTN-01/ctao-acada-n/acada-adh/events/2026/03/14/"
IDS = "SBID0000000002000000066_OBSID0000000002000000200"
NAME = f"TEL001_SDH001_20260314T210023_{IDS}_TEL_SHOWER_CHUNK000.fits.fz"
SHARED_FILES = sorted(path for path in DATA.glob("dl0*/**/*.fits.fz") if "/DL0/" in str(path))

with_shared = pytest.mark.skipif(not NIGHT.exists(), reason="the shared data are not here")


def lfn_of(path):
    return "/ctao/acada/DL0/" + str(path).partition("/DL0/")[2]


def read(content, path=PLACE + NAME):
    return Dl0Reader().read(io.BytesIO(content), path)


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    root = tmp_path_factory.mktemp("interface")
    return simulate_night(root, night=date(2026, 3, 14), observations=1, events=5, telescopes=["LSTN-01", "LSTN-02"])


def content_of(night, part):
    file = next(file for file in night.good if part in file.path)
    return (night.root / file.path[1:]).read_bytes(), file.path


def test_only_fits_files_are_recognised():
    reader = Dl0Reader()
    assert reader.recognises(PLACE + NAME)
    assert not reader.recognises("/ctao/simulation/PROD6/gamma_run000010.simtel.zst")
    assert not reader.recognises(PLACE + NAME + ".trigger")
    assert not reader.recognises("/ctao/prod6/DL3/gamma.fits"), "a product that is not the array's has another reader"
    assert reader.recognises("/ctao/acada/lost.fits.fz"), "a file of the array outside the layout is reported as such"


@pytest.mark.feature("S3-031")
@pytest.mark.parametrize("path", SHARED_FILES or [None], ids=lambda path: str(path)[-50:])
def test_values_are_those_that_protozfits_reads(path):
    if path is None:
        pytest.skip("the shared data are not here")
    protozfits = pytest.importorskip("protozfits")
    product = Dl0Reader().read(path.open("rb"), lfn_of(path))
    assert product.problems == ()
    assert product.lfn == lfn_of(path)
    with protozfits.File(str(path)) as file:
        stream = file.DataStream[0]
        table = next(name for name in ("Events", "SubarrayEvents", "Triggers") if hasattr(file, name))
        for key in ("sb_id", "obs_id", "tel_id", "subarray_id"):
            assert product.meta.get(key) == getattr(stream, key, None), key
        tel_ids = getattr(stream, "tel_ids", None)
        assert product.meta.get("tel_ids") == (None if tel_ids is None else list(tel_ids))
        assert product.meta["n_rows"] == len(getattr(file, table))
        assert product.meta["observatory"] == file.DataStream.header["ORIGIN"]
        assert product.meta["start_time"] == file.DataStream.header["DATE"]
        assert product.meta["end_time"] == getattr(file, table).header["DATE-END"]


@with_shared
@pytest.mark.feature("S3-031")
def test_metadata_are_those_of_the_manifest():
    for entry in json.loads((NIGHT / "MANIFEST.json").read_text()):
        if entry["expect"] != "ok":
            continue
        product = Dl0Reader().read((NIGHT / entry["path"]).open("rb"), f"/ctao/acada/{entry['path']}")
        assert product.problems == ()
        assert product.fixity is not None
        assert (product.fixity.size, product.fixity.sha256) == (entry["size"], entry["sha256"])
        assert product.fixity.adler32 == entry["adler32"]
        for key in ("sb_id", "obs_id", "tel_id", "tel_ids", "subarray_id"):
            assert product.meta.get(key) == entry.get(key)
        assert product.meta["observing_night"] == "2026-03-14"
        assert (product.meta["start_time"], product.meta["end_time"]) == (entry["start"], entry["end"])


def test_all_metadata_are_of_registered_keys(night):
    vocabulary = Vocabulary(list(KEYS))
    for file in night.good:
        product = Dl0Reader().read((night.root / file.path[1:]).open("rb"), file.path)
        of_set, of_file = vocabulary.split(dict(product.meta))
        assert of_set["obs_id"] == night.observations[0]
        assert of_set["site"] == "CTAO-North"
        assert {"array_element", "start_time", "end_time", "n_rows", "chunk_id"} <= of_file.keys()


@with_shared
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
            "missing_pbfhead",
            ["the table DataStream does not say what kind of data this is: card PBFHEAD is missing"],
        ),
        ("missing_date_end", ["the table Events carries no time: card DATE-END is missing"]),
        ("missing_origin", ["the table DataStream does not name its observatory: card ORIGIN is missing"]),
        ("missing_datastream", ["the file has no table DataStream"]),
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
def test_each_damaged_variant_has_its_precise_problem(name, problems):
    product = read((NIGHT / "bad" / f"{name}.fits.fz").read_bytes())
    assert list(product.problems) == problems
    assert product.fixity is not None


@with_shared
@pytest.mark.feature("S3-030")
def test_an_observation_id_in_the_name_that_differs_from_the_content_is_a_problem():
    path = next((NIGHT / "bad").glob("TEL001*"))
    assert read(path.read_bytes(), PLACE + path.name).problems == (
        "the name says obs_id 9000000200, the content 2000000200",
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("LSTN-01/", "LSTN-05/"), "'LSTN-05' is not an array element of the observatory"),
        (("_SBID0", "_SBID1"), "the name says sb_id"),
        (("TEL001_", "TEL002_"), "the name says tel_id 2, the content 1"),
        (("/DL0/", "/DL1/"), "only DL0 is ingested from the array"),
        (("2026/03/14", "2026/03/15"), "which is not in the observing night 2026-03-15"),
        (("/ctao/acada/DL0/", "/ctao/"), "is outside the directory layout"),
        (("CHUNK000", "CHÜNK000"), "is not a file name of the catalogue"),
    ],
)
def test_a_name_that_contradicts_is_a_problem(night, change, problem):
    content, path = content_of(night, "/LSTN-01/")
    product = read(content, path.replace(*change))
    assert any(problem in said for said in product.problems)
    assert (product.lfn is None) == ("catalogue" in problem)


def test_a_stream_of_another_kind_than_the_name_says_is_a_problem(night):
    content, path = content_of(night, "_SUBARRAY_")
    problems = read(content, path.replace("_SUBARRAY_", "_TEL_")).problems
    assert problems == ("the name is that of a Trigger stream, the content is a Subarray stream",)


def test_all_problems_are_said_not_only_the_first(night):
    content, path = content_of(night, "/LSTN-01/")
    damaged = bytearray(content)
    damaged[-5000] ^= 1
    problems = read(bytes(damaged), path.replace("TEL001_", "TEL002_").replace("/DL0/", "/DL1/")).problems
    assert len(problems) == 5


def test_a_second_datastream_is_a_problem(night):
    content, path = content_of(night, "/LSTN-01/")
    begin = content.index(b"XTENSION=")
    end = content.index(b"XTENSION=", begin + 1)
    problems = read(content[:end] + content[begin:end] + content[end:], path).problems
    assert problems == ("the file has more than one table DataStream",)


@pytest.mark.parametrize("name", ["10_CTA_R1_dummy_evts", "example_9evts_NectarCAM", "LST-1.1.Run02008.0000_first50"])
def test_raw_camera_data_are_whole_but_not_dl0(name):
    path = DATA / "raw_real" / f"{name}.fits.fz"
    if not path.exists():
        pytest.skip("the shared data are not here")
    assert read(path.read_bytes()).problems == ("the file has no table DataStream",)


def test_a_kind_of_data_that_nobody_knows_is_a_problem(tmp_path, capfd):
    content = written(tmp_path, compression="raw", kind="R1v1")
    problems = read(content).problems
    assert any("no table DataStream" in said or "is no kind of DL0 data" in said for said in problems)


@pytest.mark.parametrize("compression", ["raw", "zlib", "zstd4"])
@pytest.mark.parametrize("tel_ids", [[], [7], [1, 2, 5]])
def test_a_trigger_stream_is_read_with_each_known_compression(tmp_path, compression, tel_ids, capfd):
    product = read(written(tmp_path, compression=compression, tel_ids=tel_ids))
    assert product.meta["tel_ids"] == tel_ids
    assert (product.meta["sb_id"], product.meta["obs_id"]) == (0, 2000000200)


@pytest.mark.parametrize("compression", ["fact", "diffman16", "zrice", "lzo"])
def test_a_compression_that_the_reader_does_not_know_is_a_problem(tmp_path, compression, capfd):
    product = read(written(tmp_path, compression=compression, tel_ids=[1, 2, 5]))
    assert any("is compressed in a way this reader does not know" in said for said in product.problems)


def written(folder, *, compression, tel_ids=(1,), kind="Trigger"):
    """A trigger file written by protozfits."""
    numpy = pytest.importorskip("numpy")
    protozfits = pytest.importorskip("protozfits")
    from protozfits import DL0v1_Trigger_pb2, R1v1_pb2

    file = protozfits.FlatProtobufZOFits(n_tiles=2, rows_per_tile=20, default_compression=compression)
    file.open(str(folder / "file"))
    file.move_to_new_table("DataStream")
    if kind == "Trigger":
        ids = protozfits.numpy_to_any_array(numpy.array(tel_ids, numpy.uint16))
        file.write_message(DL0v1_Trigger_pb2.DataStream(tel_ids=ids, obs_id=2000000200))
    else:
        file.write_message(R1v1_pb2.TelescopeDataStream(tel_id=1, sb_id=2))
    file.move_to_new_table("Triggers")
    file.write_message(DL0v1_Trigger_pb2.Trigger(tel_id=1))
    file.close()
    return (folder / "file").read_bytes()
