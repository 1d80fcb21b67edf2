"""What every notifier must do, as tests: a plug-in's own tests subclass `NotifierConformance`."""

# ruff: noqa: D102  the tests' names are sentences

from collections.abc import Sequence
from typing import Protocol

import pytest

from lightkeeper.domain.errors import Refused, Unavailable
from lightkeeper.ports import Notice, Notifier

KEY = "0f1e2d3c-0000-4000-8000-000000000001"
TEXT = "2 of 9 tasks failed in every attempt\n\nlightkeeper transformation retry 7\n"


class Sink(Protocol):
    """Where messages go, with what a test can make it do."""

    @property
    def address(self) -> str:
        """An address there."""
        ...

    def got(self) -> Sequence[tuple[str, str]]:
        """(key, text) of every message that arrived, in order."""
        ...

    def answer(self, what: str) -> None:
        """From now on it says `yes`, `later` or `never`, or says nothing: `down`."""
        ...


def notice(address: str, key: str = KEY, text: str = TEXT, subject: str = "[Lightkeeper] A person is needed") -> Notice:
    """A message."""
    page = f"<!doctype html>\n<html><body><p>{text}</p></body></html>"
    return Notice(key, "keeper@example.org", address, subject, text, page, {"items": [{"sentence": text}]})


class NotifierConformance:
    """Subclass it with fixtures `notifier` and `sink`."""

    def test_it_takes_addresses_of_its_kind_and_no_others(self, notifier: Notifier, sink: Sink) -> None:
        assert notifier.takes(sink.address)
        for other in ("", "nobody", "ftp://example.org/x", "a b@example.org", "a@example.org, b@example.org"):
            assert not notifier.takes(other)

    def test_a_message_arrives_with_its_text_and_its_key(self, notifier: Notifier, sink: Sink) -> None:
        notifier.send(notice(sink.address))
        ((key, text),) = sink.got()
        assert KEY in key
        assert "2 of 9 tasks failed in every attempt" in text

    def test_a_message_that_is_sent_twice_has_the_same_key_twice(self, notifier: Notifier, sink: Sink) -> None:
        for _ in range(2):
            notifier.send(notice(sink.address))
        first, second = sink.got()
        assert first[0] == second[0]

    def test_texts_in_any_script_arrive_as_they_are(self, notifier: Notifier, sink: Sink) -> None:
        notifier.send(notice(sink.address, text="Nacht über La Palma – 夜\n" + "x" * 3000 + "\n.\n..end\n"))
        assert "Nacht über La Palma – 夜" in sink.got()[0][1]
        assert "..end" in sink.got()[0][1]

    def test_a_subject_from_outside_adds_no_header(self, notifier: Notifier, sink: Sink) -> None:
        notifier.send(notice(sink.address, subject="x\r\nBcc: all@example.org\r\n\r\nbody"))
        assert len(sink.got()) == 1

    def test_what_may_work_later_is_told_apart_from_what_never_will(self, notifier: Notifier, sink: Sink) -> None:
        sink.answer("later")
        with pytest.raises(Unavailable):
            notifier.send(notice(sink.address))
        sink.answer("never")
        with pytest.raises(Refused):
            notifier.send(notice(sink.address))
        sink.answer("yes")
        notifier.send(notice(sink.address))
        assert len(sink.got()) == 1

    def test_nobody_there_is_for_later(self, notifier: Notifier, sink: Sink) -> None:
        sink.answer("down")
        with pytest.raises(Unavailable) as told:
            notifier.send(notice(sink.address))
        assert "secret" not in told.value.message
