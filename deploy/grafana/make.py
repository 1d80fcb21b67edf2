"""Writes lightkeeper.json beside itself: a dashboard for Grafana, one panel for each line below."""

import json
from pathlib import Path

ROWS = [
    (
        "Ingest",
        [
            ("Deliveries", "sum by (outcome) (rate(lightkeeper_deliveries_total[5m]))", "{{outcome}}", "ops"),
            ("Bytes ingested", "rate(bytes_ingested_total[5m])", "bytes/s", "Bps"),
            ("Deliveries that wait", "n_tasks_queued", "waiting", "short"),
            ("Open nights", "lightkeeper_open_night_files", "{{what}}", "short"),
        ],
    ),
    (
        "Copies",
        [
            (
                "Rate by link",
                "sum by (source, target) (rate(lightkeeper_copied_bytes_total[5m]))",
                "{{source}} → {{target}}",
                "Bps",
            ),
            (
                "Failed attempts by link",
                "sum by (source, target) (rate(lightkeeper_copy_failures_total[5m]))",
                "{{source}} → {{target}}",
                "ops",
            ),
            ("Still to be copied", "lightkeeper_backlog_bytes", "{{storage}}", "bytes"),
            ("Deletions", "rate(lightkeeper_deletions_total[5m])", "{{storage}}", "ops"),
        ],
    ),
    (
        "Storages",
        [
            ("Bytes", "lightkeeper_storage_bytes", "{{storage}}", "bytes"),
            ("Answer", "lightkeeper_storage_up", "{{storage}}", "short"),
            ("Dark files", "lightkeeper_dark_files", "{{storage}}", "short"),
            ("Quality out of range", "lightkeeper_quality_out_of_range", "{{figure}}", "short"),
        ],
    ),
    (
        "Work and daemons",
        [
            ("Queues", "lightkeeper_queue", "{{queue}}", "short"),
            ("Pilots", "lightkeeper_pilots", "{{site}} {{state}}", "short"),
            ("Processor time", "rate(process_cpu_seconds_total[5m])", "processors", "short"),
            ("Memory", "process_resident_memory_bytes", "memory", "bytes"),
            ("Database size", "lightkeeper_database_bytes", "size", "bytes"),
            ("Transactions", "rate(lightkeeper_database_transactions_total[5m])", "{{end}}", "ops"),
        ],
    ),
]


def dashboard() -> dict[str, object]:
    """The dashboard as Grafana reads it."""
    panels: list[dict[str, object]] = []
    y = 0
    for title, lines in ROWS:
        place = {"h": 1, "w": 24, "x": 0, "y": y}
        panels.append({"type": "row", "title": title, "id": len(panels) + 1, "gridPos": place, "panels": []})
        y += 1
        for n, (name, expression, legend, unit) in enumerate(lines):
            panels.append(
                {
                    "type": "timeseries",
                    "title": name,
                    "id": len(panels) + 1,
                    "gridPos": {"h": 7, "w": 6, "x": 6 * (n % 4), "y": y + 7 * (n // 4)},
                    "datasource": {"type": "prometheus", "uid": "${datasource}"},
                    "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                    "targets": [{"refId": "A", "expr": expression, "legendFormat": legend}],
                }
            )
        y += 7 * ((len(lines) + 3) // 4)
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "title": "Lightkeeper",
        "uid": "lightkeeper",
        "schemaVersion": 39,
        "tags": ["lightkeeper"],
        "timezone": "utc",
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }


if __name__ == "__main__":
    Path(__file__).with_name("lightkeeper.json").write_text(json.dumps(dashboard(), indent=1) + "\n")
