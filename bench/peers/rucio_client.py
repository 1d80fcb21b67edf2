"""The Rucio side of `rucio.py`: runs in Rucio's own environment, one operation per run.

    python -I rucio_client.py OPERATION REQUEST    # REQUEST is a file of JSON; the answer is one line of JSON

Isolated (-I), since Python would otherwise take the `rucio.py` beside this file for Rucio. What is timed begins when
every client has its token and its connection, and has read its files.
"""

import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

from rucio.client import Client
from rucio.common.exception import RucioException

SCOPE = "bench"
RSE = "STORE"
READ_AND_WRITE = {"read": 1, "write": 1, "delete": 1}
ALL_DOMAINS = {"lan": READ_AND_WRITE, "wan": READ_AND_WRITE}


def schema() -> dict:
    """Tables, virtual organisation and root account, as Rucio's own bootstrap makes them."""
    from rucio.db.sqla import models, session, util

    models.register_models(session.get_engine())
    util.create_base_vo()
    util.create_root_account()
    return {}


def prepare(prefix: str) -> dict:
    """The scope and the storage that everything else uses."""
    client = Client()
    client.add_scope("root", SCOPE)
    client.add_rse(RSE)
    protocol = {"scheme": "file", "hostname": "localhost", "port": 0, "prefix": prefix, "domains": ALL_DOMAINS}
    client.add_protocol(RSE, protocol | {"impl": "rucio.rse.protocols.posix.Default"})
    return {}


def register(files: list[dict], clients: int, batch: int) -> dict:
    """Names, sizes, checksums, metadata and one replica each, in one call per batch."""
    Client().whoami()  # writes the token that the others read
    workers = [Worker(register_some, part, batch) for part in (files[k::clients] for k in range(clients)) if part]
    for worker in workers:
        worker.wait()
    begin = time.perf_counter()
    for worker in workers:
        worker.go()
    errors = [error for worker in workers for error in worker.wait()]
    return {"seconds": time.perf_counter() - begin, "errors": errors}


def register_some(client: Client, files: list[dict], batch: int) -> list[str]:
    """What was refused: one message for each batch."""
    refused = []
    for some in batches(files, batch):
        try:
            client.add_replicas(RSE, [{"scope": SCOPE, **file} for file in some])
        except RucioException as error:
            refused.append(f"{type(error).__name__}: {error}"[:300])
    return refused


def find(keys: dict, limit: int, repeats: int) -> dict:
    """The names of the first `limit` files that match; the protocol has no limit, so the client stops reading."""
    client = Client()
    client.whoami()
    took, names = [], []
    for _ in range(repeats):
        begin = time.perf_counter()
        names = list(islice(client.list_dids(SCOPE, [dict(keys)], did_type="file"), limit))
        took.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(took), "names": names}


def replicas(names: list[str], batch: int) -> dict:
    client = Client()
    client.whoami()
    begin = time.perf_counter()
    count = 0
    for some in batches(names, batch):
        found = client.list_replicas([{"scope": SCOPE, "name": name} for name in some])
        count += sum(1 for file in found if file["pfns"])
    return {"seconds": time.perf_counter() - begin, "count": count}


def dataset(name: str, names: list[str], batch: int) -> dict:
    """Attach files to a new dataset, ask for its count and size, and read its list of files."""
    client = Client()
    client.add_dataset(SCOPE, name)
    begin = time.perf_counter()
    for some in batches(names, batch):
        client.attach_dids(SCOPE, name, [{"scope": SCOPE, "name": file} for file in some])
    attached = time.perf_counter()
    summary = client.get_did(SCOPE, name, dynamic_depth="FILE")
    counted = time.perf_counter()
    streamed = sum(1 for _ in client.list_files(SCOPE, name))
    return {
        "count": summary["length"],
        "size": int(summary["bytes"]),  # PostgreSQL's sum of bigint is no integer
        "streamed": streamed,
        "attach_seconds": attached - begin,
        "count_seconds": counted - attached,
        "stream_seconds": time.perf_counter() - counted,
    }


class Worker:
    """A client in a process of its own, that says when it is ready, waits for `go`, and answers once."""

    def __init__(self, work: Callable, files: list[dict], batch: int) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")  # files go along without being written and read again
        context.Process(target=self._run, args=(theirs, work, files, batch), daemon=True).start()
        theirs.close()  # so that the end of the process is seen as the end of the pipe

    def wait(self) -> list[str]:
        return self.pipe.recv()

    def go(self) -> None:
        self.pipe.send("go")

    @staticmethod
    def _run(pipe: Connection, work: Callable, files: list[dict], batch: int) -> None:
        client = Client()
        client.whoami()
        pipe.send([])
        pipe.recv()
        pipe.send(work(client, files, batch))


def batches(items: list, size: int) -> Iterator[list]:
    return (items[start : start + size] for start in range(0, len(items), size))


OPERATIONS = {f.__name__: f for f in (schema, prepare, register, find, replicas, dataset)}

if __name__ == "__main__":
    answer = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    result = OPERATIONS[sys.argv[1]](**json.loads(Path(sys.argv[2]).read_bytes()))
    os.write(answer, json.dumps(result).encode() + b"\n")
