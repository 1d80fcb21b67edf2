"""An ordinary PostgreSQL named by `database_url` works the same as the embedded one."""

import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from lightkeeper.app import make_log
from lightkeeper.client import Client
from lightkeeper.domain.errors import Unavailable
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings
from lightkeeper.store import postgres

TOPOLOGY = """
sites: {Mountain: {kind: observatory}, North: {}, South: {}}
storages:
  m: {site: Mountain, root: "ROOT/m", ingest: true}
  n: {site: North, root: "ROOT/n"}
  s: {site: South, root: "ROOT/s"}
policies: {raw: {files: {data_level: -1}, copies: 2, free_on_site: true}}
"""


@pytest.mark.feature("S3-065")
def test_a_night_goes_its_way_on_a_server_that_is_not_ours(tmp_path: Path, shared: Path):
    for name in ("m", "n", "s"):
        (tmp_path / name).mkdir()
    with postgres.start(tmp_path / "elsewhere", shared_buffers_mb=32) as server:
        settings = Settings(home=tmp_path / "home", port=0, database_url=server.url, trigger_patience=1)
        with Instance(settings, log=make_log(settings)) as instance:
            assert not (tmp_path / "home" / "postgres").exists(), "no embedded server is made beside it"
            with Client(instance.url, (tmp_path / "home/run/operator.token").read_text()) as client:
                client.apply(TOPOLOGY.replace("ROOT", str(tmp_path)))
                run = next((shared / "data/simtel").glob("v0.33*"))
                file = tmp_path / "m/ctao/simulation/TEST" / run.name
                file.parent.mkdir(parents=True)
                file.write_bytes(run.read_bytes())
                file.with_name(file.name + ".trigger").touch()
                wait(lambda: client.status()["onsite_freed"] == 1)
                assert client.fsck(read_bytes=True)["violations"] == []
                with psycopg.connect(server.url, autocommit=True) as conn:
                    conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
                assert client.status()["files"] == 1, "lost connections are made again"
        with Instance(settings, log=make_log(settings), work=False) as again, Client(again.url) as client:
            assert client.status()["files"] == 1


def test_a_server_that_does_not_answer_is_told_with_the_setting_to_look_at(tmp_path: Path):
    settings = Settings(home=tmp_path, port=0, database_url=f"postgresql:///x?host={tmp_path}")
    with pytest.raises(Unavailable, match="database does not answer"):
        Instance(settings, log=make_log(settings))


def wait(until: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.1)
