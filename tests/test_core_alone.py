"""The core is of no observatory: its own tests pass where the package of this one is not installed."""

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

TREE = Path(__file__).parents[1]
OF_THE_CORE = ("domain", "store", "steps")
"""Folders of its tests; those of adapters speak with foreign servers, which know of no observatory."""
REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "lightkeeper_ctao":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Refuse())
"""
ASK = """
from importlib.metadata import entry_points
import lightkeeper
print([one.value for one in entry_points(group="lightkeeper.observatory")])
import lightkeeper_ctao
"""


def installed_without(folder: Path) -> dict[str, str]:
    """An environment in which Lightkeeper is installed and lightkeeper_ctao is not."""
    folder.mkdir()
    (folder / "lightkeeper").symlink_to(TREE / "src" / "lightkeeper")
    (folder / "sitecustomize.py").write_text(REFUSE)
    told = distribution("lightkeeper")
    info = folder / f"lightkeeper-{told.version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(str(told.read_text("METADATA")))
    lines = str(told.read_text("entry_points.txt")).splitlines()
    (info / "entry_points.txt").write_text("\n".join(line for line in lines if "lightkeeper_ctao" not in line))
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.feature("S0-008", "S0-064")
def test_the_tests_of_the_core_pass_where_no_observatory_is_installed(tmp_path: Path):
    environment = installed_without(tmp_path / "site")
    asked = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=False)
    assert (asked.returncode, asked.stdout.strip()) == (1, "[]")
    assert "No module named 'lightkeeper_ctao'" in asked.stderr
    tests = [path for kind in OF_THE_CORE for path in sorted((TREE / "tests" / kind).glob("test_*.py"))]
    of_core = [str(path) for path in tests if "lightkeeper_ctao" not in path.read_text()]
    assert len(of_core) > 0.9 * len(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not nightly", *of_core]
    ran = subprocess.run(command, env=environment, cwd=TREE, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-5000:]
