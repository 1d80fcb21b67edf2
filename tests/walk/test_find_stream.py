"""Finding over HTTP: a hundred thousand files stream through, and nobody holds more than a page of them."""

import hashlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightkeeper.app import make_log
from lightkeeper.client import Client, find
from lightkeeper.domain.catalog import KeyLevel, KeyType, MetaKey, NewFile
from lightkeeper.domain.errors import Invalid, Refused, Unavailable
from lightkeeper.domain.names import Fixity, Lfn
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings
from lightkeeper.steps import catalogue, topology
from lightkeeper.store import catalog, provenance
from lightkeeper.store import topology as topology_store

N = 100_000
RUN = 500
GROWTH = 60_000_000
"""Bytes that server and client, which are one process here, may grow by."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of an instance with N files."""
    home = tmp_path_factory.mktemp("find")
    (home / "s").mkdir()
    settings = Settings(home=home, port=0)
    with Instance(settings, work=False, log=make_log(settings)) as instance:
        ctx = instance.context
        topology.apply(ctx, f"sites: {{A: {{}}}}\nstorages: {{a: {{site: A, root: {home}/s}}}}")
        catalogue.define_key(ctx, MetaKey("run", KeyType.INT))
        catalogue.define_key(ctx, MetaKey("number", KeyType.INT, KeyLevel.FILE))
        for start in range(0, N, 50_000):
            register(ctx, start, 50_000)
        found = find(home)
        assert found
        with found as client:
            yield client


def register(ctx: catalogue.Context, start: int, n: int) -> None:
    files = []
    for i in range(start, start + n):
        digest = hashlib.sha256(str(i).encode()).hexdigest()
        meta = {"run": i // RUN, "number": i}
        files.append(
            NewFile(Lfn(f"/ctao/bench/r{i // RUN}/TEL001_{i:09d}.fits"), Fixity(i, digest, digest[:8]), meta, 1)
        )
    with ctx.db.transaction() as conn:
        batch = catalog.Batch(files, topology_store.vocabulary(conn))
        activity = provenance.add_activity(conn, name="test", agent="test", software={})
        names = catalog.name(conn, batch)
    with ctx.db.transaction() as conn:
        catalog.register(conn, batch, names, activity)


def resident() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("more", [{"names": True}, {}, {"sort": "-size", "names": True}])
def test_a_hundred_thousand_files_stream_in_constant_memory(client: Client, more: dict):
    assert sum(1 for _ in client.find("run < 20", **more)) == 20 * RUN  # everything is imported and warm
    before, most, seen = resident(), 0, set()
    for i, file in enumerate(client.find("run >= 0 and number >= 0", **more)):
        seen.add(int(file["lfn"][-14:-5]))
        if i % 5000 == 0:
            most = max(most, resident())
    assert seen == set(range(N))
    assert most - before < GROWTH


def test_the_first_thousand_come_at_once_wherever_they_lie(client: Client):
    for query in ("run >= 0", "run = 150", "number > 99000", "size > 99kB", "directory = /ctao/bench/r150"):
        list(client.find(query, limit=1000))
        begin = time.perf_counter()
        files = list(client.find(query, limit=1000))
        assert 0 < len(files) <= 1000
        assert time.perf_counter() - begin < 2


def test_count_and_size_are_those_of_the_counters(client: Client):
    assert client.count() == {"files": N, "bytes": sum(range(N))}
    assert client.count("run between 10..19") == {"files": 5000, "bytes": sum(range(5000, 10_000))}
    assert client.count("number < 10", at="a") == {"files": 10, "bytes": 45}
    assert "from counters, 100000 files" in client.explain({})["words"][-1]


def test_a_reader_that_leaves_early_leaves_nothing_behind(client: Client):
    for _ in range(40):  # more than there are connections
        stream = client.find("run >= 0")
        assert len(list(itertools.islice(stream, 3))) == 3
        stream.close()
    assert client.count()["files"] == N


def test_errors_come_before_the_first_file(client: Client):
    with pytest.raises(Invalid, match="query, position 1: unknown metadata key 'rum'") as caught:
        next(client.find("rum = 3"))
    assert caught.value.hint == "did you mean 'run'?"
    with pytest.raises(Invalid):
        next(client.find("", limit=-1))


def test_only_the_operator_defines_keys(client: Client):
    with Client(client.url) as stranger, pytest.raises(Refused):
        stranger.define_key("x", "int")
    assert client.define_key("exposure", "float", unit="s")["result"] == "new"
    assert client.metadata_key("run")["examples"]
    assert {"exposure", "run", "number"} <= {key["name"] for key in client.metadata_keys()}


def test_a_server_that_went_away_is_told(client: Client):
    with Client("http://127.0.0.1:9") as nobody, pytest.raises(Unavailable, match="stopped answering"):
        next(nobody.find(""))
