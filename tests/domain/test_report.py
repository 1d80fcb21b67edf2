"""The transformation report reproduces the published one to the digit."""

import json
from pathlib import Path

import pytest

from lightkeeper.domain.report import JobGroup, RowKind, as_html, as_json, as_text, transformation_report

GOLDEN = Path(__file__).parent / "golden"

SITES = ("CTAO.PIC.es", "CTAO.DESY-ZN.de", "CTAO.CSCS.ch", "CTAO.FRASCATI.it")
RESOLUTION = "Maximum of reschedulings reached"
GROUPS = [
    *(
        JobGroup("Done", "Execution Complete", "Unknown", s, n)
        for s, n in zip(SITES, (1029, 106, 14, 726), strict=True)
    ),
    *(JobGroup("Done", "Requests done", "Unknown", s, n) for s, n in zip(SITES[:2], (35, 6), strict=True)),
    JobGroup("Failed", "Application Finished With Errors", "set-up exited with 1", SITES[0], 1),
    *(
        JobGroup("Failed", RESOLUTION, "Failed Input Data Resolution", s, n)
        for s, n in zip(SITES[:3], (149, 135, 41), strict=True)
    ),
    JobGroup("Failed", "Received Kill signal", "Executing payload", SITES[1], 2),
]


@pytest.mark.feature("S1-059", "S1-060", "S1-061", "S1-062", "S1-066")
def test_the_golden_report_of_2244_tasks():
    totals = {
        (row.status, row.minor_status): row.total
        for row in transformation_report(GROUPS)
        if row.kind is not RowKind.GROUP
    }
    assert totals == {
        ("Done", "Total: Execution Complete"): "1875 (97.9%)",
        ("Done", "Total: Requests done"): "41 (2.1%)",
        ("Total: Done", "-"): "1916 (85.4%)",
        ("Failed", "Total: Application Finished With Errors"): "1 (0.3%)",
        ("Failed", f"Total: {RESOLUTION}"): "325 (99.1%)",
        ("Failed", "Total: Received Kill signal"): "2 (0.6%)",
        ("Total: Failed", "-"): "328 (14.6%)",
        ("Total # tasks:", "-"): "2244",
    }


def test_a_minor_status_that_two_statuses_share_is_counted_apart():
    rows = transformation_report([JobGroup("Done", "same", "", "A", 3), JobGroup("Failed", "same", "", "A", 1)])
    assert [r.total for r in rows if r.kind is RowKind.MINOR_TOTAL] == ["3 (100.0%)", "1 (100.0%)"]


def test_a_transformation_without_tasks_has_a_report_too():
    assert [row.total for row in transformation_report([])] == ["0"]


@pytest.mark.feature("S1-059", "S1-060", "S1-061", "S1-062", "S1-066")
def test_the_golden_report_as_text_html_and_json_to_the_letter():
    rows = transformation_report(GROUPS)
    assert as_text(4848, rows) == (GOLDEN / "report-4848.txt").read_text()
    assert as_html(4848, rows) == (GOLDEN / "report-4848.html").read_text()
    assert json.loads(json.dumps(as_json(4848, rows))) == json.loads((GOLDEN / "report-4848.json").read_text())


def test_rows_are_sorted_by_status_and_minor_status_and_styled_as_operators_know_them():
    rows = transformation_report(GROUPS)
    assert [(row.status, row.minor_status, row.style) for row in rows if row.kind is not RowKind.GROUP] == [
        ("Done", "Total: Execution Complete", "bold yellow"),
        ("Done", "Total: Requests done", "bold yellow"),
        ("Total: Done", "-", "bold green"),
        ("Failed", "Total: Application Finished With Errors", "bold yellow"),
        ("Failed", f"Total: {RESOLUTION}", "bold yellow"),
        ("Failed", "Total: Received Kill signal", "bold yellow"),
        ("Total: Failed", "-", "bold red"),
        ("Total # tasks:", "-", "bold"),
    ]
    running = transformation_report([JobGroup("Running", "Executing Payload", "", "A", 1)])
    assert running[-2].style == "bold orange"


@pytest.mark.feature("S1-074")
def test_weakness_4_a_sub_total_counts_within_its_status_and_is_never_left_out():
    rows = transformation_report(
        [
            JobGroup("Done", "same", "", "A", 3),
            JobGroup("Failed", "same", "", "A", 1),
            JobGroup("Failed", "same", "", "B", 4),
        ]
    )
    assert [(r.status, r.total) for r in rows if r.kind is RowKind.MINOR_TOTAL] == [
        ("Done", "3 (100.0%)"),
        ("Failed", "5 (100.0%)"),
    ]


@pytest.mark.feature("S1-074")
def test_weakness_12_the_report_of_a_transformation_without_tasks_says_that_it_has_none():
    rows = transformation_report([])
    assert "Total # tasks:" in as_text(1, rows)
    assert "Total # tasks:" in as_html(1, rows)


def test_the_text_is_never_wider_than_200_columns_and_no_text_of_a_job_breaks_its_line_or_its_page():
    rows = transformation_report([JobGroup("Failed", "Application Finished With Errors", "<b>\n" + "x" * 900, "A", 1)])
    assert max(len(line) for line in as_text(1, rows).splitlines()) <= 200
    assert "<b>" not in as_html(1, rows)
    assert len({len(line) for line in as_text(1, rows).splitlines()[1:]}) == 1
