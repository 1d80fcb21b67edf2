"""Data centres on networks of their own: a network namespace each, joined to this machine by a pair of interfaces.

The link of one can be cut both ways, or one way only: then packets leave and no answer comes, or the other way round.
Needs root and iptables.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest

_numbers = itertools.count(os.getpid() % 200)


@dataclass
class Net:
    """One centre's network: its namespace, and its address as seen from here."""

    name: str
    address: str
    _rules: list[list[str]]

    def command(self, *words: str) -> list[str]:
        """The command that runs `words` there."""
        return ["ip", "netns", "exec", self.name, *words]

    def cut(self, way: str = "both") -> None:
        """Lose every packet: 'to' the centre, 'from' it, or both."""
        for chain, flag in (("OUTPUT", "-d"), ("INPUT", "-s")):
            if way in ("both", "to" if chain == "OUTPUT" else "from"):
                rule = [chain, flag, self.address, "-j", "DROP"]
                _run("iptables", "-w", "-I", *rule)
                self._rules.append(rule)

    def mend(self) -> None:
        """Let all packets through again."""
        while self._rules:
            _run("iptables", "-w", "-D", *self._rules.pop())


@contextmanager
def network() -> Iterator[Net]:
    """A namespace with a link to here."""
    if os.geteuid() != 0 or shutil.which("iptables") is None or shutil.which("ip") is None:
        pytest.skip("needs root, ip and iptables")
    number = next(_numbers) % 250
    name, here, there = f"lk{number}", f"10.213.{number}.1", f"10.213.{number}.2"
    try:
        _run("ip", "netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr}")
    net = Net(name, there, [])
    try:
        _run("ip", "link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        _run("ip", "addr", "add", f"{here}/30", "dev", f"{name}a")
        _run("ip", "link", "set", f"{name}a", "up")
        for words in (("addr", "add", f"{there}/30", "dev", f"{name}b"), ("link", "set", f"{name}b", "up")):
            _run("ip", "-n", name, *words)
        _run("ip", "-n", name, "link", "set", "lo", "up")
        yield net
    finally:
        net.mend()
        with suppress(subprocess.CalledProcessError):
            _run("ip", "link", "del", f"{name}a")
        _run("ip", "netns", "del", name)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)
