"""Messages by mail and by web hook, to real servers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engines.sinks import HookSink, MailSink, text_of

from lightkeeper.adapters.credentials import VARIABLE
from lightkeeper.adapters.notify_mail import MailNotifier
from lightkeeper.adapters.notify_webhook import WebhookNotifier
from lightkeeper.domain.errors import Unavailable
from lightkeeper.ports import Notifier
from lightkeeper.settings import Settings
from lightkeeper.testing.notifier_conformance import KEY, TEXT, NotifierConformance, notice


@pytest.fixture
def mail_sink() -> Iterator[MailSink]:
    sink = MailSink()
    yield sink
    sink.stop()


class TestMail(NotifierConformance):
    @pytest.fixture
    def sink(self, mail_sink: MailSink) -> MailSink:
        return mail_sink

    @pytest.fixture
    def notifier(self, sink: MailSink, tmp_path: Path) -> Notifier:
        return MailNotifier(Settings(home=tmp_path, mail_server=sink.url))

    def test_a_mail_has_text_one_html_document_and_the_facts_as_json(self, notifier: Notifier, sink: MailSink):
        notifier.send(notice(sink.address))
        (mail,) = sink.mails
        assert (mail["From"], mail["To"]) == ("keeper@example.org", "ops@example.org")
        assert mail["Message-ID"] == f"<{KEY}@example.org>"
        assert mail["Auto-Submitted"] == "auto-generated"
        assert text_of(mail, "html").count("<html>") == 1
        (facts,) = mail.iter_attachments()
        assert json.loads(facts.get_content())["items"] == [{"sentence": TEXT}]

    def test_no_server_in_the_settings_is_for_later(self, tmp_path: Path):
        with pytest.raises(Unavailable, match="no mail server is set"):
            MailNotifier(Settings(home=tmp_path)).send(notice("ops@example.org"))

    def test_a_password_is_shown_to_no_server_without_tls(
        self, notifier: Notifier, sink: MailSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        credentials = tmp_path / "credentials"
        credentials.write_text("mail: {user: keeper, password: canary}")
        credentials.chmod(0o600)
        monkeypatch.setenv(VARIABLE, str(credentials))
        with pytest.raises(Unavailable, match="no TLS") as told:
            notifier.send(notice(sink.address))
        assert "canary" not in told.value.message
        assert sink.mails == []


class TestWebhook(NotifierConformance):
    @pytest.fixture
    def sink(self) -> Iterator[HookSink]:
        sink = HookSink()
        yield sink
        if sink.says != "down":
            sink.stop()

    @pytest.fixture
    def notifier(self, tmp_path: Path) -> Notifier:
        return WebhookNotifier(Settings(home=tmp_path))
