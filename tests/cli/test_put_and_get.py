"""file put and file get as a user types them: exit status, what is said, and the bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightkeeper.app import make_log
from lightkeeper.instance import Instance
from lightkeeper.settings import Settings
from lightkeeper.steps import audit, topology

TOPOLOGY = """
version: 1
sites:
  Mountain: {kind: observatory}
  North: {}
  South: {}
storages:
  mountain: {site: Mountain, root: "ROOT/mountain", ingest: true}
  north: {site: North, root: "ROOT/north"}
  south: {site: South, root: "ROOT/south"}
"""


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance without files, on which nothing runs by itself."""
    home = tmp_path_factory.mktemp("content")
    for name in ("mountain", "north", "south"):
        (home / name).mkdir()
    settings = Settings(home=home, port=0)
    with Instance(settings, work=False, log=make_log(settings)) as instance:
        topology.apply(instance.context, TOPOLOGY.replace("ROOT", str(home)))
        yield instance
        assert audit.fsck(instance.context, read_bytes=True).violations == []


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def night(instance: Instance, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Five files that were put, by name."""
    folder = tmp_path_factory.mktemp("night")
    contents = {f"TEL00{n}_run.fits": f"telescope {n}".encode() * 50_000 for n in range(1, 5)} | {"log.txt": b"calm"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    meta = ("--meta", "data_level=0", "--meta", "site=CTAO-North")
    where = ("--to", "/ctao/user/maria/night", "--at", "north")
    said = cli(instance, folder, 0, "file", "put", *contents, *where, *meta)
    assert said == "5 files put, 2.2 MB\n"
    return {f"/ctao/user/maria/night/{name}": content for name, content in contents.items()}


def cli(instance: Instance, cwd: Path, status: int, *arguments: str, stdin: str = "") -> str:
    """Run a command; the exit status it must end with comes first. Answers of a success, else all that was said."""
    ran = subprocess.run(
        [sys.executable, "-m", "lightkeeper", "--home", str(instance.settings.home), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        input=stdin,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert ran.returncode == status, ran.stdout + ran.stderr
    assert bool(ran.stderr) is bool(status), ran.stderr
    return ran.stdout + ran.stderr if status else ran.stdout


def loaded(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} if folder.exists() else set()


@pytest.mark.feature("S4-025", "S4-026", "S4-030")
def test_files_are_got_by_name_and_by_query_as_they_were_put(instance: Instance, cwd: Path, night: dict[str, bytes]):
    assert cli(instance, cwd, 0, "file", "get", *night) == "5 files loaded, 2.2 MB\n"
    for name, content in night.items():
        assert (cwd / name.rpartition("/")[2]).read_bytes() == content
    assert cli(instance, cwd, 0, "file", "get", *night) == "5 files already there, 2.2 MB\n"
    cli(instance, cwd, 0, "file", "get", "--query", "data_level = 0 and size > 1kB", "--to", "by/query")
    assert loaded(cwd / "by/query") == {f"TEL00{n}_run.fits" for n in range(1, 5)}
    assert json.loads(cli(instance, cwd, 0, "find", "data_level = 0", "--limit", "1", "--json"))["meta"] == {
        "data_level": 0,
        "site": "CTAO-North",
    }


def test_names_come_by_wildcard_list_and_pipe_and_each_is_loaded_once(
    instance: Instance, cwd: Path, night: dict[str, bytes]
):
    first, second, *_ = night
    get = ("file", "get", "--to")
    cli(instance, cwd, 0, *get, "wild", "/ctao/user/maria/night/TEL00?_*.fits")
    assert len(loaded(cwd / "wild")) == 4
    cli(instance, cwd, 0, *get, "deep", "/ctao/*/log.txt")
    cli(instance, cwd, 0, *get, "deep", "TEL001*")
    assert loaded(cwd / "deep") == {"log.txt", "TEL001_run.fits"}
    (cwd / "list").write_text(f"# tonight\n\n{first}\n  {second}  \n{first}\n")
    assert cli(instance, cwd, 0, *get, "listed", "@list", first) == "2 files loaded, 1.1 MB\n"
    assert cli(instance, cwd, 0, *get, "piped", "-", stdin=f"{first}\n*log.txt\n").startswith("2 files loaded")
    assert loaded(cwd / "piped") == {"TEL001_run.fits", "log.txt"}


@pytest.mark.parametrize(
    ("status", "given", "message"),
    [
        (2, [], "no file is named"),
        (3, ["/ctao/none*"], "no file in the catalogue matches '/ctao/none*'"),
        (2, ["ctao/user/*"], "names begin with a slash"),
        (2, ["@nolist"], "the list nolist cannot be read: No such file"),
        (2, ["@empty"], "empty names no file"),
        (2, ["-"], "the standard input names no file"),
        (2, ["log.txt"], "must be absolute"),
        (2, ["/ctao/../etc/passwd"], "part '..' is not allowed"),
        (3, ["--query", "data_level = 7"], "no file in the catalogue matches the query"),
        (2, ["--query", "data_levl = 7"], "did you mean 'data_level'?"),
        (1, ["/ctao/user/maria/none.fits"], "is not in the catalogue"),
    ],
)
def test_names_that_cannot_be_are_told(
    instance: Instance, cwd: Path, night: dict[str, bytes], status: int, given: list[str], message: str
):
    (cwd / "empty").write_text("# nothing\n\n")
    assert message in " ".join(cli(instance, cwd, status, "file", "get", *given).split())


def test_local_files_are_left_replaced_or_kept_apart_as_asked(instance: Instance, cwd: Path, night: dict[str, bytes]):
    name, content = next(iter(night.items()))
    mine = cwd / name.rpartition("/")[2]
    mine.write_text("mine")
    said = cli(instance, cwd, 1, "file", "get", *night)
    assert "4 files loaded" in said
    assert f"{name}: {mine.name} is there and is not {name} → replace it with --overwrite" in said
    assert mine.read_text() == "mine"
    assert cli(instance, cwd, 0, "file", "get", name, "--skip-existing") == "1 file already there, 4 B\n"
    told = json.loads(cli(instance, cwd, 0, "file", "get", name, "--overwrite", "--json"))
    assert told["done"] == [{"name": name, "path": mine.name, "state": "loaded", "size": len(content)}]
    assert mine.read_bytes() == content
    cli(instance, cwd, 0, "file", "get", name, "--tree", "--to", "tree")
    assert (cwd / "tree" / name[1:]).read_bytes() == content


def test_a_put_tells_what_it_would_do_and_what_cannot_be(instance: Instance, cwd: Path):
    (cwd / "a.dat").write_text("light")
    put = ("file", "put", "a.dat", "--to", "/ctao/user/maria/put", "--at", "south")
    assert cli(instance, cwd, 0, *put, "--dry-run") == "/ctao/user/maria/put/a.dat: would be put, 5 B\n"
    assert cli(instance, cwd, 3, "file", "get", "/ctao/user/maria/put/*")
    assert "did you mean 'data_level'?" in cli(instance, cwd, 2, *put, "--meta", "data_levl=3")
    assert "write a whole number like 42" in cli(instance, cwd, 2, *put, "--meta", "data_level=three")
    assert "write KEY=VALUE" in cli(instance, cwd, 2, *put, "--meta", "data_level")
    assert "is given twice" in cli(instance, cwd, 2, *put, "--meta", "data_level=3", "--meta", "data_level=4")
    assert "did you mean 'south'?" in cli(instance, cwd, 3, *put[:-1], "soth")
    assert "takes deliveries" in cli(instance, cwd, 5, *put[:-1], "mountain")
    assert "put what is in it with --recursive" in cli(instance, cwd, 2, "file", "put", ".", *put[3:])
    said = cli(instance, cwd, 1, "file", "put", "a.dat", "b.dat", *put[3:], "--meta", "data_level=3")
    assert "1 file put, 5 B" in said
    assert "not_found: b.dat: there is no file b.dat" in said
    assert cli(instance, cwd, 0, *put) == "1 file already there, 5 B\n"
    (cwd / "a.dat").write_text("other")
    assert "registered already with another content" in cli(instance, cwd, 1, *put)


def test_a_get_that_is_interrupted_goes_on_later(instance: Instance, cwd: Path):
    with (cwd / "large.dat").open("wb") as file:
        file.truncate(600 << 20)
    where = ("--to", "/ctao/user/maria/large", "--at", "north")
    cli(instance, cwd, 0, "file", "put", "large.dat", *where)
    part, name = cwd / "back/large.dat.incomplete", "/ctao/user/maria/large/large.dat"
    arguments = [sys.executable, "-m", "lightkeeper", "--home", str(instance.settings.home), "file", "get", name]
    for sign in (signal.SIGINT, signal.SIGKILL):
        for _ in range(10):  # it may be done before it is interrupted
            before = part.stat().st_size if part.exists() else 0
            process = subprocess.Popen([*arguments, "--to", "back"], cwd=cwd, stderr=subprocess.DEVNULL)
            while process.poll() is None and not (part.exists() and part.stat().st_size > before + (4 << 20)):
                time.sleep(0.001)
            process.send_signal(sign)
            if process.wait(20) != 0:
                break
            (cwd / "back/large.dat").unlink()
        assert part.stat().st_size > before
    assert cli(instance, cwd, 0, *arguments[5:], "--to", "back") == "1 file loaded, 629.1 MB\n"
    assert (cwd / "back/large.dat").stat().st_size == 600 << 20
    assert not part.exists()
