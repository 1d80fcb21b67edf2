"""Every mover does what movers promise."""

import importlib.util
from uuid import uuid4

import pytest
from tests.engines.xrootd import xrootd

from lightkeeper.adapters.mover_fts import FtsMover
from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.adapters.mover_tpc import TpcMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.adapters.storage_xrootd import XrootdStorage
from lightkeeper.testing.fts_server import fts
from lightkeeper.testing.mover_conformance import MoverConformance

needs_client = pytest.mark.skipif(importlib.util.find_spec("XRootD") is None, reason="pip install '.[xrootd]'")


class Addressed(PosixStorage):
    """Directories that a transfer service is told of."""

    def address(self, path: str) -> str:
        return f"mock://{self.name}{path}"


def made(kind, folder, name):
    (folder / name).mkdir()
    return kind(name, folder / name)


@pytest.fixture(scope="module")
def pair():
    with xrootd(tpc=True) as one, xrootd(tpc=True) as two:
        yield one, two


def at(server, name):
    root = f"/{uuid4().hex}"
    server.make(root)
    return XrootdStorage(name, server.url(root))


class TestStream(MoverConformance):
    @pytest.fixture
    def source(self, tmp_path):
        return made(PosixStorage, tmp_path, "pic")

    @pytest.fixture
    def target(self, tmp_path):
        return made(PosixStorage, tmp_path, "cscs")

    @pytest.fixture
    def mover(self):
        return StreamMover()


@needs_client
class TestStreamToXrootd(MoverConformance):
    @pytest.fixture
    def source(self, tmp_path):
        return made(PosixStorage, tmp_path, "pic")

    @pytest.fixture
    def target(self, pair):
        return at(pair[1], "cscs")

    @pytest.fixture
    def mover(self):
        return StreamMover()


@needs_client
class TestThirdParty(MoverConformance):
    @pytest.fixture
    def source(self, pair):
        return at(pair[0], "pic")

    @pytest.fixture
    def target(self, pair):
        return at(pair[1], "cscs")

    @pytest.fixture
    def mover(self):
        return TpcMover(at_least=4 << 20)  # each takes the library two seconds and a half


class TestFts(MoverConformance):
    @pytest.fixture
    def source(self, tmp_path):
        return made(Addressed, tmp_path, "pic")

    @pytest.fixture
    def target(self, tmp_path):
        return made(Addressed, tmp_path, "cscs")

    @pytest.fixture
    def mover(self, source, target):
        with fts({"mock://pic": source, "mock://cscs": target}) as service:
            yield FtsMover(service.url, poll_seconds=0.02)
