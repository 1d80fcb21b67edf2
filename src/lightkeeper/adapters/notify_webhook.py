"""Messages to programs: JSON is posted to a URL.

The body has `text`, which chat servers show, and besides `subject`, `key` and `facts`. The header Idempotency-Key is
the message's key. The URL of a web hook is its password: only its host is ever told.
"""

import re

import httpx2 as httpx

from lightkeeper.domain.errors import Refused, Unavailable
from lightkeeper.domain.names import printable
from lightkeeper.ports import Notice
from lightkeeper.settings import Settings

TIMEOUT = 20.0
LATER = (401, 403, 404, 408, 409, 423, 425, 429)
"""Answers that can be mended without another message."""


class WebhookNotifier:
    """Posts messages to web hooks."""

    def __init__(self, settings: Settings) -> None:
        del settings  # it needs none

    def takes(self, address: str) -> bool:
        """Whether it is a URL."""
        return re.fullmatch(r"https?://\S+", address) is not None

    def send(self, notice: Notice) -> None:
        """Post a message."""
        body = {
            "text": f"{notice.subject}\n\n{notice.text}",
            "subject": notice.subject,
            "key": notice.key,
            "facts": dict(notice.facts),
        }
        try:
            host = httpx.URL(notice.address).host
            answer = httpx.post(notice.address, json=body, headers={"Idempotency-Key": notice.key}, timeout=TIMEOUT)
        except httpx.InvalidURL:
            raise Refused("the address is no URL") from None
        except httpx.HTTPError as error:
            raise Unavailable(f"the web hook does not answer: {type(error).__name__}") from None
        if answer.is_success:
            return
        told = f"{printable(host)} answers {answer.status_code}"
        if 400 <= answer.status_code < 500 and answer.status_code not in LATER:
            raise Refused(f"the web hook at {told}")
        raise Unavailable(f"the web hook at {told}")
