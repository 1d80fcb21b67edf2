"""Transformations of very many files, which elsewhere end in time-outs: with the settings as they are, and in sets."""

import json

import pytest
from bench import work as bench

from lightkeeper.steps import produce, transform
from lightkeeper.store import productions, reports


@pytest.mark.nightly
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("n", [200_000, 1_000_000])
@pytest.mark.feature("S0-095", "S0-096")
def test_so_many_files_are_matched_and_grouped_each_once_and_its_status_is_told(n: int):
    with bench.observatory() as ctx:
        bench.register(ctx, n)
        document = json.dumps({"steps": [{"query": {"key0": {"!=": "none"}}, "group_size": 50}]})
        produce.submit(ctx, "p", document, {})
        while transform.make_tasks(ctx):
            pass
        with ctx.db.transaction() as conn:
            conn.execute("SET LOCAL statement_timeout = '5s'")
            (one,) = reports.transformations(conn)
            (whole,) = productions.summaries(conn)
        assert (one.files, one.assigned, one.unused) == (n, n, 0)
        assert one.tasks == whole.tasks >= n / 50
        with ctx.db.transaction() as conn:
            found = conn.execute("SELECT count(*), count(DISTINCT file_id) FROM task_input").fetchone()
        assert found == (n, n)
