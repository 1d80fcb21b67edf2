"""Messages to mailboxes, by SMTP.

The server is the setting `mail_server`; a user and password for it stand in the credentials under the name `mail`.
STARTTLS is used when the server offers it, and a password goes to no server without it. The Message-ID is made of the
message's key: when the answer of a server was lost and a message is sent again, mail readers show it once.
"""

import json
import re
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import format_datetime, localtime
from urllib.parse import urlsplit

from lightkeeper.adapters.credentials import credentials_of
from lightkeeper.domain.errors import Refused, Unavailable
from lightkeeper.domain.names import printable
from lightkeeper.ports import Notice
from lightkeeper.settings import Settings

ADDRESS = re.compile(r"[^\s@<>,;]+@[^\s@<>,;]+")
TIMEOUT = 8.0
"""Seconds that each answer of the server may take: there are some seven."""


class MailNotifier:
    """Hands messages to one SMTP server."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.mail_server

    def takes(self, address: str) -> bool:
        """Whether it is a mailbox."""
        return ADDRESS.fullmatch(address) is not None

    def send(self, notice: Notice) -> None:
        """Hand a message to the server."""
        if not self._url:
            raise Unavailable("no mail server is set", hint="the setting mail_server, like smtp://mail.example.org:587")
        message = _message(notice)
        try:
            with self._connected() as server:
                server.send_message(message, notice.sender, [notice.address])
        except smtplib.SMTPRecipientsRefused as error:
            code, told = error.recipients[notice.address]
            raise _told(code, told) from None
        except smtplib.SMTPResponseException as error:
            raise _told(error.smtp_code, error.smtp_error) from None
        except (smtplib.SMTPException, OSError) as error:
            raise Unavailable(f"the mail server does not take it now: {printable(str(error))}") from None

    def _connected(self) -> smtplib.SMTP:
        server = urlsplit(self._url)
        host, safe = server.hostname or "", server.scheme == "smtps"
        context = ssl.create_default_context()
        if safe:
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(host, server.port or 465, timeout=TIMEOUT, context=context)
        else:
            smtp = smtplib.SMTP(host, server.port or 25, timeout=TIMEOUT)
        try:
            smtp.ehlo_or_helo_if_needed()
            if not safe and smtp.has_extn("starttls"):
                smtp.starttls(context=context)
                smtp.ehlo()
                safe = True
            known = credentials_of("mail")
            if known.user:
                if not safe:
                    raise Unavailable("the mail server offers no TLS, so it is shown no password", hint="smtps://")
                smtp.login(known.user, known.password.reveal())
        except BaseException:
            smtp.close()
            raise
        return smtp


def _message(notice: Notice) -> EmailMessage:
    message = EmailMessage()
    message["From"] = notice.sender
    message["To"] = notice.address
    message["Subject"] = printable(notice.subject)
    message["Date"] = format_datetime(localtime())
    message["Message-ID"] = f"<{notice.key}@{notice.sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(notice.text)
    if notice.html:
        message.add_alternative(notice.html, subtype="html")
    facts = json.dumps(dict(notice.facts), indent=1, default=str).encode()
    message.add_attachment(facts, maintype="application", subtype="json", filename="report.json")
    return message


def _told(code: int, text: bytes | str) -> Refused | Unavailable:
    """What the server answered: by 5xx it says that it never will."""
    said = printable(text.decode(errors="replace") if isinstance(text, bytes) else text)
    if 500 <= code < 600 and code not in (530, 535):  # what concerns our password can be mended
        return Refused(f"the mail server refuses it: {code} {said}")
    return Unavailable(f"the mail server does not take it now: {code} {said}")
