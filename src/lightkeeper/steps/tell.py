"""Step 9, to people elsewhere: news are gathered in messages, and messages are sent, each once.

Before: heal.py and run.py noted what was done, and what a person must decide.    After: people know.
Worker: gather every 2 s and when there are news, send every 2 s and after that. Safe to run twice: what stands in a
message is told, in one transaction; a message belongs to one sender for as long as its lease, and a late one changes
nothing. Nothing waits for it: when no server answers, messages do.

There is at most one message of a condition to an address in a period. While it waits for its time, for its server, or
for the topology to say that messages are sent at all, news are added to it. A server that takes a message and dies
before it says so gets it again, with the same key.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from lightkeeper.context import Context
from lightkeeper.domain.errors import LightkeeperError, Refused
from lightkeeper.domain.healing import Keeper
from lightkeeper.domain.letters import LISTED, Condition, compose, merge
from lightkeeper.domain.report import as_json, transformation_report
from lightkeeper.domain.states import Transformation
from lightkeeper.ports import Notice, Notifier
from lightkeeper.store import db, healing, messages, reports
from lightkeeper.store.db import Connection
from lightkeeper.store.healing import Concern
from lightkeeper.store.messages import Claimed, Reassigned

LEASE = timedelta(minutes=5)
"""Longer than any plug-in may take to send, so that nobody sends what another still sends."""
PATIENCE = timedelta(seconds=15), timedelta(minutes=10)
"""Wait after the first failure to send, which doubles; at most."""
KEPT = timedelta(days=90)
FILES_LISTED = 10
"""Inputs of a task that a message names."""

News = dict[tuple[str, str], dict[str, dict[str, Any]]]
"""Items by key, by condition and type of transformation."""


# --- gathering -------------------------------------------------------------------------------------------------------
def gather(ctx: Context) -> int:
    """Put what nobody was told yet into messages; return how much that was."""
    with ctx.db.transaction() as conn:
        if not messages.gather_alone(conn):
            return 0
        keeper = healing.keeper(conn)
        news: News = defaultdict(dict)
        n = _ends(conn, news) + _attempts(conn, news) + _decisions(conn, news) + _reports(conn, keeper, news)
        if news:
            _put(conn, keeper, news)
        messages.forget(conn, KEPT)
        if n:
            db.notify(conn, "message")
    return n


def _ends(conn: Connection, news: News) -> int:
    ends = messages.untold_ends(conn)
    for one in ends:
        condition = Condition.COMPLETE if one.what.startswith("completed") else Condition.FLUSH
        news[condition, one.type][f"r{one.remedy_id}"] = {
            "transformation": one.transformation,
            "name": one.name,
            "what": one.what,
            "why": one.why,
        }
    messages.told(conn, [one.remedy_id for one in ends])
    return len(ends)


def _attempts(conn: Connection, news: News) -> int:
    attempts = messages.untold_attempts(conn, FILES_LISTED)
    by_transformation: defaultdict[int, list[Reassigned]] = defaultdict(list)
    for one in attempts:
        by_transformation[one.transformation].append(one)
    for transformation_id, these in by_transformation.items():
        news[Condition.REASSIGN, these[0].type][f"t{transformation_id}"] = {
            "transformation": transformation_id,
            "name": these[0].name,
            "n_tasks": len(these),
            "n_files": sum(one.n_files for one in these),
            "tasks": [{"task": one.task, "lfns": one.lfns, "why": one.why} for one in these[:LISTED]],
        }
    messages.told(conn, [one.remedy_id for one in attempts])
    return len(attempts)


def _decisions(conn: Connection, news: News) -> int:
    concerns = messages.untold_concerns(conn)
    for one in concerns:
        news[Condition.DECIDE, one.type][f"c{one.concern_id}"] = {
            "kind": one.kind,
            "id": one.id,
            "sentence": one.sentence,
            "choices": one.choices,
        }
    messages.concerns_told(conn, [one.concern_id for one in concerns])
    return len(concerns)


def _reports(conn: Connection, keeper: Keeper, news: News) -> int:
    """Reports of transformations with failed jobs that the last one did not tell of."""
    states = (*keeper.states, Transformation.COMPLETED)  # what failed in the last moment is told too
    due = [one for one in messages.due_reports(conn, states) if keeper.of(one.type).report]
    for one in due:
        rows = transformation_report(reports.job_groups(conn, one.transformation))
        told = as_json(one.transformation, rows)
        news[Condition.REPORT, one.type][f"t{one.transformation}"] = told | {"name": one.name, "type": one.type}
    messages.report_told(conn, due)
    return len(due)


def _put(conn: Connection, keeper: Keeper, news: News) -> None:
    """Add items to the open message of their condition, for each address that their type is told to."""
    for_address: defaultdict[tuple[str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for (condition, type_), items in news.items():
        for address in keeper.of(type_).tell:
            for_address[condition, address] |= items
    before = messages.open_items(conn)
    for (condition, address), items in for_address.items():
        whole = merge(before.get((condition, address), {}), items)
        messages.put_items(conn, condition, address, whole, keeper.period)


# --- sending ---------------------------------------------------------------------------------------------------------
def send(ctx: Context) -> int:
    """Send the first message that is due; return whether there was one."""
    with ctx.db.transaction() as conn:
        keeper = healing.keeper(conn)
        message = messages.claim(conn, LEASE) if keeper.send else None
    if message is None:
        return 0
    try:
        _notifier(ctx.notifiers, message.address).send(_notice(message, keeper))
    except Refused as error:
        with ctx.db.transaction() as conn:
            messages.refused(conn, message, error.message)
            _note_refusals(conn)
        ctx.log.error("message refused", message=message.message_id, to=shown(message.address), why=error.message)
    except LightkeeperError as error:
        wait = min(PATIENCE[0] * 2 ** min(message.attempts - 1, 10), PATIENCE[1])
        with ctx.db.transaction() as conn:
            messages.not_sent(conn, message, error.message, wait)
        ctx.log.warning("message not sent", message=message.message_id, to=shown(message.address), why=error.message)
    else:
        with ctx.db.transaction() as conn:
            messages.sent(conn, message)
            _note_refusals(conn)
        ctx.log.info("message sent", message=message.message_id, condition=message.condition, items=len(message.items))
    return 1


def _notifier(notifiers: Mapping[str, Notifier], address: str) -> Notifier:
    for notifier in notifiers.values():
        if notifier.takes(address):
            return notifier
    raise Refused(f"no plug-in takes messages for {shown(address)}", hint="keeper.tell in the topology document")


def _notice(message: Claimed, keeper: Keeper) -> Notice:
    items = list(message.items.values())
    states = [str(state) for state in keeper.states]
    letter = compose(Condition(message.condition), items, keeper.subject, states, message.at)
    return Notice(
        key=str(message.key),
        sender=keeper.sender,
        address=message.address,
        subject=letter.subject,
        text=letter.text,
        html=letter.html if keeper.html else "",
        facts={"condition": message.condition, "generated": f"{message.at:%Y-%m-%dT%H:%M:%SZ}", "items": items},
    )


def _note_refusals(conn: Connection) -> None:
    """A person must know which addresses take nothing; he finds it on the page, and at the others."""
    bad = messages.addresses_refused(conn)
    named = {one.message_id: one for one in messages.messages(conn, limit=1000)}
    told = [
        Concern(i, "", f"messages to {shown(named[i].address)} are refused: {named[i].error}")
        for i in bad
        if i in named
    ]
    healing.put_concerns(conn, "message", "refused", told)


def shown(address: str) -> str:
    """An address for logs and pages: the rest of a URL is a password."""
    return address if "://" not in address else f"{urlsplit(address).scheme}://{urlsplit(address).hostname}/…"
