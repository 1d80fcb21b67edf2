"""Copies through FTS: what is lost, late, forgotten or refused on the way to it and back."""

import importlib.util
import threading
import time

import pytest
from tests.adapters.test_mover_conformance import Addressed, made
from tests.engines.hostile_http import hostile
from tests.engines.xrootd import xrootd

from lightkeeper.adapters.mover_fts import FtsMover
from lightkeeper.adapters.storage_xrootd import XrootdStorage
from lightkeeper.domain.errors import Corrupt, Invalid, LightkeeperError, NotFound, Refused, Unavailable
from lightkeeper.domain.fixity import fixity_of
from lightkeeper.ports import Copy
from lightkeeper.testing.fts_server import fts
from lightkeeper.testing.mover_conformance import ARRIVALS
from lightkeeper.testing.storage_conformance import sizes

FILES = {f"/ctao/f{n:02}": b"light" * (n + 1) for n in range(20)}


@pytest.fixture
def source(tmp_path):
    storage = made(Addressed, tmp_path, "pic")
    for path, whole in FILES.items():
        storage.write(path, [whole])
    return storage


@pytest.fixture
def target(tmp_path):
    return made(Addressed, tmp_path, "cscs")


@pytest.fixture
def service(source, target):
    with fts({"mock://pic": source, "mock://cscs": target}) as running:
        yield running


@pytest.fixture
def mover(service):
    return FtsMover(service.url, poll_seconds=0.02, patience=5)


def copies(source, target, epoch=1, **options):
    return [
        Copy(source, path, target, f"{ARRIVALS}/{n}.{epoch}", len(whole), key=f"{n}.{epoch}", **options)
        for n, (path, whole) in enumerate(FILES.items())
    ]


def until(true):
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def all_came(ended):
    return {one.copy.source_path: one.fixity for one in ended} == {p: fixity_of([w]) for p, w in FILES.items()}


def test_many_files_are_one_job(service, mover, source, target):
    assert all_came(list(mover.carry(copies(source, target))))
    assert service.submissions == 1
    assert set(service.jobs().values()) == {"FINISHED"}


@pytest.mark.feature("S3-056")
def test_no_more_files_are_active_than_the_service_takes(service, mover, source, target):
    list(mover.carry(copies(source, target)))
    assert 0 < service.most_active <= service.at_once


def test_a_submission_whose_answer_is_lost_is_found_again_and_not_made_twice(service, mover, source, target):
    service.lose_answers = 1
    assert all_came(list(mover.carry(copies(source, target))))
    assert service.submissions == 1


@pytest.mark.feature("S3-055")
def test_a_service_that_is_silent_and_started_again_meanwhile_ends_the_job(service, mover, source, target):
    service.held = True
    ended: list[object] = []
    thread = threading.Thread(target=lambda: ended.extend(mover.carry(copies(source, target))))
    thread.start()
    until(lambda: service.jobs())
    service.silent = True
    service.restart()
    time.sleep(0.2)
    service.silent = False
    service.begin()
    thread.join()
    assert all_came(ended)


def test_a_service_that_stays_silent_is_unavailable(service, source, target):
    service.silent = True
    mover = FtsMover(service.url, poll_seconds=0.02, patience=0.1)
    ended = list(mover.carry(copies(source, target)))
    assert len(ended) == len(FILES)
    assert all(isinstance(one.error, Unavailable) and "does not answer" in one.error.message for one in ended)


@pytest.mark.feature("S3-055")
def test_of_a_job_that_the_service_has_forgotten_it_is_looked_at_what_arrived(service, source, target):
    service.failing = lambda address: "TRANSFER [110] timed out" if address.endswith("/7.1") else ""
    ended: list[object] = []
    slow = FtsMover(service.url, poll_seconds=0.5)
    thread = threading.Thread(target=lambda: ended.extend(slow.carry(copies(source, target))))
    thread.start()
    until(lambda: set(service.jobs().values()) == {"FINISHEDDIRTY"})
    service.forget()
    thread.join()
    (failed,) = [one for one in ended if one.error]
    assert failed.copy.key == "7.1"
    assert "has forgotten" in failed.error.message
    assert len(ended) == len(FILES)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("SOURCE [2] No such file or directory", NotFound),
        ("DESTINATION [13] Permission denied", Refused),
        ("TRANSFER CHECKSUM MISMATCH Source and destination differ", Corrupt),
        ("TRANSFER [110] Connection timed out", LightkeeperError),
        ("", LightkeeperError),
    ],
)
def test_why_a_file_failed_is_told_in_our_errors_and_stops_no_other(service, mover, source, target, reason, kind):
    service.failing = lambda address: (reason or " ") if address.endswith("/3.1") else ""
    ended = list(mover.carry(copies(source, target)))
    (failed,) = [one for one in ended if one.error]
    assert type(failed.error) is kind
    assert reason in failed.error.message
    assert len(sizes(target, ARRIVALS)) == len(FILES) - 1


def test_what_does_not_end_is_called_off_when_the_caller_leaves(service, mover, source, target):
    service.failing = lambda address: "" if address.endswith("/0.1") else time.sleep(0.2) or ""
    outcomes = mover.carry(copies(source, target))
    next(outcomes)
    outcomes.close()
    assert set(service.jobs().values()) == {"CANCELED"}


def test_what_is_still_done_for_an_earlier_attempt_is_called_off_and_changes_nothing(service, mover, source, target):
    """R7, R11: a worker died after it had submitted; its number was recorded nowhere."""
    service.held = True
    gone = mover.carry(copies(source, target))
    thread = threading.Thread(target=lambda: list(gone), daemon=True)  # a worker that is not there any more
    thread.start()
    until(lambda: service.jobs())
    later = [
        Copy(source, path, target, f"{ARRIVALS}/{n}.2", len(whole), (f"{ARRIVALS}/{n}.1",), key=f"{n}.2")
        for n, (path, whole) in enumerate(FILES.items())
    ]
    threading.Timer(0.2, service.begin).start()
    assert all_came(list(mover.carry(later)))
    thread.join()
    states = service.files()
    assert {state for address, state in states if address.endswith(".1")} == {"CANCELED"}
    assert {state for address, state in states if address.endswith(".2")} == {"FINISHED"}
    assert set(sizes(target, ARRIVALS)) == {copy.target_path for copy in later}


@pytest.mark.feature("S2-022")
def test_credentials_that_expired_are_told_with_what_to_do(service, mover, source, target):
    service.refuse = "The delegated credentials expired 3600 seconds ago (0a1b)"
    ended = list(mover.carry(copies(source, target)))
    assert all(isinstance(one.error, Refused) for one in ended)
    assert "expired 3600 seconds ago" in ended[0].error.message
    assert "renew the certificate" in ended[0].error.hint


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"job_id": 7}', b'{"files": "x"}', b"null"])
def test_a_service_that_answers_nonsense_is_unavailable(source, target, body):
    with hostile() as server:
        server.answer = lambda _asked: (200, {}, body)
        ended = list(FtsMover(server.url, poll_seconds=0.01, patience=0.1).carry(copies(source, target)))
    assert len(ended) == len(FILES)
    assert all(isinstance(one.error, Unavailable) for one in ended)


@pytest.mark.parametrize("url", ["fts.example.org", "ftp://x", "https://user@fts", "https://"])
def test_an_address_that_is_none_is_said_so(url):
    with pytest.raises(Invalid, match="not the address of an FTS"):
        FtsMover(url)


def test_what_keeps_to_a_rate_of_ours_is_streamed(service, mover, source, target):
    assert all_came(list(mover.carry(copies(source, target, paced=True))))
    assert service.submissions == 0


@pytest.mark.skipif(importlib.util.find_spec("XRootD") is None, reason="pip install '.[xrootd]'")
@pytest.mark.feature("S0-047")
def test_between_xrootd_servers_files_go_through_the_service():
    with xrootd() as one, xrootd() as two:
        source, target = XrootdStorage("pic", one.url()), XrootdStorage("cscs", two.url())
        for path, whole in FILES.items():
            source.write(path, [whole])
        ends = {source.address("/x")[:-2]: source, target.address("/x")[:-2]: target}
        with fts(ends) as service:
            assert all_came(list(FtsMover(service.url, poll_seconds=0.05).carry(copies(source, target))))
            assert service.submissions == 1
