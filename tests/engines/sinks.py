"""Where messages go in tests: a real mail server and a real web server, which can be made to refuse, or be down."""

import email
import json
import socket
import threading
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session


class MailSink:
    """A mail server on this machine; keeps what it accepts."""

    def __init__(self, mailbox: str = "ops@example.org") -> None:
        self.address = mailbox
        self.mails: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.says = "yes"
        self._controller: Controller | None = None
        self.start()
        assert self._controller
        self.port = self._controller.port

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._controller = Controller(self, hostname="127.0.0.1", port=getattr(self, "port", 0) or _free_port())
        self._controller.start()

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if self.says == "never":
            return "550 no such mailbox"
        if self.says == "later":
            return "451 greylisted, try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        mail = email.message_from_bytes(envelope.content or b"", policy=default)  # type: ignore[arg-type]
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.recipients += envelope.rcpt_tos
        if self.says == "dies":
            return "451 the answer was lost"
        return "250 OK"

    # --- as a sink
    def got(self) -> list[tuple[str, str]]:
        return [(str(mail["Message-ID"]), text_of(mail)) for mail in self.mails]

    def answer(self, what: str) -> None:
        if what == "down":
            self.stop()
        elif self._controller is None:
            self.start()
        self.says = what


def text_of(mail: EmailMessage, subtype: str = "plain") -> str:
    body = mail.get_body((subtype,))
    return body.get_content() if body else ""


class HookSink:
    """A web server on this machine; keeps what is posted to it."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, Any]]] = []
        self.says = "yes"
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = {"yes": 204, "later": 503, "never": 400}[sink.says]
                if status < 300:
                    sink.posts.append((self.headers["Idempotency-Key"], body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}/hooks/secret"

    def got(self) -> list[tuple[str, str]]:
        return [(key, body["text"]) for key, body in self.posts]

    def answer(self, what: str) -> None:
        if what == "down":
            self.stop()
        self.says = what

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
