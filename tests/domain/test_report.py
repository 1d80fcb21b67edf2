"""The transformation report reproduces the published one to the digit."""

import pytest

from lightkeeper.domain.report import JobGroup, RowKind, transformation_report

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
