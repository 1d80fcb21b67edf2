"""What people are told in messages: a subject, a text and one HTML document for each kind of news.

News of a kind are gathered as items, each a plain map that is kept as JSON; a letter is made of all of them at once.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from html import escape
from typing import Any

from lightkeeper.domain.names import printable
from lightkeeper.domain.report import ReportRow, RowKind, as_html, as_text

LISTED = 200
"""Tasks that a letter lists of one transformation; of more it tells the number."""

Item = Mapping[str, Any]


class Condition(StrEnum):
    """The kinds of news."""

    FLUSH = "flush"
    COMPLETE = "complete"
    REASSIGN = "reassign"
    REPORT = "report"
    DECIDE = "decide"


@dataclass(frozen=True, slots=True)
class Letter:
    """What is sent. `html` is empty when only text is wanted."""

    subject: str
    text: str
    html: str


def compose(condition: Condition, items: Sequence[Item], prefix: str, states: Sequence[str], at: datetime) -> Letter:
    """The letter that tells these items, made at `at`."""
    title, text, html = _PARTS[condition](items, states)
    stamp = f"Generated {at:%Y-%m-%d %H:%M:%S} UTC by Lightkeeper."
    subject = f"{prefix} {title}".strip()
    page = (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(subject)}</title></head>\n'
        f"<body>\n{html}<p><small>{escape(stamp)}</small></p>\n</body>\n</html>\n"
    )
    return Letter(subject, f"{text}\n{stamp}\n", page)


def merge(old: Mapping[str, Item], new: Mapping[str, Item]) -> dict[str, Item]:
    """Items of a letter that is still to be sent, with what came since: lists of tasks grow, all else is replaced."""
    merged = dict(old)
    for key, item in new.items():
        if key in old and "tasks" in item:
            before = old[key]
            tasks = [*before["tasks"], *item["tasks"]]
            merged[key] = {**item, "tasks": tasks[:LISTED], "n_tasks": before["n_tasks"] + item["n_tasks"],
                           "n_files": before["n_files"] + item["n_files"]}  # fmt: skip
        else:
            merged[key] = item
    return merged


# --- kinds -----------------------------------------------------------------------------------------------------------
Parts = tuple[str, str, str]


def _flush(items: Sequence[Item], _: Sequence[str]) -> Parts:
    return _lines("Flush", "Flushed", items)


def _complete(items: Sequence[Item], _: Sequence[str]) -> Parts:
    return _lines("Completed", "Completed", items)


def _lines(word: str, verb: str, items: Sequence[Item]) -> Parts:
    """One line for each transformation."""
    title = (
        f"{word} Transformation {items[0]['transformation']}"
        if len(items) == 1
        else f"{word} {len(items)} Transformations"
    )
    told = [
        f"{verb} transformation {item['transformation']} ({printable(item['name'])}): {printable(item['why'])}"
        for item in items
    ]
    return title, "\n".join(told) + "\n", "<ul>\n" + "".join(f"<li>{escape(line)}</li>\n" for line in told) + "</ul>\n"


def _reassign(items: Sequence[Item], _: Sequence[str]) -> Parts:
    files = sum(item["n_files"] for item in items)
    where = f"transformation {items[0]['transformation']}" if len(items) == 1 else f"{len(items)} transformations"
    text: list[str] = []
    html: list[str] = []
    for item in items:
        heading = f"Reassigned {item['n_files']} LFNs on transformation {item['transformation']}:"
        rows = [
            (str(task["task"]), printable(lfn), printable(task["why"]))
            for task in item["tasks"]
            for lfn in task["lfns"] or [""]
        ]
        more = item["n_tasks"] - len(item["tasks"])
        text += [heading, f"{'taskID':<12} LFN"]
        text += [f"{task:<12} {lfn}  ({why})" for task, lfn, why in rows]
        html.append(f"<h3>{escape(heading)}</h3>\n<table>\n<tr><th>taskID</th><th>LFN</th><th>why</th></tr>")
        html += [f"<tr><td>{task}</td><td>{escape(lfn)}</td><td>{escape(why)}</td></tr>" for task, lfn, why in rows]
        html.append("</table>")
        if more > 0:
            text.append(f"and {more} more tasks")
            html.append(f"<p>and {more} more tasks</p>")
        text.append("")
    return f"Reassigned {files} LFNs on {where}", "\n".join(text), "\n".join(html) + "\n"


def _report(items: Sequence[Item], states: Sequence[str]) -> Parts:
    by_type: defaultdict[str, list[Item]] = defaultdict(list)
    for item in items:
        by_type[item["type"]].append(item)
    text: list[str] = []
    html: list[str] = []
    for type_ in sorted(by_type):
        text += [f"Report on {type_} transformations:", ""]
        html.append(f"<h2>Report on {escape(type_)} transformations:</h2>")
        for item in sorted(by_type[type_], key=lambda item: item["transformation"]):
            rows = [ReportRow(**row | {"kind": RowKind(row["kind"])}) for row in item["rows"]]
            text.append(as_text(item["transformation"], rows))
            html.append(as_html(item["transformation"], rows))
    return f"Report on {[str(s) for s in states]} transformations", "\n".join(text), "\n".join(html)


def _decide(items: Sequence[Item], _: Sequence[str]) -> Parts:
    title = printable(items[0]["sentence"]) if len(items) == 1 else f"{len(items)} decisions"
    text: list[str] = []
    html: list[str] = []
    for item in items:
        sentence, choices = printable(item["sentence"]), [printable(choice) for choice in item["choices"]]
        text += [sentence, *(f"    {choice}" for choice in choices), ""]
        html.append(f"<h3>{escape(sentence)}</h3>")
        if choices:
            html.append("<ul>" + "".join(f"<li><code>{escape(choice)}</code></li>" for choice in choices) + "</ul>")
    return f"A person is needed: {title}"[:150], "\n".join(text), "\n".join(html) + "\n"


_PARTS = {
    Condition.FLUSH: _flush,
    Condition.COMPLETE: _complete,
    Condition.REASSIGN: _reassign,
    Condition.REPORT: _report,
    Condition.DECIDE: _decide,
}
