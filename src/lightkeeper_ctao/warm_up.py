"""Run once after installation, `python -m lightkeeper_ctao.warm_up`: no job shall wait for compilers.

Byte code and compiled functions of the pipeline software are cached beside it. A tiny night is processed and
merged so that the caches are filled. Never fails: without them the first job is slow, and that is all.
"""

import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

TIMEOUT = 600


def main() -> None:
    """Fill the caches, or say in one line why not."""
    programs = Path(sys.executable).parent
    process, merge = programs / "ctapipe-process", programs / "ctapipe-merge"
    if not process.exists() or not merge.exists():
        print("ctapipe is not installed; nothing to warm up")
        return
    try:
        with tempfile.TemporaryDirectory(prefix="warm-up-") as folder:
            _run(Path(folder), process, merge)
    except (ImportError, OSError, subprocess.SubprocessError) as error:
        print(f"the pipeline software could not be warmed up ({error}); the first job will be slow")


def _run(folder: Path, process: Path, merge: Path) -> None:
    from lightkeeper_ctao.simulate import simulate_night

    night = simulate_night(folder, night=date(2026, 1, 1), events=3)
    subarray = next(file for file in night.good if file.meta["stream"] == "Subarray")
    _call(
        folder,
        process,
        *("-q", "--input", str(folder / subarray.path[1:]), "--output", "night.dl2.h5"),
        *("--MultiFiles.all_chunks=True", "--DataWriter.write_dl2=True", "--provenance-log", "process.log"),
    )
    _call(folder, merge, "-q", "night.dl2.h5", "--output", "merged.dl2.h5", "--provenance-log", "merge.log")


def _call(folder: Path, program: Path, *arguments: str) -> None:
    subprocess.run([str(program), *arguments], cwd=folder, check=True, capture_output=True, timeout=TIMEOUT)


if __name__ == "__main__":
    main()
