"""The other processes of bench/work.py: `serve HOME DATABASE`, `pilot URL FOLDER --jobs | --claims N`.

With --claims nothing is run or uploaded: jobs are claimed and reported with no outputs, N at a time. With --jobs the
pilot is the real one, but that it has a program that does nothing watched instead of cwltool, and writes the outputs
itself.
"""

import json
import os
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvicorn

from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.api import make_api
from lightkeeper.client import Client
from lightkeeper.context import Context
from lightkeeper.domain.limits import Limits
from lightkeeper.domain.work import JobOrder, JobRecipe
from lightkeeper.instance import _Silent
from lightkeeper.pilot import SECRET, Pilot
from lightkeeper.ports import JobType
from lightkeeper.settings import Settings
from lightkeeper.store.db import Database
from lightkeeper.testing.observatory import Concatenate, PlainObservatory


class Nothing(Concatenate):
    """A job that makes nothing."""

    def recipe(self, order: JobOrder) -> JobRecipe:
        return JobRecipe(cwl=json.dumps({"task": order.task_id}), inputs={}, outputs=())


class Observatory(PlainObservatory):
    def job_types(self) -> Mapping[str, JobType]:
        return {**super().job_types(), "Nothing": Nothing()}


class NoPilots:
    """An executor that starts nothing."""

    def start(self, _order: object) -> str:
        return "none"

    def running(self, handles: list[str]) -> set[str]:
        return set(handles)

    def stop(self, handles: list[str]) -> None: ...


def context(database: Database, home: Path) -> Context:
    drivers = {"posix": PosixStorage}
    settings = Settings(home=home, pilot_idle=1)
    return Context(database, settings, _Silent(), drivers, StreamMover(), {"none": NoPilots()}, (Observatory(),))


class WithoutTool(Pilot):
    def _run_tool(self, job: Mapping[str, Any], folder: Path, log: Path) -> None:
        (folder / "out").mkdir()
        self._watchdogs.watch(["true"], folder, os.environ, Limits(**job["limits"]), log)
        for name in job["outputs"]:
            (folder / "out" / name).write_text(f"made by task {job['task_id']}")


def claims(client: Client, most: int) -> None:
    client.hello()
    while jobs := client.claim(most, holding=[]):
        report = {"outputs": [], "provenance": [], "log": ""}
        client.finish_all({job["job_id"]: report | {"storage": job["upload"]["storage"]} for job in jobs})


def serve(home: Path, url: str) -> None:
    database = Database(url).open()
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(make_api(context(database, home), "bench"), log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.should_exit = True
    thread.join()
    database.close()


if __name__ == "__main__":
    what, *given = sys.argv[1:]
    if what == "serve":
        serve(Path(given[0]), given[1])
    else:
        url, folder, how, *rest = given
        with Client(url, os.environ[SECRET]) as client:
            if how == "--claims":
                claims(client, int(rest[0]))
            else:
                WithoutTool(client, Path(folder)).run()
