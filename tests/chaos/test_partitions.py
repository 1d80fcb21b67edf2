"""Three centres on networks of their own, which are cut: both ways, one way, again and again.

No copy on site goes before two centres have the file, nothing is deleted by two sides, and afterwards the backlog goes.
"""

import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.chaos.daemon import daemon
from tests.conftest import World, build_world
from tests.engines.netns import Net, network
from tests.engines.webdav import free_port

from lightkeeper.store import invariants
from lightkeeper.store.db import Database

SEED = int(os.environ.get("LIGHTKEEPER_TEST_SEED", "1"))
TOPOLOGY = """
version: 1
sites:
  Mountain: {kind: observatory}
  North: {}
  East: {}
  South: {}
storages:
  mountain: {site: Mountain, root: "ROOT/mountain", ingest: true}
  north: {site: North, driver: webdav, root: "NORTH"}
  east: {site: East, driver: webdav, root: "EAST"}
  south: {site: South, driver: webdav, root: "SOUTH"}
policies:
  raw: {files: {level: 0}, copies: 2, free_on_site: true}
"""
SERVER = """
daemon off; pid {home}/pid; error_log {home}/error.log; worker_processes 1; {user}
load_module /usr/lib/nginx/modules/ngx_http_dav_ext_module.so;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size 0; client_body_temp_path {home}/body; proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi; scgi_temp_path {home}/scgi; uwsgi_temp_path {home}/uwsgi;
  server {{
    listen {address}:{port};
    location / {{ root {home}/data; dav_methods PUT DELETE MKCOL COPY MOVE; dav_ext_methods PROPFIND OPTIONS; }}
  }}
}}
"""


@contextmanager
def centre(home: Path) -> Iterator[tuple[str, Net]]:
    """A WebDAV server on a network of its own: its address, and its network."""
    if not Path("/usr/lib/nginx/modules/ngx_http_dav_ext_module.so").exists():
        pytest.skip("needs the Debian package libnginx-mod-http-dav-ext")
    (home / "data").mkdir(parents=True)
    with network() as net:
        port = free_port()
        config = home / "nginx.conf"
        config.write_text(SERVER.format(home=home, address=net.address, port=port, user="user root;"))
        server = subprocess.Popen(net.command("nginx", "-p", str(home), "-c", str(config)), stderr=subprocess.DEVNULL)
        try:
            time.sleep(0.5)
            assert server.poll() is None, "nginx did not start"
            yield f"http://{net.address}:{port}", net
        finally:
            server.terminate()
            server.wait()


def live(world: World, nets: list[Net], tmp_path: Path, schedules: int) -> tuple[int, float]:
    """Files come while the networks are cut at random; how many, and the seconds the backlog took afterwards."""
    chance = random.Random(SEED)
    number = 0
    with daemon(world.ctx.db.url, world.root, (tmp_path / "log").open("ab"), retry_after=0.2, scan_every=0.3):
        for _ in range(schedules):
            for net in nets:
                if chance.random() < 0.5:
                    net.cut(chance.choice(("both", "to", "from")))
            for _ in range(3):
                number += 1
                world.deliver(f"/test/raw/n{number}.plain", content="light" * chance.randrange(20_000))
            time.sleep(chance.choice((0.5, 1, 5)))
            with world.ctx.db.transaction() as conn:
                assert invariants.violations(conn) == []
            for net in nets:
                net.mend()
            time.sleep(chance.choice((0, 0.5, 1)))
        began = time.monotonic()
        while busy(world, number):
            assert time.monotonic() - began < 300, "the backlog does not go"
            time.sleep(0.5)
        return number, time.monotonic() - began


def busy(world: World, files: int) -> bool:
    return (
        world.value("SELECT count(*) FROM file") < files
        or world.value("SELECT count(*) FROM verified_copy") < 2 * files
        or world.value("SELECT count(*) FROM replica") > 2 * files
    )


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.feature("S3-048")
@pytest.mark.parametrize("schedules", [10, 200])
def test_while_networks_are_cut_no_copy_goes_too_early_and_the_backlog_goes_afterwards(
    database: Database, tmp_path: Path, schedules: int, capsys: pytest.CaptureFixture[str]
):
    with ExitStack() as stack:
        centres = [stack.enter_context(centre(tmp_path / name)) for name in ("north", "east", "south")]
        document = TOPOLOGY
        for name, (url, _) in zip(("NORTH", "EAST", "SOUTH"), centres, strict=True):
            document = document.replace(f'"{name}"', f'"{url}"')
        (tmp_path / "world").mkdir()
        world = build_world(database, tmp_path / "world", document)
        files, seconds = live(world, [net for _, net in centres], tmp_path, schedules)
        assert world.violations() == []
    with capsys.disabled():
        print(f"\n{schedules} partitions, {files} files; the backlog went in {seconds:.0f} s")
