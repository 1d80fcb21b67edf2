"""Container engines that stand in for apptainer, singularity and podman: they take the same options and refuse others.

A container is a mount namespace whose root has the programs of this machine, a file /image-name, and what was mounted;
whoever runs in it sees nothing else. Images are names. Every call is kept.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """#!{python}
import argparse, json, os, subprocess, sys, tempfile
from pathlib import Path

KEPT = Path({kept!r})
words = sys.argv[1:]
with (KEPT / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps([Path(sys.argv[0]).name, *words]) + "\\n")


def main():
    (podman if {engine!r} == "podman" else singularity)()


def singularity():
    if words == ["--version"]:
        return print("apptainer version 1.3.4" if {engine!r} == "apptainer" else "singularity-ce version 4.1.0")
    if words[:2] == ["exec", "--userns"]:
        sys.exit("FATAL: /bin/sh doesn't exist in container")
    if words[0] == "pull":
        asked = parse(words[1:], ["--name"], [])
        return Path(asked.name).write_text(asked.image)
    if words[0] == "inspect":
        sys.exit(255)
    if words[:2] != ["--quiet", "run"]:
        sys.exit(f"unknown command {{words[:2]}}")
    asked = parse(words[2:], ["--home", "--pwd", "--network"],
                  ["--contain", "--ipc", "--cleanenv", "--no-eval", "--userns", "--pid", "--net"])
    source, _, target = asked.home.partition(":")
    mounts = [(source, target, True), *map(mount_of, asked.mount)]
    mark = "SINGULARITYENV_"
    environment = {{key[len(mark):]: value for key, value in os.environ.items() if key.startswith(mark)}}
    name = Path(asked.image).read_text().removeprefix("docker://")
    contain(name, mounts, asked.pwd, {{"HOME": target, **environment}}, asked.network == "none", asked.command)


def podman():
    known = KEPT / "podman-images" / words[-1].replace("/", "_") if words[0] in ("inspect", "pull") else None
    if words[0] == "inspect":
        return print("[{{}}]") if known.exists() else sys.exit(125)
    if words[0] == "pull":
        known.parent.mkdir(exist_ok=True)
        return known.touch()
    if words[:2] != ["run", "-i"]:
        sys.exit(f"unknown command {{words[:2]}}")
    valued = ["--userns", "--workdir", "--read-only", "--net", "--log-driver", "--user", "--cidfile"]
    asked = parse(words[2:], valued, ["--rm"])
    environment = dict(one.split("=", 1) for one in asked.env)
    Path(asked.cidfile).write_text("c1")
    mounts = list(map(mount_of, asked.mount))
    contain(asked.image, mounts, asked.workdir, environment, asked.net == "none", asked.command)


def parse(given, valued, flags):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for one in valued:
        parser.add_argument(one)
    for one in flags:
        parser.add_argument(one, action="store_true")
    for one in ("--mount", "--env"):
        parser.add_argument(one, action="append", default=[])
    parser.add_argument("image")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser.parse_args(given)


def mount_of(text):
    told = dict(part.partition("=")[::2] for part in text.split(","))
    assert told.keys() <= {{"type", "source", "target", "readonly"}} and told["type"] == "bind", text
    return told["source"], told["target"], "readonly" not in told


def contain(image, mounts, folder, environment, alone, command):
    root = tempfile.mkdtemp(dir=KEPT)
    lines = ["PATH=$PATH:/usr/sbin:/sbin", f"mount -t tmpfs tmpfs {{root}}", f"echo {{image}} > {{root}}/image-name"]
    for place in ("usr", "bin", "lib", "lib64", "etc"):
        if os.path.isdir(f"/{{place}}"):
            lines += [f"mkdir {{root}}/{{place}}", f"mount --rbind /{{place}} {{root}}/{{place}}"]
    for source, target, writable in [*mounts, ("/dev/null", "/dev/null", True)]:
        make = f"mkdir -p {{root}}{{target}}" if os.path.isdir(source) else (
            f"mkdir -p {{os.path.dirname(root + target)}}; touch {{root}}{{target}}")
        lines += [make, f"mount --bind {{source}} {{root}}{{target}}"]
        if not writable:
            lines.append(f"mount -o remount,ro,bind {{root}}{{target}}")
    lines.append(f'exec chroot {{root}} env -i PATH=/usr/bin:/bin "$@"')
    given = [f"{{key}}={{value}}" for key, value in environment.items()]
    inner = ["sh", "-c", f'cd {{folder}} && exec "$@"', "sh", *command]
    sys.stdout.flush()
    spaces = ["unshare", "--mount", *(["--net"] if alone else [])]
    ended = subprocess.run([*spaces, "sh", "-ec", "\\n".join(lines), "sh", *given, *inner])
    os.rmdir(root)
    sys.exit(ended.returncode)


main()
"""


class Engine:
    """An engine that lies in a folder of programs."""

    def __init__(self, name: str, home: Path) -> None:
        if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
            pytest.skip("no mount namespace may be made here")
        self.programs, self._kept = home / "bin", home / "kept"
        self.programs.mkdir(parents=True)
        self._kept.mkdir()
        program = self.programs / name
        program.write_text(PROGRAM.format(python=sys.executable, engine=name, kept=str(self._kept)))
        program.chmod(0o755)

    def calls(self, word: str) -> list[list[str]]:
        """Its calls with this word among them, in order."""
        lines = (self._kept / "calls.jsonl").read_text().splitlines()
        return [call for call in map(json.loads, lines) if word in call]
