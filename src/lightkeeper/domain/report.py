"""The transformation report, in the layout operators know.

One row per distinct (Status, MinorStatus, ApplicationStatus, Site), a sub-total per (Status, MinorStatus) with its
share of the Status, a total per Status with its share of all tasks, and the number of tasks.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from html import escape
from typing import Any

from lightkeeper.domain.names import printable


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

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """What is shown, in the order of the columns; texts of jobs without what is not seen or turns lines around."""
        return (
            self.status,
            printable(self.minor_status),
            printable(self.application_status),
            self.site,
            self.total,
        )

    @property
    def style(self) -> str:
        """How operators know it: bold; yellow, green, red or orange."""
        match self.kind:
            case RowKind.GROUP:
                return ""
            case RowKind.MINOR_TOTAL:
                return "bold yellow"
            case RowKind.TOTAL:
                return "bold"
            case RowKind.STATUS_TOTAL:
                status = self.status.removeprefix("Total: ")
                if status in ("Done", "Completed"):
                    return "bold green"
                return "bold red" if status in ("Failed", "Killed") else "bold orange"


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


# --- as people and programs read it ------------------------------------------------------------------------------
WIDTH = 200
"""Columns of the report as text, at most."""


def as_text(transformation_id: int, rows: Sequence[ReportRow]) -> str:
    """The report as text, at most 200 columns wide: what is too long is cut in ApplicationStatus."""
    lines = [COLUMNS, *(row.cells for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(COLUMNS))]
    widths[2] = max(len(COLUMNS[2]), min(widths[2], WIDTH - sum(widths) + widths[2] - 3 * len(COLUMNS) - 1))

    def line(cells: Sequence[str]) -> str:
        cut = [c if len(c) <= w else c[: w - 1] + "…" for c, w in zip(cells, widths, strict=True)]
        padded = [
            c.rjust(w) if n == len(cut) - 1 else c.ljust(w) for n, (c, w) in enumerate(zip(cut, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = f"+{'+'.join('-' * (width + 2) for width in widths)}+"
    told = [f"Transformation: {transformation_id}", rule, line(COLUMNS), rule]
    for row in rows:
        told.append(line(row.cells))
        if row.kind in (RowKind.STATUS_TOTAL, RowKind.TOTAL):
            told.append(rule)
    return "\n".join(told) + "\n"


_COLOURS = {
    "": "",
    "bold yellow": "#8a6d00",
    "bold": "",
    "bold green": "#1a7f37",
    "bold red": "#c62828",
    "bold orange": "#b45309",
}


def as_html(transformation_id: int, rows: Sequence[ReportRow]) -> str:
    """The report as one HTML table, to stand in a page or a mail; styles are in it, because mail readers want that."""
    cell = 'style="border:1px solid #bbb;padding:2px 8px;text-align:'
    head = "".join(f'<th {cell}left">{column}</th>' for column in COLUMNS)
    lines: list[str] = []
    for row in rows:
        bold = "font-weight:bold" if row.style else ""
        colour = f";color:{_COLOURS[row.style]}" if _COLOURS[row.style] else ""
        cells = "".join(
            f'<td {cell}{"right" if n == len(COLUMNS) - 1 else "left"}">{escape(text)}</td>'
            for n, text in enumerate(row.cells)
        )
        lines.append(f'<tr style="{bold}{colour}">{cells}</tr>')
    return (
        f'<table style="border-collapse:collapse;font-family:monospace">\n'
        f"<caption>Transformation: {transformation_id}</caption>\n<tr>{head}</tr>\n" + "\n".join(lines) + "\n</table>\n"
    )


def as_json(transformation_id: int, rows: Sequence[ReportRow]) -> dict[str, Any]:
    """The same for programs."""
    return {"transformation": transformation_id, "columns": list(COLUMNS), "rows": [asdict(row) for row in rows]}
