"""Messages: subject, text and one HTML document."""

import json
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from tests.domain.test_report import GROUPS

from lightkeeper.domain.letters import Condition, compose, merge
from lightkeeper.domain.report import as_json, transformation_report

AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def letter(condition: Condition, *items: dict[str, object]):
    return compose(condition, items, "[Lightkeeper]", ["Active"], AT)


def report(number: int, type_: str = "Merging") -> dict[str, object]:
    told = as_json(number, transformation_report(GROUPS))
    return json.loads(json.dumps(told)) | {"name": f"t{number}", "type": type_}


def test_a_flush_names_its_transformation_the_files_the_group_size_and_the_reason():
    told = letter(
        Condition.FLUSH,
        {"transformation": 12, "name": "x", "why": "its input is complete and 3 files wait below the group size of 10"},
    )
    assert told.subject == "[Lightkeeper] Flush Transformation 12"
    assert "3 files wait below the group size of 10" in told.text


@pytest.mark.feature("S1-067", "S1-032")
def test_a_report_is_grouped_by_type_and_carries_its_time():
    told = letter(Condition.REPORT, report(9, "Merging"), report(4848, "DataReprocessing"), report(7, "Merging"))
    assert told.subject == "[Lightkeeper] Report on ['Active'] transformations"
    order = [
        "Report on DataReprocessing transformations:",
        "Transformation: 4848",
        "Report on Merging transformations:",
    ]
    order += ["Transformation: 7", "Transformation: 9", "Generated 2030-01-02 03:04:05 UTC"]
    for text in (told.text, told.html):
        assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.opened.append(tag)


@pytest.mark.feature("S1-074")
def test_weakness_11_a_mail_is_one_html_document_whatever_it_tells():
    tasks = [{"task": 1, "lfns": ["/a<b>"], "why": "exit 1"}]
    reassigned = {"transformation": 3, "name": "n", "n_tasks": 1, "n_files": 1, "tasks": tasks}
    decide = {"sentence": "a person", "choices": ["lightkeeper <x>"]}
    for told in (
        letter(Condition.REPORT, report(1), report(2)),
        letter(Condition.REASSIGN, reassigned, reassigned | {"transformation": 4}),
        letter(Condition.DECIDE, decide, decide),
    ):
        tags = Tags()
        tags.feed(told.html)
        assert told.html.count("<!doctype html>") == 1
        assert [tags.opened.count(tag) for tag in ("html", "body", "head")] == [1, 1, 1]
        assert "<b>" not in told.html
        assert "<x>" not in told.html


def test_a_subject_and_a_line_are_never_more_than_one_line():
    told = letter(Condition.DECIDE, {"sentence": "bad\r\nBcc: all@example.org", "choices": []})
    assert "\n" not in told.subject
    assert "\r" not in told.text


@pytest.mark.feature("S1-046")
def test_the_reassigned_are_listed_by_task_and_name():
    tasks = [{"task": 7, "lfns": ["/a/1", "/a/2"], "why": "exit 1"}]
    told = letter(Condition.REASSIGN, {"transformation": 3, "name": "n", "n_tasks": 9, "n_files": 18, "tasks": tasks})
    assert told.subject == "[Lightkeeper] Reassigned 18 LFNs on transformation 3"
    assert "Reassigned 18 LFNs on transformation 3:" in told.text
    assert "7            /a/2" in told.text
    assert "and 8 more tasks" in told.text


def test_what_comes_while_a_message_waits_is_added_and_a_newer_report_takes_the_place_of_the_older():
    first = {"tasks": [{"task": 1}], "n_tasks": 1, "n_files": 2}
    second = {"tasks": [{"task": 2}], "n_tasks": 1, "n_files": 3}
    merged = merge({"t1": first}, {"t1": second, "t2": second})
    assert merged["t1"] == {"tasks": [{"task": 1}, {"task": 2}], "n_tasks": 2, "n_files": 5}
    assert merged["t2"] == second
    assert merge({"t1": report(1)}, {"t1": report(2)})["t1"]["transformation"] == 2
