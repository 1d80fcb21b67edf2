"""The transformation report, in the layout operators know.

One row per distinct (Status, MinorStatus, ApplicationStatus, Site), a sub-total per (Status, MinorStatus) with its
share of the Status, a total per Status with its share of all tasks, and the number of tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class JobGroup:
    """So many tasks whose latest job looks like this."""

    status: str
    minor_status: str
    application_status: str
    site: str
    total: int


class RowKind(StrEnum):
    """What a row of the report is; tells how to show it."""

    GROUP = "group"
    MINOR_TOTAL = "minor total"
    STATUS_TOTAL = "status total"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class ReportRow:
    """Cells as text in the order Status, MinorStatus, ApplicationStatus, Site, Total."""

    kind: RowKind
    status: str
    minor_status: str
    application_status: str
    site: str
    total: str


COLUMNS = ("Status", "MinorStatus", "ApplicationStatus", "Site", "Total")


def transformation_report(groups: Sequence[JobGroup]) -> list[ReportRow]:
    """The rows of the report. Groups keep their order within a (Status, MinorStatus)."""
    everything = sum(g.total for g in groups)
    result: list[ReportRow] = []
    for status in sorted({g.status for g in groups}):
        of_status = [g for g in groups if g.status == status]
        n_status = sum(g.total for g in of_status)
        for minor in sorted({g.minor_status for g in of_status}):
            of_minor = [g for g in of_status if g.minor_status == minor]
            n_minor = sum(g.total for g in of_minor)
            result += [
                ReportRow(RowKind.GROUP, g.status, g.minor_status, g.application_status, g.site, str(g.total))
                for g in of_minor
            ]
            result.append(
                ReportRow(RowKind.MINOR_TOTAL, status, f"Total: {minor}", "-", "-", _share(n_minor, n_status))
            )
        result.append(ReportRow(RowKind.STATUS_TOTAL, f"Total: {status}", "-", "-", "-", _share(n_status, everything)))
    result.append(ReportRow(RowKind.TOTAL, "Total # tasks:", "-", "-", "-", str(everything)))
    return result


def _share(part: int, whole: int) -> str:
    return f"{part} ({100 * part / whole:.1f}%)" if whole else f"{part}"
