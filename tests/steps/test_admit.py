"""Products come in by a trigger, from a person or from a job, and are judged by the same rule, if they are at all."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.conftest import World
from tests.steps.test_work import Hands, go_on, submit, transformation
from typer.testing import CliRunner

from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.domain.errors import Corrupt, Invalid
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.domain.names import parse_lfn
from lightkeeper.domain.products import ProductKind, kind_of
from lightkeeper.steps import content, expire, topology
from lightkeeper.steps.content import Wanted
from lightkeeper.testing.observatory import PlainObservatory, PlainReader

DAMAGED = "size=1"
SCRATCH = """
policies:
  scratch: {files: {file: scope, op: "=", value: scratch}, copies: 1, temporary: true, remove_after_hours: 720}
"""


def written(text: str = "light", **meta: Any) -> bytes:
    return (json.dumps({"level": 1, "night": "2030-01-02"} | meta) + "\n" + text).encode()


def put(world: World, lfn: str, data: bytes, **meta: Any) -> None:
    content.put(world.ctx, Wanted(lfn, "north", meta), [data])


def lfns(world: World) -> set[str]:
    return {file.lfn for file in world.files()}


@pytest.mark.parametrize(
    ("lfn", "kind"),
    [
        ("/test/raw/a", ProductKind.ARCHIVE),
        ("/test/scratch/a", ProductKind.TEMPORARY),
        ("/test/user/maria/a", ProductKind.USER),
        ("/test/users/maria/a", ProductKind.ARCHIVE),
        ("/a", ProductKind.ARCHIVE),
    ],
)
def test_the_scope_tells_the_kind_of_a_product(lfn: str, kind: ProductKind):
    assert kind_of(parse_lfn(lfn), {"scratch"}) is kind


# --- put by people -----------------------------------------------------------------------------------------------
@pytest.mark.feature("S4-026")
def test_what_a_file_says_of_itself_becomes_metadata_beside_what_is_given(world: World):
    put(world, "/test/made/a.plain", written(kind="muon"), number=7)
    (file,) = world.files()
    assert file.meta == {"level": 1, "night": "2030-01-02", "kind": "muon", "number": 7}


@pytest.mark.feature("S3-034")
def test_a_damaged_product_is_refused_for_the_archive_and_taken_as_temporary_or_a_users(world: World):
    topology.apply(world.ctx, SCRATCH)
    with pytest.raises(Corrupt, match=r"/test/made/a.plain is not taken into the archive: .* has 1 bytes"):
        put(world, "/test/made/a.plain", written(DAMAGED))
    put(world, "/test/scratch/a.plain", written(DAMAGED))
    put(world, "/test/user/maria/a.plain", written(DAMAGED))
    assert lfns(world) == {"/test/scratch/a.plain", "/test/user/maria/a.plain"}
    assert {file.meta["level"] for file in world.files()} == {1}, "the metadata are read all the same"
    assert not [path for path in (world.root / "north").rglob("a.plain") if "made" in path.parts]


def test_a_product_that_says_something_else_than_who_brings_it_is_refused(world: World):
    with pytest.raises(Corrupt, match="the file says level is 1, but 2 is given for it"):
        put(world, "/test/made/a.plain", written(), level=2)
    put(world, "/test/user/maria/a.plain", written(), level=2)
    assert [file.meta["level"] for file in world.files()] == [2]


def test_metadata_that_a_file_says_and_the_catalogue_does_not_know_are_refused(world: World):
    with pytest.raises(Invalid, match="unknown metadata key 'nigth'"):
        put(world, "/test/made/a.plain", written(nigth="x"))
    assert lfns(world) == set()


def test_a_file_of_no_known_format_is_taken_with_the_metadata_that_are_given(world: World):
    put(world, "/test/made/a.h5", b"\x89HDF", level=2)
    assert [(file.lfn, file.meta) for file in world.files()] == [("/test/made/a.h5", {"level": 2})]


def test_a_reader_that_fails_refuses_the_product(world: World, monkeypatch: pytest.MonkeyPatch):
    def failing(*_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(PlainReader, "read", failing)
    with pytest.raises(Corrupt, match="its reader failed: RecursionError"):
        put(world, "/test/made/a.plain", written())


def test_a_known_file_gains_a_copy_without_being_judged_again(world: World):
    put(world, "/test/made/a.plain", written())
    content.put(world.ctx, Wanted("/test/made/a.plain", "east", {}), [written()])
    assert world.copies("/test/made/a.plain") == {"north": "Available", "east": "Available"}


# --- deliveries ------------------------------------------------------------------------------------------------
def test_a_temporary_product_is_delivered_without_being_judged(world: World):
    topology.apply(world.ctx, SCRATCH)
    world.deliver("/test/scratch/a.plain", DAMAGED)
    world.deliver("/test/raw/a.plain", DAMAGED)
    world.ingest()
    assert lfns(world) == {"/test/scratch/a.plain"}


# --- lifetime and rules ----------------------------------------------------------------------------------------
@pytest.mark.feature("S3-017", "S3-020", "S3-035")
def test_a_temporary_product_has_its_own_scope_rules_and_lifetime(world: World):
    topology.apply(world.ctx, SCRATCH)
    put(world, "/test/scratch/t.plain", written())
    put(world, "/test/made/a.plain", written())
    world.settle()
    assert world.copies("/test/scratch/t.plain") == {"north": "Available"}, "it is not owed what the archive is"
    assert len(world.copies("/test/made/a.plain")) == 2
    assert expire.expire(world.ctx) == 0
    world.value("UPDATE file SET created = now() - interval '31 days' RETURNING 1")
    assert expire.expire(world.ctx) == 1
    world.settle()
    assert world.copies("/test/scratch/t.plain") == {}
    assert len(world.copies("/test/made/a.plain")) == 2
    scopes = world.value("SELECT array_agg(name ORDER BY name) FROM scope")
    assert scopes == ["made", "scratch"]


def test_a_delivered_temporary_product_expires_although_the_observatory_took_it(world: World):
    topology.apply(world.ctx, SCRATCH)
    world.deliver("/test/scratch/a.plain")
    world.ingest()
    world.settle()
    world.value("UPDATE file SET created = now() - interval '31 days' RETURNING 1")
    assert expire.expire(world.ctx) == 1


@pytest.mark.parametrize(
    "policy",
    [
        "{files: {level: 1}, copies: 1, temporary: true, remove_after_hours: 1}",
        "{files: {file: scope, op: '=', value: scratch}, copies: 1, temporary: true}",
    ],
)
def test_a_policy_of_temporary_products_names_their_scope_and_lifetime(world: World, policy: str):
    with pytest.raises(Invalid, match="must name their scope and say how long they live"):
        topology.apply(world.ctx, f"policies:\n  scratch: {policy}")


def test_applying_a_policy_of_temporary_products_twice_changes_nothing(world: World):
    assert topology.apply(world.ctx, SCRATCH)
    assert topology.apply(world.ctx, SCRATCH) == []
    assert topology.apply(world.ctx, SCRATCH.replace("temporary: true, ", "")) != []


# --- jobs ------------------------------------------------------------------------------------------------------
class JoinedReader(PlainReader):
    """Knows what jobs make, too."""

    def recognises(self, path: str) -> bool:
        return path.endswith(".joined")


class JoinedObservatory(PlainObservatory):
    def product_readers(self) -> list[Any]:
        return [PlainReader(), JoinedReader()]


class Maker(Hands):
    """Uploads what the test says."""

    text = b""

    def upload(self, job: dict[str, Any]) -> dict[str, Any]:
        told = super().upload(job)
        (made,) = told["outputs"]
        place = job["upload"]
        PosixStorage(place["storage"], place["root"]).write(f"{place['directory']}/{made['name']}", [self.text])
        fixity = fixity_of([self.text])
        made |= {"size": fixity.size, "sha256": fixity.sha256, "adler32": fixity.adler32}
        return told


@pytest.mark.feature("S2-031", "S3-027")
def test_what_a_job_makes_is_judged_as_what_is_delivered(world: World):
    world.register("/test/raw/n1.plain")
    submit(world, {"query": {"level": 0}, "group_size": 1})
    world = world.having(observatories=(JoinedObservatory(),))
    hands = Maker.at(world, "North")
    for text, failed in ((written(DAMAGED), True), (written(), False)):
        go_on(world)
        job = hands.claim()
        assert job is not None
        hands.text = text
        hands.finish(job)
        told = world.value("SELECT array_agg(application_status) FROM job WHERE state = 'Failed'")
        assert (told is not None) or not failed
    assert "is not taken into the archive" in told[0]
    assert "has 1 bytes" in told[0]
    world.settle()
    go_on(world)
    assert transformation(world).processed == 1
    (made,) = [lfn for lfn in lfns(world) if lfn.endswith(".joined")]
    assert world.copies(made)


@pytest.mark.feature("S2-034")
def test_what_was_put_by_a_person_and_what_was_delivered_are_input_to_jobs_alike(world: World):
    put(world, "/test/raw/put.plain", written(level=0))
    world.deliver("/test/raw/delivered.plain")
    world.ingest()
    world.settle()
    submit(world, {"query": {"level": 0}, "group_size": 2})
    go_on(world)
    job = Hands.at(world, "North").claim()
    assert job is not None
    used = world.value("SELECT array_agg(f.name ORDER BY f.name) FROM task_input i JOIN file f USING (file_id)")
    assert used == ["delivered.plain", "put.plain"]


# --- commands --------------------------------------------------------------------------------------------------
@pytest.fixture
def command(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Run a command against this world; its exit status comes first."""
    from contextlib import contextmanager

    from lightkeeper.api import make_api
    from lightkeeper.cli import app, ingest
    from lightkeeper.cli import quarantine as refused
    from lightkeeper.client import Client

    client = Client("http://testserver", "token")
    client._http = TestClient(make_api(world.ctx, "token"), headers={"Authorization": "Bearer token"})  # type: ignore[assignment]

    @contextmanager
    def here() -> Iterator[Client]:
        yield client

    monkeypatch.setattr(ingest, "client", here)
    monkeypatch.setattr(refused, "client", here)

    def ran(status: int, *arguments: str) -> str:
        done = CliRunner().invoke(app, list(arguments))
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == status, done.output
        return done.stdout if "--json" in arguments else done.output

    yield ran


@pytest.mark.feature("S4-002")
def test_files_are_taken_in_by_one_command_under_the_names_that_their_folder_tells(
    world: World, command: Any, tmp_path: Path
):
    folder = tmp_path / "data"
    for n in range(3):
        path = folder / "test" / "made" / f"n{n}.plain"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(written(number=n))
        path.with_name(path.name + ".trigger").touch()
    (folder / "test/made/bad.plain").write_bytes(written(DAMAGED))
    wanted = ["ingest", str(folder), "--recursive", "--data-path", str(folder), "--at", "north", "--meta", "kind=muon"]
    assert "would be put" in command(0, *wanted, "--dry-run")
    assert lfns(world) == set()
    told = json.loads(command(1, *wanted, "--json"))
    assert [one["state"] for one in told["done"]] == ["put"] * 3
    assert "is not taken into the archive" in told["failed"][0]["message"]
    assert lfns(world) == {f"/test/made/n{n}.plain" for n in range(3)}
    assert {file.meta["kind"] for file in world.files()} == {"muon"}
    again = json.loads(command(1, *wanted, "--json"))
    assert [one["state"] for one in again["done"]] == ["there"] * 3


def test_where_the_names_come_from_is_told_one_way(world: World, command: Any, tmp_path: Path):
    (tmp_path / "a.plain").write_bytes(written())
    for names in ([], ["--to", "/test/made", "--data-path", str(tmp_path)]):
        with pytest.raises(Invalid, match="are not told"):
            command(2, "ingest", "files", str(tmp_path / "a.plain"), "--at", "north", *names)
    told = command(1, "ingest", str(tmp_path / "a.plain"), "--at", "north", "--data-path", "/elsewhere")
    assert lfns(world) == set(), told
    command(0, "ingest", str(tmp_path / "a.plain"), "--at", "north", "--to", "/test/made")
    assert lfns(world) == {"/test/made/a.plain"}


def test_what_waits_and_what_was_refused_is_told_and_decided_by_commands(world: World, command: Any):
    world.deliver("/test/raw/n1.plain", DAMAGED)
    world.deliver("/test/raw/n2.plain", DAMAGED)
    world.ingest()
    (stands,) = json.loads(command(0, "ingest", "status", "--json"))
    assert (stands["storage"], stands["waiting"], stands["refused"]) == ("mountain", 0, 2)
    refused = json.loads(command(0, "quarantine", "list", "--json"))
    first, second = (one["number"] for one in sorted(refused, key=lambda one: one["path"]))
    assert "has 1 bytes" in command(0, "quarantine", "list", "*n1*")
    assert "n1.plain.reason" in command(0, "quarantine", "show", str(first))
    assert "would be verified again" in command(0, "quarantine", "retry", "*", "--by", "maria", "--dry-run")
    assert "1 delivery released" in command(
        0, "quarantine", "release", str(first), "--by", "maria", "--why", "fine", "--meta", "kind=muon"
    )
    world.ingest()
    assert lfns(world) == {"/test/raw/n1.plain"}
    discarded = command(1, "quarantine", "discard", str(second), "9999", "--by", "maria", "--why", "a test", "--json")
    told = json.loads(discarded)
    assert ([one["number"] for one in told["done"]], [one["number"] for one in told["failed"]]) == ([second], [9999])
    assert command(0, "quarantine", "list") == "nothing was refused\n"
    assert "Discarded" in command(0, "quarantine", "list", "--discarded")
    with pytest.raises(Invalid, match="are not understood together"):
        command(2, "quarantine", "retry", "a*", "b*", "--by", "maria")


def test_collections_are_listed_and_shown(world: World, command: Any):
    world.deliver("/test/raw/2030/01/02/n1.plain")
    world.deliver("/test/raw/2030/01/03/n1.plain")
    world.ingest()
    listed = json.loads(command(0, "collection", "list", "--json"))
    assert [(one["path"], one["files"], one["own_files"]) for one in listed] == [("/test", 2, 0)]
    month = json.loads(command(0, "collection", "show", "/test/raw/2030/01", "--json"))
    assert [one["path"] for one in month["within"]] == ["/test", "/test/raw", "/test/raw/2030"]
    assert [(one["path"], one["own_files"]) for one in month["holds"]] == [
        ("/test/raw/2030/01/02", 1),
        ("/test/raw/2030/01/03", 1),
    ]
    assert "/test/raw/2030/01/02" in command(0, "collection", "list", "/test/raw/2030/01")
