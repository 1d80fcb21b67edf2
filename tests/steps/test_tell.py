"""Messages to people: one for each condition and period, neither lost nor doubled, silent when nothing changed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.conftest import World
from tests.engines.sinks import MailSink, text_of
from tests.steps.test_work import Hands, do_all, go_on, submit

from lightkeeper.adapters.notify_mail import MailNotifier
from lightkeeper.adapters.notify_webhook import WebhookNotifier
from lightkeeper.domain.errors import Unavailable
from lightkeeper.ports import Notice
from lightkeeper.settings import Settings
from lightkeeper.steps import heal, tell, topology
from lightkeeper.store import messages


@pytest.fixture
def sink() -> Iterator[MailSink]:
    sink = MailSink()
    yield sink
    sink.stop()


@pytest.fixture
def telling(world: World, sink: MailSink, tmp_path: Path) -> World:
    """A world that tells ops@example.org and boss@example.org, at most once an hour of each condition."""
    settings = Settings(home=tmp_path, mail_server=sink.url)
    world = world.having(notifiers={"mail": MailNotifier(settings), "webhook": WebhookNotifier(settings)})
    options(world, "tell: [ops@example.org]")
    return world


def options(world: World, *lines: str) -> None:
    topology.apply(world.ctx, "version: 1\nkeeper:\n" + "".join(f"  {line}\n" for line in lines))


def tell_all(world: World) -> None:
    tell.gather(world.ctx)
    while tell.send(world.ctx):
        pass


def subjects(sink: MailSink) -> list[str]:
    return [str(mail["Subject"]) for mail in sink.mails]


def an_hour_passes(world: World) -> None:
    world.value("UPDATE message SET sent = sent - interval '1 hour', not_before = not_before - interval '1 hour'")


def fail_always(world: World, hands: Hands, why: str = "exit code 1: broken") -> None:
    go_on(world)
    while job := hands.claim():
        hands.fail(job, why)
        go_on(world)


# --- the four kinds ------------------------------------------------------------------------------------------------
@pytest.mark.feature("S1-047", "S1-051", "S1-067")
def test_each_condition_is_mailed_to_every_recipient(telling: World, sink: MailSink):
    options(telling, "tell: [ops@example.org, boss@example.org]")
    telling.register(*(f"/test/raw/n{n}.plain" for n in range(3)))
    submit(telling, {"query": {"level": 0}, "group_size": 2})
    hands = Hands.at(telling, "North")
    go_on(telling)
    job = hands.claim()
    assert job
    hands.fail(job)
    tell_all(telling)
    do_all(telling, hands)
    tell_all(telling)
    of = {subject.removeprefix("[Lightkeeper] ") for subject in subjects(sink)}
    assert of == {
        "Flush Transformation 1",
        "Reassigned 2 LFNs on transformation 1",
        "Report on ['Active'] transformations",
        "Completed Transformation 1",
    }
    assert sorted(sink.recipients) == ["boss@example.org"] * 4 + ["ops@example.org"] * 4
    (report,) = [mail for mail in sink.mails if "Report" in str(mail["Subject"]) and mail["To"] == "ops@example.org"]
    assert "Report on Merging transformations:" in text_of(report)
    assert "Transformation: 1" in text_of(report)
    assert "<table" in text_of(report, "html")


@pytest.mark.feature("S1-041", "S1-074")
def test_weakness_9_nothing_is_reported_while_no_job_fails_or_nothing_changes(telling: World, sink: MailSink):
    telling.register("/test/raw/n1.plain", "/test/raw/n2.plain")
    submit(telling, {"query": {"level": 0}, "group_size": 1})
    hands = Hands.at(telling, "North")
    go_on(telling)
    tell_all(telling)
    assert subjects(sink) == []
    job = hands.claim()
    assert job
    hands.fail(job)
    tell_all(telling)
    assert sorted(subjects(sink)) == [
        "[Lightkeeper] Reassigned 1 LFNs on transformation 1",
        "[Lightkeeper] Report on ['Active'] transformations",
    ]
    for _ in range(5):
        an_hour_passes(telling)
        go_on(telling)
        tell_all(telling)
    assert len(sink.mails) == 2, "nothing changed since"


@pytest.mark.feature("S1-072")
def test_what_happens_while_messages_are_switched_off_is_told_when_they_are_on_again(telling: World, sink: MailSink):
    """Ten minutes: an attempt fails in each, then all of it is done."""
    telling.register(*(f"/test/raw/n{n}.plain" for n in range(10)))
    submit(telling, {"query": {"level": 0}, "group_size": 1})
    hands = Hands.at(telling, "North")
    options(telling, "tell: [ops@example.org]", "send: false")
    for _ in range(10):
        go_on(telling)
        job = hands.claim()
        assert job
        hands.fail(job, f"exit code 1: broken in task {job['task_id']}")
        tell_all(telling)
        telling.value(
            "UPDATE message SET not_before = not_before - interval '1 minute', created = created - interval '1 minute'"
        )
    do_all(telling, hands)
    tell_all(telling)
    assert sink.mails == []
    options(telling, "tell: [ops@example.org]", "send: true")
    tell_all(telling)
    assert sorted(subjects(sink)) == [
        "[Lightkeeper] Completed Transformation 1",
        "[Lightkeeper] Reassigned 10 LFNs on transformation 1",
        "[Lightkeeper] Report on ['Active'] transformations",
    ]
    (report,) = [text_of(mail) for mail in sink.mails if "Report" in str(mail["Subject"])]
    (again,) = [text_of(mail) for mail in sink.mails if "Reassigned" in str(mail["Subject"])]
    assert all(f"n{n}.plain" in again for n in range(10))
    assert report
    tell_all(telling)
    assert len(sink.mails) == 3, "nothing twice"


def test_what_a_person_must_decide_is_mailed_once_with_what_he_can_do(telling: World, sink: MailSink):
    telling.register("/test/raw/n1.plain")
    submit(telling, {"query": {"level": 0}, "group_size": 1})
    fail_always(telling, Hands.at(telling, "North"))
    for _ in range(5):
        heal.look_after_work(telling.ctx)
        tell_all(telling)
        an_hour_passes(telling)
    (mail,) = [mail for mail in sink.mails if "A person is needed" in str(mail["Subject"])]
    assert "1 of 1 tasks failed in every attempt" in text_of(mail)
    assert "lightkeeper transformation retry 1" in text_of(mail)
    assert "tells" not in text_of(mail)


@pytest.mark.feature("S1-053")
def test_only_the_types_that_are_to_be_reported_are(telling: World, sink: MailSink):
    options(telling, "tell: [ops@example.org]", "report: [Training]")
    telling.register("/test/raw/n1.plain")
    submit(telling, {"query": {"level": 0}, "group_size": 1, "type": "Merging"}, name="a")
    submit(telling, {"query": {"level": 0}, "group_size": 1, "type": "Training"}, name="b")
    fail_always(telling, Hands.at(telling, "North"))
    tell_all(telling)
    (report,) = [mail for mail in sink.mails if "Report" in str(mail["Subject"])]
    assert "Report on Training transformations:" in text_of(report)
    assert "Merging" not in text_of(report)


def test_each_type_may_have_its_own_recipients(telling: World, sink: MailSink):
    options(telling, "tell: [ops@example.org]", "by_type: {Training: {tell: [trainer@example.org]}}")
    telling.register("/test/raw/n1.plain")
    submit(telling, {"query": {"level": 0}, "group_size": 1, "type": "Merging"}, name="a")
    submit(telling, {"query": {"level": 0}, "group_size": 1, "type": "Training"}, name="b")
    do_all(telling, Hands.at(telling, "North"))
    tell_all(telling)
    assert {(str(mail["To"]), str(mail["Subject"])) for mail in sink.mails} == {
        ("ops@example.org", "[Lightkeeper] Completed Transformation 1"),
        ("trainer@example.org", "[Lightkeeper] Completed Transformation 2"),
    }


def test_nothing_is_kept_for_nobody(world: World):
    world.register("/test/raw/n1.plain")
    submit(world, {"query": {"level": 0}, "group_size": 1})
    do_all(world, Hands.at(world, "North"))
    tell.gather(world.ctx)
    assert world.value("SELECT count(*) FROM message") == 0
    options(world, "tell: [ops@example.org]")
    tell.gather(world.ctx)
    assert world.value("SELECT count(*) FROM message") == 0, "the past is told to nobody who comes later"


def test_news_of_a_period_are_gathered_in_one_message(telling: World, sink: MailSink):
    for n in range(6):
        telling.register(f"/test/raw/n{n}.plain", night=f"night {n}")
        submit(telling, {"query": {"night": f"night {n}"}, "group_size": 1}, name=f"p{n}")
        do_all(telling, Hands.at(telling, "North", f"h{n}"))
        tell_all(telling)
    assert subjects(sink) == ["[Lightkeeper] Completed Transformation 1"]
    an_hour_passes(telling)
    tell_all(telling)
    assert subjects(sink)[1:] == ["[Lightkeeper] Completed 5 Transformations"]
    assert all(f"transformation {n} (" in text_of(sink.mails[1]) for n in range(2, 7))


# --- neither lost nor doubled ----------------------------------------------------------------------------------------
@pytest.mark.feature("S1-067")
def test_a_mail_server_that_is_down_for_a_day_loses_nothing_and_is_followed_by_no_flood(telling: World, sink: MailSink):
    sink.answer("down")
    for hour in range(24):
        telling.register(f"/test/raw/n{hour}.plain", night=f"night {hour}")
        submit(telling, {"query": {"night": f"night {hour}"}, "group_size": 1}, name=f"p{hour}")
        do_all(telling, Hands.at(telling, "North", f"h{hour}"))
        tell_all(telling)
        telling.value("UPDATE message SET not_before = not_before - interval '1 hour'")
    assert telling.value("SELECT count(*) FROM message WHERE sent IS NULL") == 1
    assert telling.value("SELECT attempts FROM message") >= 24
    assert "does not take it now" in telling.value("SELECT error FROM message")
    sink.answer("yes")
    tell_all(telling)
    assert subjects(sink) == ["[Lightkeeper] Completed 24 Transformations"]
    tell_all(telling)
    an_hour_passes(telling)
    tell_all(telling)
    assert len(sink.mails) == 1


@pytest.mark.feature("S1-067")
def test_duplicate_daemons_send_each_message_once(telling: World, sink: MailSink):
    options(telling, "tell: [" + ", ".join(f"person{n}@example.org" for n in range(20)) + "]")
    telling.register("/test/raw/n1.plain")
    submit(telling, {"query": {"level": 0}, "group_size": 1})
    do_all(telling, Hands.at(telling, "North"))
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: tell_all(telling), range(6)))
    tell_all(telling)
    assert sorted(sink.recipients) == sorted(f"person{n}@example.org" for n in range(20))


class Dies:
    """Hands the message over and dies before that is noted."""

    def __init__(self, of: MailNotifier) -> None:
        self._of = of

    def takes(self, address: str) -> bool:
        return True

    def send(self, notice: Notice) -> None:
        self._of.send(notice)
        raise KeyboardInterrupt


def test_a_worker_that_dies_after_a_message_was_taken_sends_it_again_with_the_same_key(
    telling: World, sink: MailSink, tmp_path: Path
):
    telling.register("/test/raw/n1.plain")
    submit(telling, {"query": {"level": 0}, "group_size": 1})
    do_all(telling, Hands.at(telling, "North"))
    tell.gather(telling.ctx)
    dying = telling.having(notifiers={"mail": Dies(MailNotifier(Settings(home=tmp_path, mail_server=sink.url)))})
    with pytest.raises(KeyboardInterrupt):
        tell.send(dying.ctx)
    tell_all(telling)
    assert len(sink.mails) == 1, "its lease holds"
    telling.value("UPDATE message SET lease_until = now() - interval '1 second'")
    tell_all(telling)
    assert len(sink.mails) == 2
    assert len({str(mail["Message-ID"]) for mail in sink.mails}) == 1, "who reads his mail sees one"


def test_a_worker_that_woke_up_too_late_changes_nothing(telling: World):
    telling.register("/test/raw/n1.plain")
    submit(telling, {"query": {"level": 0}, "group_size": 1})
    do_all(telling, Hands.at(telling, "North"))
    tell.gather(telling.ctx)
    with telling.ctx.db.transaction() as conn:
        late = messages.claim(conn, tell.LEASE)
    assert late
    telling.value("UPDATE message SET lease_until = now() - interval '1 second'")
    tell_all(telling)
    with telling.ctx.db.transaction() as conn:
        assert not messages.sent(conn, late)
        messages.not_sent(conn, late, "late", tell.LEASE)
    assert telling.value("SELECT count(*) FROM message WHERE sent IS NULL OR error = 'late'") == 0


def test_an_address_that_takes_nothing_is_told_and_stops_no_other(telling: World, sink: MailSink):
    class Picky:
        def takes(self, address: str) -> bool:
            return address.startswith("http")

        def send(self, notice: Notice) -> None:
            raise Unavailable("not now")

    telling = telling.having(notifiers={**telling.ctx.notifiers, "webhook": Picky()})
    options(telling, "tell: [ops@example.org, 'https://chat.example.org/hooks/canary']")
    telling.register("/test/raw/n1.plain")
    submit(telling, {"query": {"level": 0}, "group_size": 1})
    do_all(telling, Hands.at(telling, "North"))
    tell_all(telling)
    assert sink.recipients == ["ops@example.org"]
    sink.answer("never")
    telling.register("/test/raw/n2.plain", night="other")
    submit(telling, {"query": {"night": "other"}, "group_size": 1}, name="other")
    do_all(telling, Hands.at(telling, "North", "two"))
    an_hour_passes(telling)
    tell_all(telling)
    assert "ops@example.org are refused: " in telling.value("SELECT sentence FROM concern WHERE ended IS NULL")
    assert "canary" not in str([line for line in telling.ctx.log.lines if line[0].startswith("message")])


def test_news_that_come_while_a_message_is_being_sent_wait_for_the_next_one(telling: World, sink: MailSink):
    telling.register("/test/raw/n1.plain")
    submit(telling, {"query": {"level": 0}, "group_size": 1})
    do_all(telling, Hands.at(telling, "North"))
    tell.gather(telling.ctx)
    with telling.ctx.db.transaction() as conn:
        sending = messages.claim(conn, tell.LEASE)
    assert sending
    telling.register("/test/raw/n2.plain", night="other")
    submit(telling, {"query": {"night": "other"}, "group_size": 1}, name="other")
    do_all(telling, Hands.at(telling, "North", "two"))
    assert tell.gather(telling.ctx) == 0
    with telling.ctx.db.transaction() as conn:
        assert messages.sent(conn, sending)
    an_hour_passes(telling)
    tell_all(telling)
    assert subjects(sink) == ["[Lightkeeper] Completed Transformation 2"]
