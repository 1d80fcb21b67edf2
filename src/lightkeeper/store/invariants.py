"""The promises as queries: each names what must never be, and returns a line for every violation.

Numbers as in the reliability page of the documentation. `lightkeeper fsck` runs them all, and so does every test that
breaks something. They only read.
"""

from dataclasses import dataclass
from typing import LiteralString

from psycopg import Connection


@dataclass(frozen=True, slots=True)
class Invariant:
    """One promise. `query` returns one text per violation."""

    id: str
    sentence: str
    query: LiteralString


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise."""

    id: str
    sentence: str
    detail: str


INVARIANTS = (
    Invariant(
        "I1",
        "every file that was not removed has a verified copy, or one that is still to be read first",
        """
        SELECT d.path || '/' || f.name
          FROM file f JOIN directory d USING (dir_id) JOIN meta_set s USING (set_id)
         WHERE f.size > 0 AND s.state <> 'Removed'
           AND NOT EXISTS (SELECT FROM replica r WHERE r.file_id = f.file_id AND r.state = 'Available')
        """,
    ),
    Invariant(
        "I2",
        "a copy is deleted only when as many data centres as are owed, two for an on-site one, hold verified copies",
        """
        SELECT 'intent ' || i.intent_id
          FROM intent i
          JOIN storage s USING (storage_id)
          JOIN site USING (site_id)
         WHERE i.state <> 'Void' AND NOT i.removal
           AND (SELECT count(DISTINCT c ->> 'site') FROM jsonb_array_elements(i.evidence -> 'copies') c)
               < greatest(CASE WHEN site.kind = 'observatory' THEN 2 ELSE 1 END, (i.evidence ->> 'wanted')::int)
        """,
    ),
    Invariant(
        "I3",
        "every deletion has exactly one intent with its evidence",
        """
        SELECT 'file ' || h.id || ' on storage ' || h.part
          FROM history h
         WHERE h.kind = 'replica' AND h.target = 'Deleted'
           AND NOT EXISTS (SELECT FROM intent i
                            WHERE i.file_id = h.id AND i.storage_id = h.part AND i.state = 'Done'
                              AND i.evidence ->> 'sha256' IS NOT NULL)
        UNION ALL
        SELECT 'replica of file ' || r.file_id || ' on storage ' || r.storage_id || ' is Deleting without an intent'
          FROM replica r
         WHERE r.state = 'Deleting'
           AND NOT EXISTS (SELECT FROM intent i
                            WHERE i.file_id = r.file_id AND i.storage_id = r.storage_id AND i.state = 'Approved')
        """,
    ),
    Invariant(
        "I4",
        "every accepted delivery is in progress, registered as a file, quarantined with a reason, or discarded by "
        "somebody",
        """
        SELECT 'delivery ' || t.trigger_id || ' ' || t.path
          FROM trigger t
         WHERE t.state = 'Registered' AND NOT EXISTS (SELECT FROM file f WHERE f.file_id = t.file_id)
            OR t.state = 'Quarantined' AND coalesce(t.reason, '') = ''
            OR t.state = 'Discarded'
           AND NOT EXISTS (SELECT FROM history h
                            WHERE h.kind = 'trigger' AND h.id = t.trigger_id AND h.target = 'Discarded'
                              AND h.why <> '')
        """,
    ),
    Invariant(
        "I5",
        "a delivery that was announced more than once is one delivery, and one file",
        """
        SELECT 'storage ' || storage_id || ' ' || path || ' is being taken in ' || count(*) || ' times'
          FROM trigger WHERE state = 'Accepted' GROUP BY storage_id, path HAVING count(*) > 1
        UNION ALL
        SELECT 'storage ' || t.storage_id || ' ' || t.path || ' became ' || count(DISTINCT t.file_id) || ' files'
          FROM trigger t JOIN file f USING (file_id)
         WHERE t.state = 'Registered'
         GROUP BY t.storage_id, t.path, f.sha256
        HAVING count(DISTINCT t.file_id) > 1
        """,
    ),
    Invariant(
        "I6",
        "one name has one content",
        "SELECT dir_id || '/' || name FROM file GROUP BY dir_id, name HAVING count(*) > 1",
    ),
    Invariant(
        "I7",
        "every output has one producing attempt, the one that was accepted",
        """
        SELECT 'file ' || f.file_id || ' of job ' || a.job_id
          FROM file f
          JOIN activity a USING (activity_id)
          JOIN job USING (job_id)
          JOIN task USING (task_id)
         WHERE job.state <> 'Done' OR task.state <> 'Done' OR job.attempt <> task.attempts
        UNION ALL
        SELECT 'task ' || task_id || ' was accepted twice'
          FROM job WHERE state = 'Done' GROUP BY task_id HAVING count(*) > 1
        UNION ALL
        SELECT 'file ' || file_id || ' has no activity'
          FROM file f WHERE NOT EXISTS (SELECT FROM activity a WHERE a.activity_id = f.activity_id)
        UNION ALL
        SELECT 'task ' || task_id || ' is Done without an accepted job'
          FROM task WHERE state = 'Done'
           AND NOT EXISTS (SELECT FROM job WHERE job.task_id = task.task_id AND job.state = 'Done')
        """,
    ),
    Invariant(
        "I8",
        "nothing is held twice: one live job per task, queued if and only if it waits",
        """
        SELECT 'task ' || task_id || ' has ' || count(*) || ' live jobs'
          FROM job WHERE state IN ('Waiting', 'Running', 'Completing') GROUP BY task_id HAVING count(*) > 1
        UNION ALL
        SELECT 'job ' || job_id || ' waits outside the queue'
          FROM job WHERE state = 'Waiting' AND NOT EXISTS (SELECT FROM job_queue q WHERE q.job_id = job.job_id)
        UNION ALL
        SELECT 'job ' || job_id || ' is queued but ' || state
          FROM job JOIN job_queue USING (job_id) WHERE state <> 'Waiting'
        UNION ALL
        SELECT 'transfer of file ' || file_id || ' to storage ' || target_id || ' runs twice'
          FROM transfer WHERE state IN ('Waiting', 'Running') GROUP BY file_id, target_id HAVING count(*) > 1
        """,
    ),
    Invariant(
        "I9",
        "each file is taken at most once per transformation, and a Running task has a live job",
        """
        SELECT 'file ' || file_id || ' waits for and is in a task of transformation ' || transformation_id
          FROM pending_input JOIN task_input USING (file_id, transformation_id)
        UNION ALL
        SELECT 'task ' || task_id || ' is Running without a job'
          FROM task
         WHERE state = 'Running'
           AND NOT EXISTS (SELECT FROM job WHERE job.task_id = task.task_id AND job.attempt = task.attempts
                                             AND job.state IN ('Running', 'Completing'))
        UNION ALL
        SELECT 'transformation ' || transformation_id || ' is Completed with open work'
          FROM transformation t
         WHERE state = 'Completed'
           AND (EXISTS (SELECT FROM pending_input p WHERE p.transformation_id = t.transformation_id)
             OR EXISTS (SELECT FROM task WHERE task.transformation_id = t.transformation_id
                                            AND task.state IN ('Ready', 'Running')))
        UNION ALL
        SELECT 'file ' || file_id || ' was taken out of transformation ' || transformation_id || ' and is in it'
          FROM input_aside
         WHERE EXISTS (SELECT FROM task_input i WHERE (i.file_id, i.transformation_id)
                                                      = (input_aside.file_id, input_aside.transformation_id))
            OR EXISTS (SELECT FROM pending_input p WHERE (p.file_id, p.transformation_id)
                                                         = (input_aside.file_id, input_aside.transformation_id))
        """,
    ),
    Invariant(
        "I10",
        "counters equal a recount",
        """
        SELECT 'metadata set ' || coalesce(f.set_id, c.set_id)
          FROM (SELECT set_id, count(*) AS n, sum(size) AS b FROM file GROUP BY set_id) f
          FULL JOIN set_count c ON c.set_id = f.set_id
         WHERE (coalesce(f.n, 0), coalesce(f.b, 0))
               IS DISTINCT FROM (coalesce(c.n_files, 0), coalesce(c.n_bytes, 0)::numeric)
        UNION ALL
        SELECT 'storage ' || coalesce(r.storage_id, c.storage_id)
          FROM (SELECT storage_id, count(*) AS n, sum(size) AS b FROM replica JOIN file USING (file_id) GROUP BY 1) r
          FULL JOIN storage_count c ON c.storage_id = r.storage_id
         WHERE (coalesce(r.n, 0), coalesce(r.b, 0))
               IS DISTINCT FROM (coalesce(c.n_files, 0), coalesce(c.n_bytes, 0)::numeric)
        UNION ALL
        SELECT 'queue to storage ' || coalesce(t.target_id, q.storage_id)
          FROM (SELECT target_id, count(*) AS n, sum(size) AS b
                  FROM transfer JOIN file USING (file_id) WHERE state IN ('Waiting', 'Running') GROUP BY 1) t
          FULL JOIN storage_queue q ON q.storage_id = t.target_id
         WHERE (coalesce(t.n, 0), coalesce(t.b, 0))
               IS DISTINCT FROM (coalesce(q.n_files, 0), coalesce(q.n_bytes, 0)::numeric)
        UNION ALL
        SELECT 'dataset ' || d.name
          FROM dataset d
          LEFT JOIN (SELECT m.dataset_id, count(*) AS n, sum(f.size) AS b
                       FROM dataset_set m
                       JOIN dataset USING (dataset_id)
                       JOIN file f USING (set_id)
                      WHERE file_query IS NULL OR coalesce(f.extra, '{}') @@ file_query
                      GROUP BY 1
                      UNION ALL
                     SELECT m.dataset_id, count(*), sum(f.size)
                       FROM dataset_file m LEFT JOIN file f USING (file_id)
                      GROUP BY 1) f USING (dataset_id)
          LEFT JOIN dataset_count c USING (dataset_id)
         WHERE (d.set_query IS NOT NULL OR d.frozen IS NOT NULL)
           AND (coalesce(f.n, 0), coalesce(f.b, 0))
               IS DISTINCT FROM (coalesce(c.n_files, 0), coalesce(c.n_bytes, 0)::numeric)
        UNION ALL
        SELECT 'transformation ' || t.transformation_id || ': ' || n.what
          FROM transformation t
          LEFT JOIN transformation_progress c USING (transformation_id)
          LEFT JOIN (SELECT transformation_id, count(*) AS n FROM pending_input GROUP BY 1) p USING (transformation_id)
          LEFT JOIN (SELECT transformation_id, count(*) FILTER (WHERE state = 'Processed') AS processed,
                            count(*) FILTER (WHERE state = 'Problematic') AS problematic,
                            count(*) FILTER (WHERE state = 'Removed') AS removed
                       FROM input_aside GROUP BY 1) a USING (transformation_id)
          LEFT JOIN (SELECT task.transformation_id, count(*) FILTER (WHERE state = 'Ready') AS ready,
                            count(*) FILTER (WHERE state = 'Running') AS running,
                            count(*) FILTER (WHERE state = 'Done') AS done,
                            count(*) FILTER (WHERE state = 'Failed') AS failed,
                            sum(i.n) FILTER (WHERE state IN ('Ready', 'Running')) AS assigned,
                            sum(i.n) FILTER (WHERE state = 'Done') AS processed,
                            sum(i.n) FILTER (WHERE state = 'Failed') AS problematic
                       FROM task
                       LEFT JOIN (SELECT task_id, count(*) AS n FROM task_input GROUP BY 1) i USING (task_id)
                      GROUP BY 1) k USING (transformation_id)
          LEFT JOIN (SELECT transformation_id, count(*) FILTER (WHERE state = 'Waiting') AS queued,
                            count(*) FILTER (WHERE state = 'Running') AS on_pilots,
                            count(*) FILTER (WHERE state IN ('Failed', 'Killed')) AS in_vain
                       FROM job GROUP BY 1) j USING (transformation_id)
         CROSS JOIN LATERAL (VALUES
               ('files unused', c.unused, p.n), ('files assigned', c.assigned, k.assigned),
               ('files processed', c.processed, coalesce(k.processed, 0) + coalesce(a.processed, 0)),
               ('files problematic', c.problematic, coalesce(k.problematic, 0) + coalesce(a.problematic, 0)),
               ('files removed', c.removed, a.removed),
               ('tasks ready', c.ready, k.ready), ('tasks running', c.running, k.running),
               ('tasks done', c.done, k.done), ('tasks failed', c.failed, k.failed),
               ('jobs queued', c.queued, j.queued), ('jobs on pilots', c.on_pilots, j.on_pilots),
               ('jobs in vain', c.in_vain, j.in_vain)) n (what, counted, found)
         WHERE coalesce(n.counted, 0) <> coalesce(n.found, 0)
        UNION ALL
        SELECT 'transfers from storage ' || coalesce(t.source_id, l.source_id)
               || ' to ' || coalesce(t.target_id, l.target_id)
          FROM (SELECT source_id, target_id, count(*) AS n, sum(f.size) AS b,
                       bool_and(f.file_id IS NOT NULL) AS known -- files may be forgotten; what went over a link did
                  FROM transfer x
                  LEFT JOIN file f USING (file_id)
                 WHERE x.state = 'Done'
                 GROUP BY 1, 2) t
          FULL JOIN (SELECT source_id, target_id, sum(n_transfers) AS n, sum(n_bytes) AS b
                       FROM transfer_log GROUP BY 1, 2) l USING (source_id, target_id)
         WHERE coalesce(t.n, 0) <> coalesce(l.n, 0)
            OR coalesce(t.b, 0) > coalesce(l.b, 0)
            OR coalesce(t.known, true) AND coalesce(t.b, 0) < coalesce(l.b, 0)
        UNION ALL
        SELECT 'night ' || coalesce(f.night, n.name) || ', metadata set ' || coalesce(f.set_id, c.set_id)
          FROM night_facts(ARRAY(SELECT set_id FROM meta_set EXCEPT SELECT set_id FROM night_due)) f
          FULL JOIN (SELECT * FROM night_count WHERE set_id NOT IN (SELECT set_id FROM night_due)) c
            ON (c.set_id, c.element, c.stream) = (f.set_id, f.element, f.stream)
          LEFT JOIN night n USING (night_id)
         WHERE (f.night, f.level, f.division, f.block, f.n_files, f.n_bytes, f.n_removed, f.b_removed, f.n_on_site,
                f.b_on_site, f.n_preserved, f.b_preserved, f.n_freed, f.b_freed, f.n_to_free, f.n_chunks,
                f.last_chunk, f.member, f.members, f.latest)
               IS DISTINCT FROM
               (n.name, c.level, c.division, c.block, c.n_files, c.n_bytes, c.n_removed, c.b_removed, c.n_on_site,
                c.b_on_site, c.n_preserved, c.b_preserved, c.n_freed, c.b_freed, c.n_to_free, c.n_chunks,
                c.last_chunk, c.member, c.members, c.latest)
        UNION ALL
        SELECT 'quality figure ' || figure_id || ', metadata set ' || set_id
          FROM (SELECT set_id, figure_id, element, count(*) AS n_files, count(*) FILTER (WHERE below) AS n_below,
                       count(*) FILTER (WHERE above) AS n_above, min(value) AS least, max(value) AS most
                  FROM quality_values(ARRAY(SELECT set_id FROM meta_set EXCEPT SELECT set_id FROM night_due))
                 GROUP BY 1, 2, 3) f
          FULL JOIN (SELECT * FROM quality_count WHERE set_id NOT IN (SELECT set_id FROM night_due)) c
                USING (set_id, figure_id, element)
         WHERE (f.n_files, f.n_below, f.n_above, f.least, f.most)
               IS DISTINCT FROM (c.n_files, c.n_below, c.n_above, c.least, c.most)
        UNION ALL
        SELECT 'deliveries that became ' || coalesce(h.target, l.target)
          FROM (SELECT target, count(*) AS n FROM history
                 WHERE kind = 'trigger' AND source = 'Accepted' AND target IN ('Registered', 'Quarantined')
                 GROUP BY 1) h
          FULL JOIN (SELECT CASE outcome WHEN 'failed' THEN 'Quarantined' ELSE 'Registered' END AS target,
                            sum(n_deliveries) AS n
                       FROM ingest_log WHERE outcome IN ('success', 'skipped', 'failed') GROUP BY 1) l USING (target)
         WHERE coalesce(h.n, 0) <> coalesce(l.n, 0)
        UNION ALL
        SELECT 'deletions on storage ' || coalesce(i.storage_id, l.storage_id)
          FROM (SELECT storage_id, count(*) AS n FROM intent WHERE state = 'Done' GROUP BY 1) i
          FULL JOIN (SELECT storage_id, sum(n_files) AS n FROM deletion_log GROUP BY 1) l USING (storage_id)
         WHERE coalesce(i.n, 0) <> coalesce(l.n, 0)
        """,
    ),
    Invariant(
        "I11",
        "states move only along declared edges",
        """
        SELECT h.kind || ' ' || h.id || ': ' || h.source || ' to ' || h.target
          FROM history h
         WHERE h.target NOT IN ('Deleted', 'Forgotten')
           AND NOT EXISTS (SELECT FROM state_move m
                            WHERE m.kind = h.kind AND m.source = h.source AND m.target = h.target)
        """,
    ),
    Invariant(
        "I12",
        "no file with content that was not removed is without a replica",
        """
        SELECT d.path || '/' || f.name
          FROM file f JOIN directory d USING (dir_id) JOIN meta_set s USING (set_id)
         WHERE f.size > 0 AND s.state <> 'Removed'
           AND NOT EXISTS (SELECT FROM replica r WHERE r.file_id = f.file_id)
        """,
    ),
    Invariant(
        "I13",
        "no file that the catalogue does not know lies on a storage, as the last comparison saw it",
        """
        SELECT s.name || ': ' || d.path || ' is dark since ' || date_trunc('second', d.first_seen)
          FROM dark_file d JOIN storage s USING (storage_id)
        """,
    ),
    Invariant(
        "I14",
        "every processed file leads back to what it was made from, and nothing leads back to itself",
        """
        SELECT 'file ' || f.file_id || ' was made from nothing'
          FROM file f JOIN activity a USING (activity_id)
         WHERE a.job_id IS NOT NULL AND NOT EXISTS (SELECT FROM used u WHERE u.activity_id = a.activity_id)
           AND EXISTS (SELECT FROM job JOIN task_input USING (task_id) WHERE job.job_id = a.job_id)
        UNION ALL
        SELECT 'activity ' || activity_id || ' used a missing file ' || file_id
          FROM used u WHERE NOT EXISTS (SELECT FROM file f WHERE f.file_id = u.file_id)
        UNION ALL
        SELECT 'file ' || f.file_id || ' was made from itself'
          FROM file f JOIN used u USING (activity_id)
         WHERE u.file_id = f.file_id
        """,
    ),
    Invariant(
        "I19",
        "every change of a copy is in a manifest beside the data within two days",
        """
        SELECT s.name || ': ' || count(*) || ' changes wait since ' || date_trunc('second', min(q.since))
          FROM manifest_due q JOIN storage s USING (storage_id)
         WHERE q.since < now() - interval '2 days' AND q.since > 'epoch' AND s.enabled
         GROUP BY s.name
        """,
    ),
    Invariant(
        "R",
        "no row points to one that is not there",
        """
        SELECT 'file ' || file_id || ' has no metadata set'
          FROM file f WHERE NOT EXISTS (SELECT FROM meta_set s WHERE s.set_id = f.set_id)
        UNION ALL
        SELECT 'file ' || file_id || ' has no directory'
          FROM file f WHERE NOT EXISTS (SELECT FROM directory d WHERE d.dir_id = f.dir_id)
        UNION ALL
        SELECT 'replica of missing file ' || file_id
          FROM replica r WHERE NOT EXISTS (SELECT FROM file f WHERE f.file_id = r.file_id)
        UNION ALL
        SELECT 'task ' || task_id || ' has a missing input ' || file_id
          FROM task_input i WHERE NOT EXISTS (SELECT FROM file f WHERE f.file_id = i.file_id)
        UNION ALL
        SELECT 'dataset ' || dataset_id || ' has a missing file ' || file_id
          FROM dataset_file m WHERE NOT EXISTS (SELECT FROM file f WHERE f.file_id = m.file_id)
        UNION ALL
        SELECT 'policy ' || policy_id || ' lists a missing file ' || file_id
          FROM file_policy m WHERE NOT EXISTS (SELECT FROM file f WHERE f.file_id = m.file_id)
        UNION ALL
        SELECT 'file ' || file_id || ' is listed by a missing policy ' || policy_id
          FROM file_policy m WHERE NOT EXISTS (SELECT FROM policy p WHERE p.policy_id = m.policy_id)
        UNION ALL
        SELECT 'policy ' || p.name || ' has both a query and a list'
          FROM policy p
         WHERE set_query IS NOT NULL AND EXISTS (SELECT FROM file_policy m WHERE m.policy_id = p.policy_id)
        UNION ALL
        SELECT 'file ' || file_id || ' is superseded by a missing file ' || by_id
          FROM supersession m WHERE NOT EXISTS (SELECT FROM file f WHERE f.file_id = m.by_id)
        """,
    ),
)


def violations(conn: Connection, limit: int = 100) -> list[Violation]:
    """Every violation of every invariant, at most `limit` of each."""
    found: list[Violation] = []
    for invariant in INVARIANTS:
        with conn.cursor() as cursor:
            lines = cursor.execute(invariant.query).fetchmany(limit)
        found += [Violation(invariant.id, invariant.sentence, str(line[0])) for line in lines]
    return found
