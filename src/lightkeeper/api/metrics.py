"""/metrics for Prometheus: what `store/metrics.py` lists, and the process itself. Nothing waits for it: it is read in a
transaction of its own with little patience, one at a time, and without a database it still answers."""

import time

import psycopg
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from lightkeeper import __version__
from lightkeeper.context import Context
from lightkeeper.store import metrics
from lightkeeper.store.metrics import METRICS, Kind
from lightkeeper.web import OneAtATime

PATIENCE = 3000
"""Milliseconds for one figure."""
ALTOGETHER = 8.0
"""Seconds after which no further figure is asked for: who scrapes waits for ten."""
ALSO_GAUGE = "bytes_ingested"
"""The daemon before exported it under its bare name too."""


def make_router(ctx: Context) -> APIRouter:
    """The route /metrics."""
    router = APIRouter()
    process = CollectorRegistry()
    ProcessCollector(registry=process)
    latest = OneAtATime(lambda: (_text(ctx, process), 200))

    @router.get("/metrics", include_in_schema=False)
    def show() -> Response:  # pyright: ignore[reportUnusedFunction]
        text, _ = latest.get()
        return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router


def _text(ctx: Context, process: CollectorRegistry) -> str:
    ours = CollectorRegistry()
    ours.register(_Read(_families(ctx)))
    return (generate_latest(ours) + generate_latest(process)).decode()


class _Read(Collector):
    """Families that were read already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """All of them."""
        return self._families


def _families(ctx: Context) -> list[Metric]:
    """Every metric that could be read now."""
    about = GaugeMetricFamily("lightkeeper_info", "the version that runs", labels=["version"])
    about.add_metric([__version__], 1)
    found: list[Metric] = [about]
    answers = GaugeMetricFamily("lightkeeper_database_up", "whether the database answers")
    unread = GaugeMetricFamily("lightkeeper_metrics_unread", "metrics that could not be read this time")
    n_unread, deadline = 0, time.monotonic() + ALTOGETHER
    try:
        with ctx.db.transaction() as conn:
            since = metrics.created(conn).timestamp()
        for metric in METRICS:
            if time.monotonic() > deadline:
                n_unread += 1
                continue
            try:
                with ctx.db.transaction() as conn:
                    metrics.set_patience(conn, PATIENCE)
                    lines = metrics.read(conn, metric)
            except (psycopg.errors.QueryCanceled, psycopg.ProgrammingError) as error:
                ctx.log.warning("metric not read", metric=metric.name, why=str(error).strip())
                n_unread += 1
                continue
            if metric.kind is Kind.COUNTER:
                family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
                for *labels, number in lines:
                    family.add_metric(labels, number, created=since)
                found.append(family)
            if metric.kind is Kind.GAUGE or metric.name == ALSO_GAUGE:
                gauge = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
                for *labels, number in lines:
                    gauge.add_metric(labels, number)
                found.append(gauge)
        answers.add_metric([], 1)
    except psycopg.Error as error:
        ctx.log.warning("metrics have no database", why=str(error).strip())
        answers.add_metric([], 0)
    unread.add_metric([], n_unread)
    return [*found, answers, unread]
