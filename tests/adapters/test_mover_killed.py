"""A process that copies a large file is killed in the middle; the next one goes on where it was."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.fixity import chunks_of, fixity_of
from lightkeeper.ports import Copy
from lightkeeper.testing.storage_conformance import MIB, all_files, resident

FIRST, SECOND = "/.lightkeeper/arrivals/7.1", "/.lightkeeper/arrivals/7.2"
WORKER = """
import sys, time
from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.ports import Copy
source, target, size = PosixStorage("pic", sys.argv[1]), PosixStorage("cscs", sys.argv[2]), int(sys.argv[3])
def progress(done):
    print(done, flush=True)
    if done > size // 2:
        time.sleep(60)
list(StreamMover(0).carry([Copy(source, "/big", target, sys.argv[4], size, progress=progress)]))
"""


def half_copied(source, target, size, number):
    """A copy whose process gets a signal after half of its bytes; the process."""
    command = [sys.executable, "-c", WORKER, str(source.root), str(target.root), str(size), FIRST]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) > size // 2:
            break
    process.send_signal(number)
    return process


def made(tmp_path, size):
    for name in ("pic", "cscs"):
        (tmp_path / name).mkdir()
    source, target = PosixStorage("pic", tmp_path / "pic"), PosixStorage("cscs", tmp_path / "cscs")
    source.write("/big", (os.urandom(MIB) for _ in range(size // MIB)))
    with source.open("/big") as file:
        return source, target, fixity_of(chunks_of(file))


def goes_on(tmp_path, size):
    source, target, right = made(tmp_path, size)
    half_copied(source, target, size, signal.SIGKILL).wait()
    told: list[int] = []
    before = resident()
    (ended,) = StreamMover(0).carry([Copy(source, "/big", target, SECOND, size, (FIRST,), progress=told.append)])
    assert ended.fixity == right, "it is read back as a whole"
    assert told[0] > size // 2, "what was there is not sent again"
    assert all_files(target) == {SECOND: size}
    assert resident() - before < 60 * MIB


def test_a_copy_that_was_killed_at_half_goes_on_there(tmp_path):
    goes_on(tmp_path, 160 * MIB)


@pytest.mark.nightly
@pytest.mark.feature("S2-013", "S4-006")
def test_a_file_of_two_gigabytes_that_was_killed_at_half_goes_on_there_in_constant_memory(tmp_path):
    goes_on(tmp_path, 2048 * MIB)


def test_a_worker_that_only_sleeps_and_wakes_up_spoils_nothing(tmp_path):
    size = 160 * MIB
    source, target, right = made(tmp_path, size)
    sleeping = half_copied(source, target, size, signal.SIGSTOP)
    try:
        (ended,) = StreamMover().carry([Copy(source, "/big", target, SECOND, size, (FIRST,))])
        assert ended.fixity == right
    finally:
        sleeping.send_signal(signal.SIGCONT)
        time.sleep(0.1)
        sleeping.kill()
        sleeping.wait()
    with target.open(SECOND) as file:
        assert fixity_of(chunks_of(file)) == right
    assert target.stat(FIRST) is not None, "what it holds stayed its own"
