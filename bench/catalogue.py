"""The catalogue as it grows: 1 million files (small) or 23 million (full) of 20 keys with a replica each, 650 datasets.

Embedded PostgreSQL with fsync on; the API in a process of its own, without a worker. `PEER=rucio` measures a real Rucio
in the same run, on a small catalogue: what takes it longest grows with the number of files.
"""

import gc
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.__main__ import Measure
from lightkeeper.client import Client
from lightkeeper.domain.catalog import KeyLevel, KeyType, MetaKey, NewFile, Vocabulary
from lightkeeper.domain.names import Fixity, Lfn
from lightkeeper.domain.query_text import parse
from lightkeeper.store import catalog, postgres, provenance, queries, topology
from lightkeeper.store.db import Database, now
from lightkeeper.store.schema import migrate

PEERS = ("rucio",)
FILES = {"small": 1_000_000, "full": 23_000_000}
BATCH = 50_000
RUN = 1000
"""Files of one metadata set."""
MANY = 500_000
PEER_FILES = 20_000

SITES, PARTICLES, ZENITHS, AZIMUTHS = (
    ("LaPalma", "Paranal"),
    ("gamma", "proton", "electron", "muon"),
    (20, 40, 52, 60),
    (0, 180),
)
KEYS = [
    MetaKey("campaign", KeyType.STRING),
    MetaKey("array", KeyType.STRING),
    MetaKey("particle", KeyType.STRING),
    MetaKey("zenith", KeyType.FLOAT),
    MetaKey("azimuth", KeyType.FLOAT),
    MetaKey("block", KeyType.INT),
    MetaKey("obs_id", KeyType.INT),
    MetaKey("data_level", KeyType.INT),
    *(MetaKey(f"key{k}", KeyType.STRING) for k in range(10)),
    MetaKey("number", KeyType.INT, KeyLevel.FILE),
    MetaKey("quality", KeyType.FLOAT, KeyLevel.FILE),
]


def meta_of(run: int) -> dict[str, Any]:
    """The set-level values of one run."""
    return {
        "campaign": f"Prod{run % 10}",
        "array": SITES[run // 10 % 2],
        "particle": PARTICLES[run // 20 % 4],
        "zenith": float(ZENITHS[run // 80 % 4]),
        "azimuth": float(AZIMUTHS[run // 320 % 2]),
        "block": run // 1000,
        "obs_id": run,
        "data_level": 1,
        **{f"key{k}": f"value {k} of {run % 50}" for k in range(10)},
    }


def made(start: int, n: int, tree: str = "mc") -> Iterator[NewFile]:
    """Files of runs of 1000."""
    shared: dict[str, Any] = {}
    for i in range(start, start + n):
        if i % RUN == 0 or not shared:
            shared = meta_of(i // RUN)
        digest = f"{i:064x}"
        lfn = Lfn(f"/bench/{tree}/run{i // RUN:06d}/TEL001_SDH001_20300102T030405_{i:010d}_TEL_SHOWER.fits.fz")
        meta = shared | {"number": i % RUN, "quality": i % 100 / 4}
        yield NewFile(lfn, Fixity(1000 + i % 1000, digest, digest[-8:]), meta, 1)


def as_line(file: NewFile) -> dict[str, Any]:
    """What a list says of a file."""
    f = file.fixity
    return {
        "lfn": file.lfn, "size": f.size, "sha256": f.sha256, "adler32": f.adler32, "storage": "a", "meta": file.meta,
    }  # fmt: skip


def run(scale: str, peer: str | None = None) -> list[Measure]:
    n = FILES[scale]
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as home,
        postgres.start(Path(home) / "pg", shared_buffers_mb=512 if scale == "small" else 2048) as server,
    ):
        migrate(server.url)
        database = Database(server.url).open()
        bench = Bench(database, Path(home), server.url)
        results = bench.measure(n)
        database.close()
    return with_peer(results) if peer else results


@dataclass(slots=True)
class Api:
    """The server under test and a client of it."""

    client: Client
    pid: int

    def memory(self) -> float:
        """Resident memory of the server now, in MB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1000


class Bench:
    """One catalogue, and what is measured on it."""

    def __init__(self, database: Database, home: Path, url: str) -> None:
        self.database = database
        self.home = home
        self.url = url
        self.vocabulary = Vocabulary(KEYS)
        self.results: list[Measure] = []
        with database.transaction() as conn:
            topology.put_keys(conn, KEYS)
            conn.execute("INSERT INTO site (name, kind) VALUES ('A', 'data centre')")
            conn.execute("INSERT INTO storage (site_id, name, driver, root) VALUES (1, 'a', 'posix', '/nowhere')")
            self.activity = provenance.add_activity(conn, name="bench", agent="bench", software={})

    def measure(self, n: int) -> list[Measure]:
        with self.api() as api:
            self.make_datasets(api)
            rates = self.build(n)
            self.analyze()
            self.bytes_per_file(n)
            small, large = rates[min(len(rates), 20) - 1], self.store_rate(n)
            self.add("register in the store", large, "files/s", 40_000)
            self.add("register: time at full size / at 1 million", small / large, "", 1.5, more=False)
            self.register_by_api(api, n)
            self.finds(api)
            self.datasets(api)
            self.stream(api)
            self.replicas(api)
            self.with_transformations(n)
        return self.results

    def add(self, measure: str, value: float, unit: str, target: float | None = None, *, more: bool = True) -> None:
        self.results.append(Measure(measure, value, unit, target, more_is_better=more))

    @contextmanager
    def api(self) -> Iterator[Api]:
        home = self.home / "server"
        command = [sys.executable, "-m", "bench._server", str(home), self.url]
        with (
            (self.home / "server.log").open("w") as log,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as process,
        ):
            assert process.stdin and process.stdout
            url = process.stdout.readline().strip()
            token = (home / "run" / "operator.token").read_text()
            with Client(url, token) as client:
                yield Api(client, process.pid)
            process.stdin.close()
        shutil.rmtree(home, ignore_errors=True)

    # --- building
    def build(self, n: int) -> list[float]:
        """Register n files in the store; files/s of each batch."""
        rates: list[float] = []
        began = time.perf_counter()
        for start in range(0, n, BATCH):
            rates.append(self.register(list(made(start, BATCH))))
            if len(rates) % 20 == 0:
                taken = time.perf_counter() - began
                Console(stderr=True).print(
                    f"{start + BATCH:,} files, {rates[-1]:,.0f} files/s, {taken:,.0f} s", highlight=False
                )
        return [statistics.fmean(rates[max(0, i - 9) : i + 1]) for i in range(len(rates))]

    def register(self, files: list[NewFile]) -> float:
        begin = time.perf_counter()
        batch = catalog.Batch(files, self.vocabulary)
        with self.database.transaction() as conn:
            names = catalog.name(conn, batch)
        with self.database.transaction() as conn:
            catalog.register(conn, batch, names, self.activity)
        return len(files) / (time.perf_counter() - begin)

    def store_rate(self, n: int) -> float:
        """Half a million more files in the store."""
        taken = 0.0
        for start in range(0, MANY, BATCH):
            taken += BATCH / self.register(list(made(n + start, BATCH, "more")))
        return MANY / taken

    def analyze(self) -> None:
        """What autovacuum does within a minute, at once: the answers below are those of a catalogue at rest."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as conn:
            for table in ("file", "replica", "meta_set", "set_count", "directory", "dataset_set"):
                conn.execute(f"VACUUM (ANALYZE) {table}")  # pyright: ignore[reportArgumentType, reportCallIssue]
            conn.execute("CHECKPOINT")

    def bytes_per_file(self, n: int) -> None:
        size = self.one("SELECT sum(pg_total_relation_size(t)) FROM unnest(ARRAY['file', 'replica']::regclass[]) t")
        self.add("bytes per file with one replica, indexes included", float(size) / n, "bytes", 550, more=False)

    def one(self, query: str) -> Any:
        with self.database.transaction() as conn:
            line = conn.execute(query).fetchone()  # pyright: ignore[reportArgumentType, reportCallIssue]
        return line[0] if line else None

    # --- registering by API
    def register_by_api(self, api: Api, n: int) -> None:
        begin_at = n + MANY

        def lines() -> Iterator[dict[str, Any]]:
            return (as_line(file) for file in made(begin_at, MANY, "api"))

        first, told = timed(lambda: api.client.register(lines()))
        assert told["added"] == MANY, told
        again, told = timed(lambda: api.client.register(lines()))
        assert told["known"] == MANY, told
        self.add(f"register {MANY:,} files through the API", first, "s", 20, more=False)
        self.add("the same again", again, "s", 15, more=False)
        self.add("register through the API", MANY / first, "files/s", 25_000)

    # --- finding
    def finds(self, api: Api) -> None:
        rng = random.Random(1)
        for name, query in (("selective", selective), ("unselective", unselective)):
            texts = [query(rng) for _ in range(60)]
            in_store = [self.first_page(text) for text in texts]
            by_api = [timed(lambda t=text: list(api.client.find(t, limit=1000)))[0] for text in texts]
            self.add(
                f"find by 5 keys, {name}, first 1,000: p95 in the database", p95(in_store) * 1e3, "ms", 25, more=False
            )
            self.add(f"find by 5 keys, {name}, first 1,000: p95 by API", p95(by_api) * 1e3, "ms", 60, more=False)
        counts = [timed(lambda t=unselective(rng): api.client.count(t))[0] for _ in range(40)]
        self.add("count by 5 keys, unselective: p95 by API", p95(counts) * 1e3, "ms")

    def first_page(self, text: str) -> float:
        with self.database.transaction() as conn:
            plan = queries.compile_query(parse(text, self.vocabulary), self.vocabulary, now(conn))
            begin = time.perf_counter()
            place: queries.Place | None = queries.Place()
            left = 1000
            while place is not None and left > 0:
                page = queries.page(conn, plan, (), place, left, queries.FILES)
                place, left = page.next, left - len(page.files)
            return time.perf_counter() - begin

    # --- datasets
    def make_datasets(self, api: Api) -> None:
        for campaign in range(10):
            api.client.create_dataset(f"campaign{campaign}", f"campaign = Prod{campaign}")
            for site in SITES:
                for particle in PARTICLES:
                    for zenith in ZENITHS:
                        for azimuth in AZIMUTHS:
                            api.client.create_dataset(
                                f"Prod{campaign}_{site}_{particle}_{zenith}deg_{azimuth}",
                                f"campaign = Prod{campaign} and array = {site} and particle = {particle} "
                                f"and zenith = {zenith} and azimuth = {azimuth}",
                            )
        api.client.create_dataset("million", "block = 0")

    def datasets(self, api: Api) -> None:
        sizes = [timed(lambda: api.client.dataset("million")) for _ in range(40)]
        assert sizes[0][1]["files"] >= 1_000_000, sizes[0]
        self.add(
            "count and size of a 1-million-file dataset: p95 by API",
            p95([s for s, _ in sizes]) * 1e3,
            "ms",
            10,
            more=False,
        )
        lists = [timed(lambda: api.client.datasets(texts=False)) for _ in range(20)]
        assert len(lists[0][1]) == 651
        self.add(
            "list 651 datasets with files and bytes: p95 by API", p95([s for s, _ in lists]) * 1e3, "ms", 50, more=False
        )
        counted = self.one("SELECT count(*) FROM file JOIN meta_set USING (set_id) WHERE meta @@ '$.block == 0'")
        assert counted == sizes[0][1]["files"], "the counters are wrong"

    def stream(self, api: Api) -> None:
        list(api.client.find("dataset = million", limit=5000))
        before = api.memory()
        most = before
        for what, names in (("names and sizes", True), ("all metadata", False)):
            begin = time.perf_counter()
            n = 0
            for _ in api.client.find("dataset = million", names=names):
                n += 1
                if n % 100_000 == 0:
                    most = max(most, api.memory())
            assert n >= 1_000_000, n
            self.add(f"stream a 1-million-file dataset, {what}", time.perf_counter() - begin, "s", 15, more=False)
        self.add("the server's memory grew meanwhile by", max(0.0, most - before), "MB", 100, more=False)

    def replicas(self, api: Api) -> None:
        names = [file["lfn"] for file in api.client.find("campaign = Prod3", limit=10_000, names=True)]
        times = []
        for _ in range(5):
            taken, told = timed(lambda: api.client.replicas(names))
            assert len(told["replicas"]) == 10_000
            times.append(taken)
        self.add("replicas of 10,000 files, by API", statistics.median(times), "s", 0.3, more=False)

    # --- transformations
    def with_transformations(self, n: int) -> None:
        """The same registration with 500 active transformations to match; each new file feeds three or four of them."""
        start = n + 2 * MANY
        without = self.rate_of(start, "before")
        with self.database.transaction() as conn:
            production = conn.execute(
                """
                INSERT INTO production (name, campaign, document, state) VALUES ('p', 'p', '', 'Active')
                RETURNING production_id
                """
            ).fetchone()
            for k in range(500):
                zenith, key = ZENITHS[k // 10 % 4], k % 10
                query = f'$.campaign == "Prod{key}" && $.zenith == {zenith} && $.key{key} == "value {key} of {k % 50}"'
                if k < 1:
                    query = "$.data_level == 1"
                conn.execute(
                    """
                    INSERT INTO transformation (production_id, step, name, type, job_type, group_size, query, set_query,
                                                open, body, state)
                    VALUES (%s, 1, %s, 'x', 'x', 10, '{}', %s::jsonpath, true, '{}', 'Active')
                    """,
                    (production[0] if production else 0, f"t{k}", query),
                )
        with_them = self.rate_of(start + 4 * BATCH, "after")
        assert self.one("SELECT count(*) FROM pending_input") >= 3 * 4 * BATCH
        self.add("register: time with 500 active transformations / without", without / with_them, "", 1.5, more=False)

    def rate_of(self, start: int, tree: str) -> float:
        return statistics.fmean(self.register(list(made(start + k * BATCH, BATCH, tree))) for k in range(4))


def selective(rng: random.Random) -> str:
    run = rng.randrange(1000)
    meta = meta_of(run)
    return (
        f"campaign = {meta['campaign']} and array = {meta['array']} and particle = {meta['particle']} "
        f"and zenith = {meta['zenith']:.0f} and obs_id between {run}..{run + 5}"
    )


def unselective(rng: random.Random) -> str:
    return (
        f"campaign != Prod{rng.randrange(10)} and array in (LaPalma, Paranal) and particle in (gamma, "
        f"{rng.choice(PARTICLES[1:])}) and zenith < {rng.choice((45, 55, 70))} and azimuth = {rng.choice(AZIMUTHS)}"
    )


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    begin = time.perf_counter()
    answer = call()
    return time.perf_counter() - begin, answer


def p95(times: Sequence[float]) -> float:
    return sorted(times)[int(len(times) * 0.95)]


# --- the peer --------------------------------------------------------------------------------------------------
def with_peer(results: list[Measure]) -> list[Measure]:
    """The results beside what a real Rucio does on this machine with 20,000 files: it is compared by rates and by
    answers of the same size, since its catalogue cannot be built as large as ours in a day."""
    from bench.peers import rucio

    try:
        with tempfile.TemporaryDirectory(prefix="bench-peer-") as work, rucio.start(Path(work)) as peer:
            told = measure_rucio(peer)
    except rucio.PeerNotAvailable as error:
        Console(stderr=True).print(f"Rucio is not measured: {error}", highlight=False)
        return results
    compared: list[Measure] = []
    for m in results:
        name, value = next(((n, v) for start, n, v in told if m.measure.startswith(start)), ("", None))
        compared.append(replace(m, peer=name, peer_value=value))
    return compared


def measure_rucio(peer: Any) -> list[tuple[str, str, float]]:
    """(beginning of our measure, what was measured of Rucio, its value in the same unit)."""
    cached = "" if peer.cached else ", without memcached"
    sample = list(made(0, 6 * RUN, "sample"))
    peer.tune(sample)
    files = list(made(100 * RUN, PEER_FILES, "peer"))
    first = PEER_FILES / peer.register(files)
    again = PEER_FILES / peer.register_again(files).seconds
    keys = ["array", "particle", "zenith", "azimuth", "block"]  # campaign is a column of its own there
    found = peer.find({key: files[0].meta[key] for key in keys}, 1000).seconds * 1e3
    replicas = peer.replicas([file.lfn for file in files[:10_000]])
    dataset = peer.dataset(PEER_FILES)
    scale = 1_000_000 / PEER_FILES
    rucio = f"Rucio, {PEER_FILES:,} files{cached}"
    return [
        (f"register {MANY:,} files", f"{rucio}, scaled to {MANY:,}", MANY / first),
        ("the same again", f"{rucio}, scaled to {MANY:,}", MANY / again),
        ("register through the API", rucio, first),
        ("find by 5 keys, selective, first 1,000: p95 by API", rucio, found),
        ("replicas of 10,000", rucio, replicas),
        ("count and size", f"{rucio}, a dataset of these", dataset.count_seconds * 1e3),
        ("stream a 1-million-file dataset, names", f"{rucio}, scaled to 1 million", dataset.stream_seconds * scale),
    ]
