"""How far the copies are that a policy asks for, and how one is withdrawn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from psycopg import Connection

from lightkeeper.domain.catalog import StorageElement
from lightkeeper.domain.policy import Policy
from lightkeeper.domain.states import Transfer
from lightkeeper.domain.waiting import Left, Pending, Rate
from lightkeeper.store.db import notify, row, rows, value, values
from lightkeeper.store.transfers import GIVEN_UP_FOR, unsettle
from lightkeeper.store.transitions import move


@dataclass(frozen=True, slots=True)
class Progress:
    """Files under a policy; those that have every copy it asks for; copies and bytes that are missing."""

    files: int
    bytes: int
    fulfilled: int
    copies_missing: int
    bytes_missing: int


def progress(conn: Connection, policy: Policy, storage_ids: Sequence[int]) -> Progress:
    """How far a policy is, counted from the copies on the storages that it takes; one that was only reported, and not
    read yet, does not count."""
    found = row(
        conn,
        Progress,
        """
        SELECT count(*) AS files, coalesce(sum(size), 0)::bigint AS bytes,
               count(*) FILTER (WHERE missing <= 0) AS fulfilled,
               coalesce(sum(missing) FILTER (WHERE missing > 0), 0)::bigint AS copies_missing,
               coalesce(sum(missing * size) FILTER (WHERE missing > 0), 0)::bigint AS bytes_missing
          FROM (SELECT f.size, %(copies)s - count(DISTINCT site_id) AS missing
                  FROM file_owed f
                  LEFT JOIN (replica r JOIN storage USING (storage_id))
                    ON r.file_id = f.file_id AND r.state = 'Available' AND r.verified_at >= r.written_at
                   AND r.storage_id = ANY(%(storages)s)
                 WHERE policy_id = %(policy)s AND f.size > 0
                 GROUP BY f.file_id, f.size) f
        """,
        policy=policy.policy_id,
        copies=policy.copies,
        storages=list(storage_ids),
    )
    return found or Progress(0, 0, 0, 0, 0)


# --- quotas ----------------------------------------------------------------------------------------------------
COUNTED_EVERY = timedelta(minutes=1)
"""How often the bytes under a quota are counted."""
ARRIVALS = 2000
"""The last arrivals at a storage that its rate is taken from."""
PAUSE = timedelta(minutes=10)
"""A longer time without an arrival is no transfer's."""


def with_quotas(
    conn: Connection, policies: Sequence[Policy], storages: Mapping[int, StorageElement]
) -> Sequence[Policy]:
    """The policies; those with a quota know how much of it is used, and nobody else plans for them until this
    transaction ends. Copies are counted once a minute, what is planned counts at once."""
    limited = [policy.policy_id for policy in policies if policy.quota is not None]
    if not limited:
        return policies
    found = conn.execute(
        """
        SELECT policy_id, used, counted < now() - %s FROM policy WHERE policy_id = ANY(%s) ORDER BY policy_id FOR UPDATE
        """,
        (COUNTED_EVERY, limited),
    ).fetchall()
    used: dict[int, int] = {policy_id: n for policy_id, n, _ in found}
    stale = {policy_id for policy_id, _, is_stale in found if is_stale}
    for policy in policies:
        if policy.policy_id in stale:
            taken = [i for i, storage in storages.items() if storage.keeps and policy.takes(storage)]
            used[policy.policy_id] = _count_used(conn, policy.policy_id, taken)
    return [replace(policy, used=used.get(policy.policy_id, 0)) for policy in policies]


def with_used(conn: Connection, policies: Sequence[Policy]) -> list[Policy]:
    """The policies, for somebody who only looks: with what is used of their quotas as it was counted last."""
    used = dict(conn.execute("SELECT policy_id, used FROM policy WHERE quota IS NOT NULL").fetchall())
    return [replace(policy, used=used.get(policy.policy_id, 0)) for policy in policies]


def _count_used(conn: Connection, policy_id: int, storage_ids: Sequence[int]) -> int:
    return value(
        conn,
        """
        UPDATE policy
           SET counted = now(),
               used = (SELECT coalesce(sum(o.size), 0)
                         FROM file_owed o
                         JOIN (SELECT file_id, storage_id FROM replica WHERE state <> 'Lost'
                                UNION
                               SELECT file_id, target_id FROM transfer WHERE state IN ('Waiting', 'Running')) c
                              USING (file_id)
                        WHERE o.policy_id = %(policy)s AND c.storage_id = ANY(%(storages)s))
         WHERE policy_id = %(policy)s
        RETURNING used
        """,
        policy=policy_id,
        storages=list(storage_ids),
    )


def keep_used(conn: Connection, policies: Iterable[Policy]) -> None:
    """Note what was planned for policies with a quota."""
    limited = [policy for policy in policies if policy.quota is not None]
    if limited:
        conn.execute(
            """
            UPDATE policy SET used = w.used
              FROM unnest(%s::int[], %s::bigint[]) AS w (policy_id, used)
             WHERE policy.policy_id = w.policy_id AND policy.used <> w.used
            """,
            ([policy.policy_id for policy in limited], [policy.used for policy in limited]),
        )


# --- how far ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class UnderWay:
    """Transfers of a policy in one state, and the last error of those that met one."""

    state: Transfer
    transfers: int
    bytes: int
    error: str | None


def under_way(conn: Connection, policy_id: int) -> list[UnderWay]:
    """Transfers that the policy asked for and that are not done, by state and error, the most first."""
    return rows(
        conn,
        UnderWay,
        """
        SELECT t.state, count(*) AS transfers, sum(f.size)::bigint AS bytes, t.error
          FROM transfer t JOIN file f USING (file_id)
         WHERE t.policy_id = %(policy)s
           AND (t.state IN ('Waiting', 'Running') OR t.state = 'Failed' AND t.state_since > now() - interval '1 day')
         GROUP BY t.state, t.error
         ORDER BY 2 DESC
         LIMIT 20
        """,
        policy=policy_id,
    )


def unfulfilled(conn: Connection, policy: Policy, storage_ids: Sequence[int], limit: int) -> list[int]:
    """Some files that lack a copy which the policy asks for."""
    return values(
        conn,
        """
        SELECT f.file_id
          FROM file_owed f
          LEFT JOIN (replica r JOIN storage USING (storage_id))
            ON r.file_id = f.file_id AND r.state = 'Available' AND r.verified_at >= r.written_at
           AND r.storage_id = ANY(%(storages)s)
         WHERE policy_id = %(policy)s AND f.size > 0
         GROUP BY f.file_id
        HAVING count(DISTINCT site_id) < %(copies)s
         LIMIT %(limit)s
        """,
        policy=policy.policy_id,
        copies=policy.copies,
        storages=list(storage_ids),
        limit=limit,
    )


def pending(conn: Connection, file_ids: Sequence[int]) -> list[Pending]:
    """Transfers of these files that are under way, wait, or were given up so lately that they are not planned again."""
    return rows(
        conn,
        Pending,
        """
        SELECT file_id, target_id, source_id, state, attempts, not_before, error
          FROM transfer
         WHERE file_id = ANY(%(ids)s)
           AND (state IN ('Waiting', 'Running')
             OR state = 'Failed' AND attempts > 0 AND state_since > now() - %(given_up)s)
         ORDER BY transfer_id
        """,
        ids=list(file_ids),
        given_up=GIVEN_UP_FOR,
    )


def rates(conn: Connection) -> dict[int, Rate]:
    """What arrived at each storage lately: its last arrivals of this hour, those of one stream together, and
    pauses left out."""
    found = conn.execute(
        """
        SELECT storage_id, sum(size) / nullif(extract(epoch FROM sum(gap)), 0)::float,
               sum(files) / nullif(extract(epoch FROM sum(gap)), 0)::float
          FROM storage
         CROSS JOIN LATERAL (
               SELECT sum(f.size)::float AS size, count(*)::float AS files,
                      t.state_since - lag(t.state_since) OVER (ORDER BY t.state_since) AS gap
                 FROM (SELECT file_id, state_since
                         FROM transfer
                        WHERE state = 'Done' AND target_id = storage.storage_id
                          AND state_since > now() - interval '1 hour'
                        ORDER BY state_since DESC
                        LIMIT %(arrivals)s) t
                 JOIN file f USING (file_id)
                GROUP BY t.state_since) arrival
         WHERE gap < %(pause)s
         GROUP BY storage_id
        """,
        {"arrivals": ARRIVALS, "pause": PAUSE},
    ).fetchall()
    return {storage_id: Rate(n_bytes, n_files) for storage_id, n_bytes, n_files in found if n_files}


def queued(conn: Connection, policy_id: int) -> list[Left]:
    """What has to arrive at each storage before the transfers of a policy are done: those, and the ones of other
    policies that go before the last of them."""
    return rows(
        conn,
        Left,
        """
        SELECT t.target_id, sum(f.size)::bigint AS bytes, count(*) AS files
          FROM (SELECT target_id, max(priority) AS priority, max(transfer_id) AS last
                  FROM transfer
                 WHERE policy_id = %(policy)s AND state IN ('Waiting', 'Running')
                 GROUP BY target_id) mine
          JOIN transfer t ON t.target_id = mine.target_id AND t.state IN ('Waiting', 'Running')
                         AND (t.priority < mine.priority OR t.priority = mine.priority AND t.transfer_id <= mine.last)
          JOIN file f USING (file_id)
         GROUP BY t.target_id
        """,
        policy=policy_id,
    )


# --- begin and end ---------------------------------------------------------------------------------------------
def assign(conn: Connection, policy_id: int) -> None:
    """Find the metadata sets that a new policy takes, and have its files, also those that it lists, compared with what
    they are owed. The caller holds registration."""
    conn.execute(
        """
        INSERT INTO set_policy (set_id, policy_id)
        SELECT s.set_id, p.policy_id
          FROM policy p JOIN meta_set s ON s.meta @@ p.set_query
         WHERE p.policy_id = %s AND s.state <> 'Removed'
        """,
        (policy_id,),
    )
    conn.execute(
        """
        INSERT INTO unsettled (file_id)
        SELECT file_id FROM file_owed WHERE policy_id = %s ORDER BY file_id
        ON CONFLICT (file_id) DO UPDATE SET not_before = now()
        """,
        (policy_id,),
    )
    notify(conn, "unsettled")


def put_members(conn: Connection, policy_id: int, file_ids: Sequence[int]) -> None:
    """These files are members of a policy that has no query; `assign` afterwards."""
    conn.execute(
        "INSERT INTO file_policy (policy_id, file_id) SELECT %s, unnest(%s::bigint[]) ON CONFLICT DO NOTHING",
        (policy_id, list(file_ids)),
    )


def withdraw(conn: Connection, policy_id: int) -> int:
    """Nothing is owed by this policy any more: its transfers that did not begin are given up, and its files compared
    with what the others ask for. Copies that were made stay. Returns how many transfers were given up. The caller holds
    registration."""
    waiting = values(
        conn,
        """
        SELECT transfer_id FROM transfer
         WHERE policy_id = %(policy)s AND state = 'Waiting'
         ORDER BY transfer_id
           FOR UPDATE
        """,
        policy=policy_id,
    )
    move(conn, waiting, Transfer.WAITING, Transfer.FAILED, "its policy was withdrawn")
    conn.execute("UPDATE transfer SET attempts = 0 WHERE transfer_id = ANY(%s)", (waiting,))
    files = values(conn, "SELECT DISTINCT file_id FROM transfer WHERE transfer_id = ANY(%(ids)s)", ids=waiting)
    conn.execute("UPDATE policy SET withdrawn = now(), expires = NULL WHERE policy_id = %s", (policy_id,))
    unsettle(conn, files)
    forget_withdrawn(conn)
    return len(waiting)


def are_over(conn: Connection) -> int:
    """How many policies were withdrawn and their retention is over."""
    return value(conn, "SELECT count(*) FROM policy WHERE withdrawn + retention <= now()")


def forget_withdrawn(conn: Connection) -> int:
    """Take away policies that were withdrawn and whose retention of the last copy that they made is over; how many.
    The caller holds registration."""
    over = values(
        conn,
        "SELECT policy_id FROM policy WHERE withdrawn + retention <= now() ORDER BY policy_id FOR UPDATE",
    )
    conn.execute("DELETE FROM set_policy WHERE policy_id = ANY(%s)", (over,))
    conn.execute("DELETE FROM file_policy WHERE policy_id = ANY(%s)", (over,))
    conn.execute("DELETE FROM policy WHERE policy_id = ANY(%s)", (over,))
    return len(over)


def release(conn: Connection, policy_id: int, by: str) -> list[str]:
    """Note that somebody agrees that copies of a policy are not protected any more; with two of them they are not.
    Returns who has agreed so far."""
    return value(
        conn,
        """
        UPDATE policy
           SET released_by = CASE WHEN cardinality(agreed) < 2 THEN agreed ELSE '{}' END,
               protected = cardinality(agreed) < 2
          FROM (SELECT ARRAY(SELECT DISTINCT unnest(released_by || %(by)s::text) ORDER BY 1) AS agreed
                  FROM policy WHERE policy_id = %(policy)s) w
         WHERE policy_id = %(policy)s
        RETURNING agreed
        """,
        policy=policy_id,
        by=by,
    )


def expired(conn: Connection) -> list[str]:
    """Policies whose time is over; one that is protected stays until it is released."""
    return values(
        conn, "SELECT name FROM policy WHERE expires < now() AND withdrawn IS NULL AND NOT protected ORDER BY name"
    )
