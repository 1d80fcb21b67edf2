"""register and file … as a user types them: lists of every format, names in every form, exit statuses."""

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import adler32

import pytest
from tests.cli.test_dataset_commands import TOPOLOGY, api
from tests.cli.typed import run
from tests.conftest import SilentLog

from lightkeeper.instance import Instance
from lightkeeper.settings import Settings
from lightkeeper.steps import audit, topology

Cli = Callable[..., str]


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance without files, on which nothing runs by itself."""
    home = tmp_path_factory.mktemp("registered")
    for name in ("north", "south"):
        (home / name).mkdir()
    settings = Settings(home=home, port=0)
    with Instance(settings, work=False, log=SilentLog()) as instance:
        topology.apply(instance.context, TOPOLOGY.replace("ROOT", str(home)))
        yield instance
        assert audit.fsck(instance.context).violations == []


@pytest.fixture
def cli(instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Type a command; the exit status it must end with comes first. Files are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    yield partial(run, instance.settings.home)
    with api(instance) as client:
        left = [file["lfn"] for file in client.find("file_state in (Current, Superseded, Corrupted)", names=True)]
        assert client.unregister(left, "end of the test")["failed"] == []


def facts(instance: Instance, lfn: str, content: bytes = b"light", **more: Any) -> dict[str, Any]:
    """A line of a list, of a file that lies in the north."""
    target = instance.settings.home / "north" / lfn[1:]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    sums = {"sha256": sha256(content).hexdigest(), "adler32": f"{adler32(content):08x}"}
    return {"lfn": lfn, "size": len(content), **sums} | more


def ndjson(path: Path, *lines: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))


# --- lists ---------------------------------------------------------------------------------------------------
def test_a_list_is_registered_once_and_its_copies_count_when_they_were_read(instance: Instance, cli: Cli):
    ndjson(Path("a.ndjson"), *(facts(instance, f"/ctao/a/f{n}", meta={"data_level": n}) for n in range(3)))
    register = ("register", "a.ndjson", "--at", "north")
    assert cli(0, *register, "--dry-run") == "3 would be registered, 0 known already, 0 failed\n"
    assert cli(0, "find") == ""
    assert cli(0, *register) == "3 registered, 0 known already, 0 failed\n"
    assert cli(0, *register) == "0 registered, 3 known already, 0 failed\n"
    told = json.loads(cli(0, "file", "replicas", "/ctao/a/f0", "--json"))["replicas"]
    assert [(one["storage"], one["state"], one["verified_at"]) for one in told] == [("north", "Available", None)]
    while audit.recheck(instance.context):
        pass
    told = json.loads(cli(0, "file", "replicas", "/ctao/a/*", "--json"))["replicas"]
    assert len([one for one in told if one["verified_at"]]) == 3
    assert "f1" in cli(0, "find", "data_level = 1")
    with pytest.raises(AssertionError, match="nort"):
        cli(0, "register", "a.ndjson", "--at", "nort")


CSV = "lfn,size,sha256,adler32,storage,data_level,particle,thetaP\n"


def test_a_csv_table_is_a_list(instance: Instance, cli: Cli):
    one, two = facts(instance, "/ctao/a/one"), facts(instance, "/ctao/a/two", b"dark")
    rows = (",".join(str(v) for v in one.values()) + ',north,0,"gam,ma ""1""",20\n',
            ",".join(str(v) for v in two.values()) + ",north,,,\n\n")  # fmt: skip
    Path("a.csv").write_text("\ufeff" + CSV.replace("\n", "\r\n") + "".join(rows))
    assert cli(0, "register", "a.csv") == "2 registered, 0 known already, 0 failed\n"
    told = [json.loads(line) for line in cli(0, "find", "--sort", "name", "--json").splitlines()]
    assert [file["meta"] for file in told] == [{"data_level": 0, "particle": 'gam,ma "1"', "thetaP": 20.0}, {}]
    Path("a.txt").write_text(Path("a.csv").read_text())
    assert "cannot be told by its ending" in cli(2, "register", "a.txt")
    assert cli(0, "register", "a.txt", "--format", "csv") == "0 registered, 2 known already, 0 failed\n"
    assert "is no format of lists" in cli(2, "register", "a.txt", "--format", "cvs")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there is no column 'lfn'"),
        (b"name,size\n/a/b/c,1\n", "there is no column 'lfn' among name, size"),
        (b"lfn,particel\n", "did you mean 'particle'?"),
        (b"lfn,lfn\n", "column 'lfn' is there twice"),
        (b"lfn,size\n/a/b/c\n", "line 2: 1 cells for 2 columns"),
        (b'lfn,particle\n/a/b/c,"' + b"x" * 200_000 + b'"\n', "this is no CSV: field larger than field limit"),
        (b'lfn,particle\n/a/b/c,"never closed\n', "this is no CSV: unexpected end of data"),
        (b"lfn,particle\n/a/b/c,\xff\xfe\n", "this is not UTF-8"),
        (b"\xff\xfel\0f\0n\0", "this is not UTF-8"),
    ],
)
def test_a_csv_table_that_is_none_is_told_with_its_line(cli: Cli, content: bytes, message: str):
    Path("bad.csv").write_bytes(content)
    assert message in cli(2, "register", "bad.csv", "--virtual")


def test_a_cell_that_is_no_value_fails_its_line_and_no_other(instance: Instance, cli: Cli):
    names = [f"/ctao/a/{name}" for name in ("one", "two", "three", "four")]
    sums = [",".join(str(v) for v in facts(instance, name).values()) for name in names]
    many = sums[0].replace(",5,", ",many,", 1)
    Path("a.csv").write_text(
        f'{CSV}{many},north,0,x,1\n\n{sums[1]},north,raw,x,1\n{sums[2]},north,0,"a\nb",1\n{sums[3]},north,0,x,nan\n'
    )
    said = cli(1, "register", "a.csv")
    assert "a.csv, line 2: /ctao/a/one: 'size' must be the number of bytes" in said
    assert "a.csv, line 4: /ctao/a/two: metadata key 'data_level' is of type int; 'raw' is not" in said
    assert "a.csv, line 7: /ctao/a/four: metadata key 'thetaP' is of type float; 'nan' is not" in said
    assert "1 registered, 0 known already, 3 failed" in said


def test_a_parquet_table_is_a_list(instance: Instance, cli: Cli):
    pytest.importorskip("pyarrow", reason="needs the extra parquet")
    import pyarrow as pa
    from pyarrow import parquet

    lines = [facts(instance, f"/ctao/a/f{n}", f"{n}".encode()) for n in range(5)]
    columns = {key: [one[key] for one in lines] for key in lines[0]}
    levels = pa.array([0, 1, None, 3, 4], pa.int8())
    times = pa.array([1_900_000_000_000_000] * 5, pa.timestamp("us", tz="UTC"))
    parquet.write_table(pa.table(columns | {"data_level": levels, "start_time": times}), "a.parquet")
    assert cli(0, "register", "a.parquet", "--at", "north") == "5 registered, 0 known already, 0 failed\n"
    told = [json.loads(line) for line in cli(0, "find", "--sort", "name", "--json").splitlines()]
    assert [file["meta"].get("data_level") for file in told] == [0, 1, None, 3, 4]
    assert told[0]["meta"]["start_time"] == "2030-03-17T17:46:40"
    parquet.write_table(pa.table({"name": ["x"]}), "bad.parquet")
    assert "there is no column 'lfn' among name" in cli(2, "register", "bad.parquet")
    Path("bad.parquet").write_bytes(b"PAR1 no table")
    assert "is no Parquet file that can be read" in cli(2, "register", "bad.parquet")
    sums = pa.array([bytes.fromhex(lines[0]["sha256"])], pa.binary(32))
    first = {key: [lines[0][key]] for key in ("lfn", "size", "adler32")}
    parquet.write_table(pa.table(first | {"sha256": sums}), "binary.parquet")
    assert "column 'sha256' holds no text" in cli(2, "register", "binary.parquet", "--at", "north")


def test_lines_that_cannot_be_registered_are_told_and_the_others_are(instance: Instance, cli: Cli):
    good = facts(instance, "/ctao/a/good")
    Path("a.ndjson").write_bytes(
        b"\n".join([
            json.dumps(good).encode(),
            b'{"lfn": "/ctao/a/\xff"}',
            b"{",
            json.dumps(good | {"lfn": "/ctao/a/b", "sha256": "12"}).encode(),
            json.dumps(good | {"lfn": "/ctao/a/c", "meta": {"data_level": "x"}}).encode(),
            json.dumps(good | {"lfn": "/ctao/a/d", "meta": {"tel_id": 10**40}}).encode(),
            json.dumps(good | {"lfn": "/ctao/a/e", "meta": {"thetaP": float("nan")}}).encode(),
            json.dumps(good | {"lfn": "/ctao/a/f", "size": 1 << 70}).encode(),
            b'{"lfn": ["/ctao/a/g"]}',
            b"[]",
        ])
    )  # fmt: skip
    said = cli(1, "register", "a.ndjson", "--at", "north")
    assert "a.ndjson, line 2: " in said
    told = json.loads(cli(1, "register", "a.ndjson", "--at", "north", "--json"))
    assert (told["added"], told["known"]) == (0, 2)  # a large number is one
    assert {one["line"] for one in told["failures"]} >= {2, 3, 4, 5, 7, 8, 9, 10}
    assert all(one["list"] == "a.ndjson" for one in told["failures"])


def test_what_json_does_not_know_spoils_no_other_line(instance: Instance, cli: Cli):
    with api(instance) as client:
        client.define_key("pointing", "json", level="file")
    rows = ('{"alt": NaN}', '{"alt": 1e999}', '{"alt": "\\ud800"}', '{"alt": "\\u0000"}', '{"alt": 70}')
    Path("a.ndjson").write_text("".join(f'{{"lfn": "/ctao/v/p{n}", "meta": {{"pointing": {row}}}}}\n'
                                        for n, row in enumerate(rows)))  # fmt: skip
    told = json.loads(cli(1, "register", "a.ndjson", "--virtual", "--json"))
    assert (told["added"], [one["line"] for one in told["failures"]]) == (1, [1, 2, 3, 4])


def test_many_failures_are_counted_not_listed(cli: Cli):
    Path("a.ndjson").write_text("no list\n" * 50)
    said = cli(1, "register", "a.ndjson", "--at", "north")
    assert said.count("failed:") == 20
    assert "and 30 more: --json tells all" in said
    assert "there is no list none.ndjson" in cli(3, "register", "none.ndjson")


@pytest.mark.parametrize("size", [(1 << 20) + 300_000, 40 << 20])
def test_a_line_without_end_is_refused(cli: Cli, size: int):
    Path("a.ndjson").write_bytes(b'{"lfn": "' + b"x" * size)
    assert "longer than 1048576 bytes" in cli(2, "register", "a.ndjson", "--virtual")


def test_heavy_lines_are_registered_in_parts_that_fit_in_memory(instance: Instance, cli: Cli):
    note = "x" * 200_000
    with Path("a.ndjson").open("w") as file:
        for n in range(120):
            file.write(json.dumps({"lfn": f"/ctao/v/n{n:03}", "meta": {"particle": note}}) + "\n")
    assert cli(0, "register", "a.ndjson", "--virtual").startswith("120 registered")


def test_names_without_data_are_registered_from_plain_names(cli: Cli):
    Path("names.ndjson").write_text('/ctao/v/a\n"/ctao/v/b"\n{"lfn": "/ctao/v/c", "meta": {"data_level": 1}}\n')
    assert cli(0, "register", "names.ndjson", "--virtual") == "3 registered, 0 known already, 0 failed\n"
    assert json.loads(cli(0, "file", "stat", "/ctao/v/a", "--json"))["files"][0]["size"] == 0
    assert cli(1, "file", "check", "/ctao/v/a").split()[:4] == ["copies", "files", "none", "1"]
    Path("data.ndjson").write_text('{"lfn": "/ctao/v/d", "size": 5}\n')
    assert "has no size, checksum or storage" in cli(1, "register", "data.ndjson", "--virtual")


@pytest.mark.feature("S0-039")
def test_a_generator_of_30_000_files_is_registered_in_constant_memory(instance: Instance, cli: Cli):
    with api(instance) as client:
        tracemalloc.start()
        try:
            told = client.register(
                ({"lfn": f"/ctao/v/{n // 1000}/f{n}", "meta": {"data_level": n % 3}} for n in range(30_000)),
                virtual=True,
            )
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (told["added"], told["failed"]) == (30_000, 0)
        assert peak < 150 << 20  # the server's part is in it: two blocks of 20,000 lines
        assert client.count("data_level = 1")["files"] == 10_000
        client.unregister((file["lfn"] for file in client.find(names=True)), "test")


@pytest.mark.feature("S0-089")
def test_50_clients_register_at_once_without_an_error(instance: Instance, cli: Cli):
    def work(number: int) -> int:
        with api(instance) as client:
            lines = [{"lfn": f"/ctao/v/{number}/f{n}", "meta": {"data_level": n % 2}} for n in range(200)]
            told = [client.register(lines[n : n + 10], virtual=True) for n in range(0, 200, 10)]
        assert sum(one["failed"] for one in told) == 0
        return sum(one["added"] for one in told)

    begin = time.monotonic()
    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(work, range(50))) == [200] * 50
    print(f"{time.monotonic() - begin:.1f} s")
    assert cli(0, "find", "data_level = 1", "--count").split()[0].replace(",", "") == "5000"


# --- file … --------------------------------------------------------------------------------------------------
@pytest.fixture
def three(instance: Instance, cli: Cli) -> list[str]:
    """Three files, two of them with metadata."""
    lfns = [f"/ctao/a/run{n}" for n in range(3)]
    ndjson(Path("three.ndjson"), *(facts(instance, lfn, meta={"data_level": n}) for n, lfn in enumerate(lfns)))
    cli(0, "register", "three.ndjson", "--at", "north")
    return lfns


def test_files_are_described_by_every_way_to_name_them(cli: Cli, three: list[str]):
    one = cli(0, "file", "stat", three[1])
    assert "data level" in one
    assert "Current" in one
    Path("list").write_text("# mine\n" + "\n".join(three))
    for how in (three, ["/ctao/a/*"], ["@list"], ["--query", "data_level >= 0"]):
        assert len(cli(0, "file", "stat", *how).splitlines()) == 4
        assert len(json.loads(cli(0, "file", "stat", *how, "--json"))["files"]) == 3
    assert len(cli(0, "file", "stat", "-", stdin="\n".join(three)).splitlines()) == 4
    said = cli(1, "file", "stat", three[0], "/ctao/a/none")
    assert "/ctao/a/none is not in the catalogue" in said
    assert "no file is named" in cli(2, "file", "stat")
    assert "names begin with a slash" in cli(2, "file", "stat", "a/*")
    assert "no file in the catalogue matches" in cli(3, "file", "stat", "/ctao/b/*")
    told = json.loads(cli(1, "file", "stat", "/ctao/a/none", "--json"))
    assert (told["files"], [one["lfn"] for one in told["failed"]]) == ([], ["/ctao/a/none"])


def test_names_are_checked_and_sorted_into_files(cli: Cli, three: list[str]):
    assert cli(0, "file", "check", *three).split()[2:] == ["none", "0", "one", "3", "several", "0", "missing", "0"]
    said = cli(1, "file", "check", *three, "/ctao/a/none", "--write", "sorted")
    assert "missing: /ctao/a/none" in said
    assert Path("sorted.missing").read_text() == "/ctao/a/none\n"
    assert Path("sorted.one").read_text().splitlines() == three
    assert json.loads(cli(1, "file", "check", "/ctao/a/none", "--json"))["missing"] == ["/ctao/a/none"]
    assert cli(0, "file", "replicas", three[0]).split()[-1] == "-"
    assert "is not in the catalogue" in cli(1, "file", "replicas", "/ctao/a/none")


def test_metadata_are_set_and_taken_away(cli: Cli, three: list[str]):
    set_ = ("file", "set-metadata", "data_level=5", "particle=gamma")
    assert cli(0, *set_, "/ctao/a/*", "--dry-run") == "3 files would be changed\n"
    assert cli(0, "find", "data_level = 5") == ""
    assert cli(0, *set_, *three[:2]) == "2 files changed\n"
    assert cli(0, "find", "data_level = 5 and particle = gamma").splitlines() == three[:2]
    assert cli(0, "file", "set-metadata", three[0], "--unset", "particle") == "1 file changed\n"
    assert json.loads(cli(0, "file", "set-metadata", "data_level=6", "--query", "particle = gamma", "--json")) == {
        "done": [three[1]], "failed": [],
    }  # fmt: skip
    assert "did you mean 'data_level'?" in cli(2, "file", "set-metadata", "data_levl=1", three[0])
    assert "a whole number" in cli(2, "file", "set-metadata", "data_level=high", three[0])
    assert "there is nothing to set" in cli(2, "file", "set-metadata", three[0])
    assert "cannot be set and taken away" in cli(
        2, "file", "set-metadata", "data_level=1", three[0], "--unset", "data_level"
    )
    assert "1 file changed" in cli(1, "file", "set-metadata", "data_level=1", three[0], "/ctao/a/none")


def test_states_are_changed_with_a_reason(cli: Cli, three: list[str]):
    one, two, last = three
    for command in ("mark-corrupted", "restore", "remove", "unregister"):
        assert "--why" in cli(2, "file", command, one)
    assert cli(0, "file", "mark-corrupted", one, "--why", "bad", "--dry-run") == "1 file would be Corrupted\n"
    assert cli(0, "file", "mark-corrupted", one, "--why", "bad [pixel]") == "1 file Corrupted\n"
    assert cli(0, "find").splitlines() == [two, last]
    assert cli(0, "find", "file_state = Corrupted").splitlines() == [one]
    assert cli(0, "file", "restore", one, "--why", "it was me") == "1 file Current\n"
    assert cli(0, "file", "supersede", one, two, "--why", "v2") == "1 file Superseded\n"
    assert two in cli(0, "file", "stat", one)
    assert "it is Superseded" in cli(1, "file", "mark-corrupted", one, "--why", "x")
    Path("pairs").write_text(f"# old new\n{two} {last}\n")
    assert cli(0, "file", "supersede", "@pairs", "--why", "v3", "--json") == json.dumps(
        {"done": [two], "failed": []}, indent=2
    ) + "\n"  # fmt: skip
    assert "two names are needed" in cli(2, "file", "supersede", one, "--why", "x")
    assert cli(0, "file", "restore", one, two, "--why", "end") == "2 files Current\n"


def test_a_name_that_cannot_be_one_stops_no_other(cli: Cli, three: list[str]):
    Path("pairs").write_text(f"{three[0]} no-name\n{three[1]} {three[2]}\n")
    said = cli(1, "file", "supersede", "@pairs", "--why", "v2")
    assert "1 file Superseded" in said
    assert "no-name is not in the catalogue" in said


def test_files_are_removed_and_forgotten(instance: Instance, cli: Cli, three: list[str]):
    assert cli(0, "file", "unregister", three[0], "--why", "x", "--dry-run") == "1 file would be forgotten\n"
    assert "the only one" in cli(1, "file", "unregister", three[0], "--at", "north", "--why", "x")
    assert "did you mean 'north'?" in cli(3, "file", "unregister", three[0], "--at", "nort", "--why", "x")
    cli(0, "dataset", "create", "kept", "data_level = 1")
    cli(0, "dataset", "freeze", "kept")
    said = cli(1, "file", "remove", *three[:2], "--why", "x", "--dry-run")
    assert "1 file would be removed" in said
    assert "it is in the frozen dataset kept → lightkeeper dataset release kept" in said
    assert "frozen dataset kept" in cli(1, "file", "unregister", three[1], "--why", "x")
    cli(0, "dataset", "remove", "kept")
    assert cli(0, "file", "unregister", *three, "--why", "x") == "3 files forgotten\n"
    assert cli(0, "find") == ""
    assert (instance.settings.home / "north" / three[0][1:]).read_bytes() == b"light"
