"""The worker that test_tape_campaign.py kills. As a program: DATABASE_URL ROOT. Ends when nothing is left to do."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightkeeper.adapters.mover_stream import StreamMover
from lightkeeper.adapters.storage_posix import PosixStorage
from lightkeeper.adapters.storage_tape_rest import TapeRestStorage
from lightkeeper.context import Context
from lightkeeper.settings import Settings
from lightkeeper.steps import heal, replicate, stage, transfer
from lightkeeper.store.db import Database


class Quiet:
    """Says nothing."""

    def info(self, event: str, **facts: Any) -> None: ...

    warning = error = info


def context(url: str, root: Path) -> Context:
    """As tests' worlds have it."""
    settings = Settings(home=root, retry_after=0.0, lease=30.0, stage_every=timedelta(0))
    drivers = {"posix": PosixStorage, "tape": TapeRestStorage}
    return Context(
        db=Database(url, max_connections=4).open(),
        settings=settings,
        log=Quiet(),
        storage_drivers=drivers,
        mover=StreamMover(),
        executors={},
        observatories=(),
    )


if __name__ == "__main__":
    ctx = context(sys.argv[1], Path(sys.argv[2]))
    heal.after_restart(ctx)
    print("up", flush=True)
    open_work = """
        SELECT EXISTS (SELECT FROM unsettled WHERE not_before <= now())
            OR EXISTS (SELECT FROM transfer WHERE state IN ('Waiting', 'Running'))
            OR EXISTS (SELECT FROM replica WHERE state = 'Buffered')
            OR EXISTS (SELECT FROM recall WHERE state IN ('Waiting', 'Asked', 'Releasing'))"""
    while True:
        replicate.settle(ctx)
        for _ in range(50):
            if not transfer.carry_out(ctx):
                break
        stage.stage(ctx)
        stage.archive(ctx)
        with ctx.db.transaction() as conn:
            if not conn.execute(open_work).fetchone()[0]:
                break
    ctx.db.close()
