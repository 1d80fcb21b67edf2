"""The network to the database is gone: no packet comes or goes, and nobody is told."""

import os
import shutil
import subprocess
import time

import psycopg
import pytest
from tests.conftest import World
from tests.engines.proxy import Commits, cutting_commits

from lightkeeper.steps import ingest, watch
from lightkeeper.store.db import Database


@pytest.mark.nightly
def test_a_database_whose_network_is_gone_holds_nobody_for_longer_than_a_minute(world: World):
    if os.geteuid() != 0 or shutil.which("iptables") is None:
        pytest.skip("needs root and iptables")
    world.deliver("/test/raw/n1.plain")
    with cutting_commits(world.ctx.db.url, Commits(cut=lambda: False), None) as url:  # type: ignore[arg-type]
        port = psycopg.conninfo.conninfo_to_dict(url)["port"]
        database = Database(url, max_connections=2).open()
        ctx = world.having(db=database).ctx
        watch.scan(ctx)
        rule = ["INPUT", "-i", "lo", "-p", "tcp", "--dport", str(port), "-j", "DROP"]
        subprocess.run(["iptables", "-w", "-I", *rule], check=True)
        began = time.monotonic()
        try:
            with pytest.raises(psycopg.Error):
                ingest.register_accepted(ctx)
            assert time.monotonic() - began < 90
        finally:
            subprocess.run(["iptables", "-w", "-D", *rule], check=True)
        until = time.monotonic() + 60
        while not world.value("SELECT count(*) FROM file"):
            assert time.monotonic() < until
            try:
                ingest.register_accepted(ctx)
            except psycopg.Error:
                time.sleep(1)
        database.close()
