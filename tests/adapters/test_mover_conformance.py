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
from lightkeeper.domain.errors import Unavailable
from lightkeeper.ports import Copy
from lightkeeper.testing.fts_server import fts
from lightkeeper.testing.mover_conformance import ARRIVALS, MoverConformance
from lightkeeper.testing.storage_conformance import fixity, sizes

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
def test_to_a_server_a_large_file_goes_on_where_it_broke_off(pair, tmp_path):
    size = 100 << 20
    source, target = made(PosixStorage, tmp_path, "pic"), at(pair[1], "cscs")
    source.write("/f", (bytes([n]) * (1 << 20) for n in range(100)))

    def give_up(done):
        if done > 80 << 20:
            raise Unavailable("the link is down")

    first, second = f"{ARRIVALS}/1.1", f"{ARRIVALS}/1.2"
    (broken,) = StreamMover(0).carry([Copy(source, "/f", target, first, size, progress=give_up)])
    assert isinstance(broken.error, Unavailable)
    told: list[int] = []
    (ended,) = StreamMover(0).carry([Copy(source, "/f", target, second, size, (first,), progress=told.append)])
    assert ended.fixity == fixity(source, "/f")
    assert told[0] > 80 << 20
    assert sizes(target, ARRIVALS) == {second: size}


@needs_client
def test_what_another_still_writes_on_a_server_is_not_taken_over(pair, tmp_path):
    size = 64 << 20
    source, target = made(PosixStorage, tmp_path, "pic"), at(pair[1], "cscs")
    source.write("/f", (bytes([n]) * (1 << 20) for n in range(64)))
    first, second = f"{ARRIVALS}/1.1", f"{ARRIVALS}/1.2"
    slower = target.arrive(first)
    slower.write(memoryview(b"x" * 4096))
    slower.sync()
    (ended,) = StreamMover().carry([Copy(source, "/f", target, second, size, (first,))])
    slower.close()
    assert ended.fixity == fixity(source, "/f")
    assert sizes(target, ARRIVALS) == {first: 4096, second: size}


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
