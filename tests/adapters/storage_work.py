"""The work that test_storage_crash.py interrupts at every system call. As a program: ROOT safe|unsafe.

After each step one '+' is printed: what was acknowledged must survive.
"""

import os
import sys

from lightkeeper.adapters.storage_posix import PosixStorage

A = "/ctao/dl0/one.fits"
B = "/ctao/dl1/night/two.fits"
CHUNK = 50_000


def chunks(letter):
    """The content named `letter`, in three writes."""
    return [letter.encode() * CHUNK] * 3


STEPS = [
    lambda storage: storage.write(A, chunks("a")),
    lambda storage: storage.write(A, chunks("b")),
    lambda storage: storage.rename(A, B),
    lambda storage: storage.write(A, chunks("c")),
    lambda storage: storage.delete(B),
]

STATES = [{}, {A: "a"}, {A: "b"}, {B: "b"}, {A: "c", B: "b"}, {A: "c"}]
"""What is on the storage before the first step and after each."""

if __name__ == "__main__":
    if sys.argv[2] == "unsafe":
        os.fsync = lambda fd: None
        os.posix_fadvise = lambda *_: None  # would start writing what nobody synced
    work_on = PosixStorage("disk", sys.argv[1])
    for step in STEPS:
        step(work_on)
        os.write(1, b"+")
