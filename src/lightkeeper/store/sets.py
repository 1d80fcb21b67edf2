"""Metadata sets: each distinct combination of values once, matched once with everything that looks for files."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import Connection

from lightkeeper.domain.states import File
from lightkeeper.store.db import values


def name_sets(conn: Connection, metas: Sequence[str], state: File) -> list[int]:
    """Ids of the metadata sets with these values, canonical texts, and this state, in the same order. New ones are
    matched with policies and, when Current, with transformations and datasets: once per set, never per file."""
    conn.execute(
        """
        WITH new_set AS (
            INSERT INTO meta_set (hash, state, meta)
            SELECT DISTINCT ON (hash) hash, %(state)s::file_state, meta
              FROM (SELECT md5(m::text)::uuid AS hash, m AS meta FROM unnest(%(metas)s::jsonb[]) AS m) s
             ORDER BY hash
            ON CONFLICT (hash, state) DO NOTHING
            RETURNING set_id, state, meta),
        owed AS (
            INSERT INTO set_policy (set_id, policy_id)
            SELECT s.set_id, p.policy_id
              FROM new_set s JOIN policy p ON s.meta @@ p.set_query
             WHERE s.state <> 'Removed'),
        in_dataset AS (
            INSERT INTO dataset_set (set_id, dataset_id)
            SELECT s.set_id, d.dataset_id
              FROM new_set s JOIN dataset d ON s.meta @@ d.set_query
             WHERE s.state = 'Current' AND d.frozen IS NULL)
        INSERT INTO transformation_set (set_id, transformation_id)
        SELECT s.set_id, t.transformation_id
          FROM new_set s JOIN transformation t ON s.meta @@ t.set_query
         WHERE s.state = 'Current' AND t.state IN ('Active', 'Flush', 'Stopped') AND t.dataset_id IS NULL
        """,
        {"metas": list(metas), "state": str(state)},
    )
    return values(
        conn,
        """
        SELECT set_id
          FROM unnest(%(metas)s::jsonb[]) WITH ORDINALITY AS m (meta, number)
          JOIN meta_set s ON s.hash = md5(m.meta::text)::uuid AND s.state = %(state)s::file_state
         ORDER BY number
        """,
        metas=list(metas),
        state=str(state),
    )


def share_registration(conn: Connection) -> None:
    """Until this transaction ends no transformation, dataset or policy begins to match; files may come meanwhile."""
    conn.execute("SELECT pg_advisory_xact_lock_shared(hashtext('transformation'))")


def hold_registration(conn: Connection) -> None:
    """Until this transaction ends no file is registered or changed: what exists now is all there is."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('transformation'))")


def share_policies(conn: Connection) -> None:
    """Until this transaction ends no policy is withdrawn: what is planned for one is known to who withdraws it."""
    conn.execute("SELECT pg_advisory_xact_lock_shared(hashtext('policy'))")


def hold_policies(conn: Connection) -> None:
    """Until this transaction ends nothing is planned."""
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('policy'))")


def canonical(meta: Mapping[str, Any]) -> str:
    """Metadata as one text: equal for equal values."""
    return _ENCODER.encode(meta)


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
