-- Nights: what came in, counted as files and copies come and go; receipts; deliveries and deletions by the hour.
CREATE TYPE night_state AS ENUM ('Open', 'Closed');
ALTER TABLE trigger ADD COLUMN repeat boolean NOT NULL DEFAULT false;
ALTER TABLE trigger ADD COLUMN night text;
CREATE INDEX trigger_refused ON trigger (night, trigger_id) WHERE state = 'Quarantined';

-- Which metadata key says what of a night; from the observatory's plug-ins. See KeyRole in domain/catalog.py.
CREATE TABLE night_key (
    role text PRIMARY KEY,
    name text NOT NULL
);

-- One observing night: Open until everything came and is where it belongs, then Closed, with a receipt.
CREATE TABLE night (
    night_id    int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created     timestamptz NOT NULL DEFAULT now(),
    state_since timestamptz NOT NULL DEFAULT now(),
    changed     timestamptz NOT NULL DEFAULT now(), -- when a number of it changed last
    n_expected  bigint,                             -- files that somebody said it will have; NULL: nobody did
    n_missing   bigint NOT NULL DEFAULT 0,          -- of them have not come
    n_differing bigint NOT NULL DEFAULT 0,          -- of them came with another size or sha256
    state       night_state NOT NULL DEFAULT 'Open',
    name        text COLLATE "C" NOT NULL UNIQUE    -- as its files say it: 2026-03-14
);

-- What each metadata set adds to its night, by array element and stream. Made anew from files and copies whenever a row
-- of night_due says so: see night_facts(). Pages add up these rows and count no file.
CREATE TABLE night_count (
    set_id      bigint NOT NULL,
    n_files     bigint NOT NULL,                    -- that ever came
    n_bytes     bigint NOT NULL,
    n_removed   bigint NOT NULL,                    -- whose bytes were given up
    b_removed   bigint NOT NULL,
    n_on_site   bigint NOT NULL,
    b_on_site   bigint NOT NULL,
    n_preserved bigint NOT NULL,                    -- with as many verified copies as their policies ask for
    b_preserved bigint NOT NULL,
    n_freed     bigint NOT NULL,                    -- preserved, and not on site any more
    b_freed     bigint NOT NULL,
    n_to_free   bigint NOT NULL,                    -- on site, although a policy frees them
    n_chunks    bigint NOT NULL,                    -- different numbers in the stream
    latest      timestamptz NOT NULL,               -- when the last one was registered
    night_id    int NOT NULL REFERENCES night,
    last_chunk  bigint,                             -- the highest number in the stream, from 0
    level       int,                                -- 0: raw
    member      text,                               -- the number by which other files speak of the element
    members     text[] NOT NULL,                    -- elements whose data these files announce
    division    text NOT NULL,
    block       text NOT NULL,
    element     text NOT NULL,
    stream      text NOT NULL,
    PRIMARY KEY (set_id, element, stream)
);
CREATE INDEX night_count_night ON night_count (night_id);

-- Metadata sets whose files or copies changed since they were counted: a row for each change, so that nobody waits.
CREATE TABLE night_due (
    due_id bigint GENERATED ALWAYS AS IDENTITY (CACHE 1000),
    set_id bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02);

-- Files that somebody said a night will have. `file_id` when it came.
CREATE TABLE night_expected (
    file_id  bigint,
    size     bigint,                                -- NULL: any
    night_id int NOT NULL REFERENCES night,
    sha256   bytea,                                 -- NULL: any
    path     text COLLATE "C" NOT NULL,
    PRIMARY KEY (night_id, path)
);
CREATE INDEX night_expected_missing ON night_expected (night_id) WHERE file_id IS NULL;

-- What was signed when a night was closed. The receipt itself lies in the home, under its sha256; a night that was
-- reopened has several.
CREATE TABLE night_receipt (
    night_id  int NOT NULL REFERENCES night,
    made      timestamptz NOT NULL,                 -- the moment that it speaks of
    n_files   bigint NOT NULL,
    n_bytes   bigint NOT NULL,
    size      bigint NOT NULL,                      -- of the receipt
    revision  smallint NOT NULL,
    sha256    bytea NOT NULL,
    signature bytea NOT NULL,                       -- ECDSA of that sha256, DER
    key       text NOT NULL,                        -- sha256 of the public key
    closed_by text NOT NULL,
    why       text NOT NULL,
    PRIMARY KEY (night_id, revision)
);

-- Deliveries that ended in each hour: success, skipped (it was known already), failed (refused), cancelled.
CREATE TABLE ingest_log (
    hour         timestamptz NOT NULL,
    n_deliveries bigint NOT NULL,
    n_bytes      bigint NOT NULL,                   -- of those that succeeded
    storage_id   smallint NOT NULL REFERENCES storage,
    outcome      text NOT NULL,
    PRIMARY KEY (hour, storage_id, outcome)
) WITH (fillfactor = 50);

-- Copies that were deleted in each hour.
CREATE TABLE deletion_log (
    hour       timestamptz NOT NULL,
    n_files    bigint NOT NULL,
    n_bytes    bigint NOT NULL,
    storage_id smallint NOT NULL REFERENCES storage,
    PRIMARY KEY (hour, storage_id)
) WITH (fillfactor = 50);

-- What these metadata sets add to their nights, counted from files and copies.
CREATE FUNCTION night_facts(sets bigint[])
    RETURNS TABLE (set_id bigint, night text, level int, division text, block text, element text, stream text,
                   n_files bigint, n_bytes bigint, n_removed bigint, b_removed bigint, n_on_site bigint,
                   b_on_site bigint, n_preserved bigint, b_preserved bigint, n_freed bigint, b_freed bigint,
                   n_to_free bigint, n_chunks bigint, last_chunk bigint, member text, members text[],
                   latest timestamptz)
    LANGUAGE sql STABLE AS $$
        WITH k AS (
            SELECT max(name) FILTER (WHERE role = 'night') AS night,
                   max(name) FILTER (WHERE role = 'level') AS level,
                   max(name) FILTER (WHERE role = 'division') AS division,
                   max(name) FILTER (WHERE role = 'block') AS block,
                   max(name) FILTER (WHERE role = 'element') AS element,
                   max(name) FILTER (WHERE role = 'stream') AS stream,
                   max(name) FILTER (WHERE role = 'chunk') AS chunk,
                   max(name) FILTER (WHERE role = 'member') AS member,
                   max(name) FILTER (WHERE role = 'members') AS members
              FROM night_key),
        w AS (
            SELECT s.set_id, s.meta, s.state = 'Removed' AS removed, p.*
              FROM meta_set s
             CROSS JOIN LATERAL (
                   SELECT count(*) FILTER (WHERE every) > 0 AS owed, count(*) FILTER (WHERE NOT every) > 0 AS some,
                          coalesce(max(copies) FILTER (WHERE every AND is_owed AND media = 'disk'), 0) AS disk,
                          coalesce(max(copies) FILTER (WHERE every AND is_owed AND media = 'tape'), 0) AS tape,
                          coalesce(bool_or(free_on_site) FILTER (WHERE every AND is_owed), false) AS frees
                     FROM set_policy m
                     JOIN policy USING (policy_id)
                    CROSS JOIN LATERAL (
                          SELECT file_query IS NULL AND scopes IS NULL AS every, withdrawn IS NULL AS is_owed) q
                    WHERE m.set_id = s.set_id) p
             WHERE s.set_id = ANY(sets)),
        e AS (
            SELECT w.set_id, f.size, f.created, w.removed, w.meta ->> k.night AS night,
                   CASE jsonb_typeof(w.meta -> k.level) WHEN 'number'
                        THEN greatest(least((w.meta -> k.level)::numeric, 100), -100)::int END AS level,
                   coalesce(w.meta ->> k.division, f.extra ->> k.division, '') AS division,
                   coalesce(w.meta ->> k.block, f.extra ->> k.block, '') AS block,
                   coalesce(w.meta ->> k.element, f.extra ->> k.element, '') AS element,
                   coalesce(w.meta ->> k.stream, f.extra ->> k.stream, '') AS stream,
                   CASE jsonb_typeof(f.extra -> k.chunk) WHEN 'number'
                        THEN greatest(least((f.extra -> k.chunk)::numeric, 1e12), -1)::bigint END AS chunk,
                   f.extra ->> k.member AS member,
                   CASE jsonb_typeof(f.extra -> k.members) WHEN 'array' THEN f.extra -> k.members END AS members,
                   c.on_site, w.frees OR o.frees AS frees,
                   NOT w.removed AND (w.owed OR o.owed)
                   AND c.disk >= greatest(w.disk, o.disk) AND c.tape >= greatest(w.tape, o.tape) AS preserved
              FROM k
              JOIN w ON w.meta ? k.night
              JOIN file f ON f.set_id = w.set_id
             CROSS JOIN LATERAL (
                   SELECT coalesce(bool_or(p.kind = 'observatory' AND r.state <> 'Lost'), false) AS on_site,
                          count(DISTINCT p.site_id) FILTER (
                              WHERE s.media = 'disk' AND p.kind = 'data centre' AND s.enabled
                                AND r.state = 'Available' AND r.verified_at >= r.written_at) AS disk,
                          count(DISTINCT p.site_id) FILTER (
                              WHERE s.media = 'tape' AND p.kind = 'data centre' AND s.enabled
                                AND r.state = 'Available' AND r.verified_at >= r.written_at) AS tape
                     FROM replica r
                     JOIN storage s USING (storage_id)
                     JOIN site p USING (site_id)
                    WHERE r.file_id = f.file_id) c
             CROSS JOIN LATERAL (
                   SELECT count(*) > 0 AS owed,
                          coalesce(max(p.copies) FILTER (WHERE p.media = 'disk' AND p.withdrawn IS NULL), 0) AS disk,
                          coalesce(max(p.copies) FILTER (WHERE p.media = 'tape' AND p.withdrawn IS NULL), 0) AS tape,
                          coalesce(bool_or(p.free_on_site AND p.withdrawn IS NULL), false) AS frees
                     FROM (SELECT m.policy_id FROM file_policy m WHERE m.file_id = f.file_id AND NOT w.removed
                            UNION ALL
                           SELECT x.policy_id FROM file_owed x WHERE w.some AND x.file_id = f.file_id) m
                     JOIN policy p USING (policy_id)) o),
        m AS (
            SELECT set_id, element, stream, array_agg(DISTINCT x.member ORDER BY x.member) AS members
              FROM e CROSS JOIN LATERAL jsonb_array_elements_text(e.members) AS x (member)
             GROUP BY 1, 2, 3)
        SELECT e.set_id, min(e.night), min(e.level), min(e.division), min(e.block), e.element, e.stream,
               count(*), sum(size)::bigint,
               count(*) FILTER (WHERE removed), coalesce(sum(size) FILTER (WHERE removed), 0)::bigint,
               count(*) FILTER (WHERE on_site), coalesce(sum(size) FILTER (WHERE on_site), 0)::bigint,
               count(*) FILTER (WHERE preserved), coalesce(sum(size) FILTER (WHERE preserved), 0)::bigint,
               count(*) FILTER (WHERE preserved AND NOT on_site),
               coalesce(sum(size) FILTER (WHERE preserved AND NOT on_site), 0)::bigint,
               count(*) FILTER (WHERE on_site AND frees AND NOT removed),
               count(DISTINCT chunk), max(chunk), max(member), coalesce(min(m.members), '{}'), max(created)
          FROM e LEFT JOIN m USING (set_id, element, stream)
         GROUP BY e.set_id, e.element, e.stream
    $$;

-- ============================================================================================ quality
-- A number that products of a kind have, and the range that it should be in: see domain/quality.py.
CREATE TABLE quality_figure (
    low          double precision,
    high         double precision,
    figure_id    smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reduction_to smallint,                          -- of nights: raw bytes for each byte at this level
    name         text NOT NULL UNIQUE,
    key          text NOT NULL,                     -- metadata key of its value; empty for reduction_to
    begin_key    text,                              -- its value is divided by the seconds from here
    end_key      text,                              -- to here
    unit         text NOT NULL,
    description  text NOT NULL,
    origin       text NOT NULL,                     -- 'topology', which goes first, or the observatory's name
    query        jsonb NOT NULL,                    -- as written
    set_query    jsonpath NOT NULL,                 -- compiled, on set-level keys
    file_query   jsonpath                           -- compiled, on file-level keys; NULL: every file of the set
);

-- What each metadata set adds to the figures of its night, by array element; counted together with night_count.
CREATE TABLE quality_count (
    set_id    bigint NOT NULL,
    n_files   bigint NOT NULL,
    n_below   bigint NOT NULL,
    n_above   bigint NOT NULL,
    total     double precision NOT NULL,            -- of all values
    least     double precision NOT NULL,
    most      double precision NOT NULL,
    night_id  int NOT NULL REFERENCES night,
    figure_id smallint NOT NULL REFERENCES quality_figure ON DELETE CASCADE,
    element   text NOT NULL,
    PRIMARY KEY (set_id, figure_id, element)
);
CREATE INDEX quality_count_figure ON quality_count (figure_id, night_id);

-- The values of figures in these metadata sets: one row for each file that has one.
CREATE FUNCTION quality_values(sets bigint[])
    RETURNS TABLE (set_id bigint, file_id bigint, figure_id smallint, night text, element text,
                   value double precision, below boolean, above boolean)
    LANGUAGE sql STABLE AS $$
        WITH k AS (
            SELECT max(name) FILTER (WHERE role = 'night') AS night,
                   max(name) FILTER (WHERE role = 'element') AS element
              FROM night_key),
        v AS (
            SELECT s.set_id, f.file_id, q.figure_id, q.low, q.high, s.meta ->> k.night AS night,
                   coalesce(s.meta ->> k.element, f.extra ->> k.element, '') AS element,
                   x.n::double precision / CASE WHEN q.begin_key IS NULL THEN 1 ELSE nullif(extract(epoch FROM
                       coalesce(s.meta ->> q.end_key, f.extra ->> q.end_key)::timestamp
                       - coalesce(s.meta ->> q.begin_key, f.extra ->> q.begin_key)::timestamp), 0)
                   END::double precision AS value
              FROM k
              JOIN meta_set s ON s.meta ? k.night
              JOIN quality_figure q ON q.key <> '' AND s.meta @@ q.set_query
              JOIN file f ON f.set_id = s.set_id
             CROSS JOIN LATERAL (
                   SELECT coalesce(s.meta -> q.key, f.extra -> q.key) AS told) t
             CROSS JOIN LATERAL (
                   SELECT CASE WHEN jsonb_typeof(t.told) = 'number'
                               THEN CASE WHEN abs(t.told::numeric) < 1e300 THEN t.told::numeric END END AS n) x
             WHERE s.set_id = ANY(sets)
               AND s.state = 'Current'
               AND (q.file_query IS NULL OR coalesce(f.extra, '{}') @@ q.file_query))
        SELECT set_id, file_id, figure_id, night, element, value, coalesce(value < low, false),
               coalesce(value > high, false)
          FROM v WHERE value IS NOT NULL
    $$;

-- Notes that nights must be counted again, once per statement: files that come, change or go…
CREATE FUNCTION note_night_files() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO night_due (set_id) SELECT DISTINCT set_id FROM new_rows;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO night_due (set_id) SELECT DISTINCT set_id FROM old_rows;
    ELSE
        EXECUTE 'INSERT INTO night_due (set_id)
                 SELECT DISTINCT unnest(ARRAY[o.set_id, n.set_id])
                   FROM new_rows n JOIN old_rows o USING (file_id)
                  WHERE (n.set_id, n.extra) IS DISTINCT FROM (o.set_id, o.extra)';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER night_added AFTER INSERT ON file REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_night_files();
CREATE TRIGGER night_removed AFTER DELETE ON file REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_night_files();
CREATE TRIGGER night_changed AFTER UPDATE ON file REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_night_files();

-- … their copies…
CREATE FUNCTION note_night_copies() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        EXECUTE 'INSERT INTO night_due (set_id) SELECT DISTINCT f.set_id FROM new_rows JOIN file f USING (file_id)';
    ELSIF TG_OP = 'DELETE' THEN
        EXECUTE 'INSERT INTO night_due (set_id) SELECT DISTINCT f.set_id FROM old_rows JOIN file f USING (file_id)';
    ELSE
        EXECUTE 'INSERT INTO night_due (set_id)
                 SELECT DISTINCT f.set_id
                   FROM new_rows n JOIN old_rows o USING (file_id, storage_id) JOIN file f USING (file_id)
                  WHERE (n.state, n.verified_at >= n.written_at) <> (o.state, o.verified_at >= o.written_at)';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER night_added AFTER INSERT ON replica REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_night_copies();
CREATE TRIGGER night_removed AFTER DELETE ON replica REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_night_copies();
CREATE TRIGGER night_changed AFTER UPDATE ON replica REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_night_copies();

-- … what they are owed…
CREATE FUNCTION note_night_owed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_TABLE_NAME = 'policy' THEN
        EXECUTE 'INSERT INTO night_due (set_id)
                 SELECT DISTINCT w.set_id
                   FROM new_rows n JOIN old_rows o USING (policy_id)
                  CROSS JOIN LATERAL (
                        SELECT set_id FROM set_policy m WHERE m.policy_id = n.policy_id
                         UNION ALL
                        SELECT f.set_id FROM file_policy m JOIN file f USING (file_id) WHERE m.policy_id = n.policy_id) w
                  WHERE (n.copies, n.media, n.withdrawn, n.free_on_site)
                        IS DISTINCT FROM (o.copies, o.media, o.withdrawn, o.free_on_site)';
    ELSIF TG_TABLE_NAME = 'set_policy' THEN
        INSERT INTO night_due (set_id) SELECT DISTINCT set_id FROM changed_rows;
    ELSE
        EXECUTE 'INSERT INTO night_due (set_id)
                 SELECT DISTINCT f.set_id FROM changed_rows JOIN file f USING (file_id)';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER night_changed AFTER UPDATE ON policy REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_night_owed();
CREATE TRIGGER night_added AFTER INSERT ON set_policy REFERENCING NEW TABLE AS changed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_night_owed();
CREATE TRIGGER night_removed AFTER DELETE ON set_policy REFERENCING OLD TABLE AS changed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_night_owed();
CREATE TRIGGER night_added AFTER INSERT ON file_policy REFERENCING NEW TABLE AS changed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_night_owed();
CREATE TRIGGER night_removed AFTER DELETE ON file_policy REFERENCING OLD TABLE AS changed_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_night_owed();

-- … and which storages count.
CREATE FUNCTION note_all_nights() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO night_due (set_id) SELECT DISTINCT set_id FROM night_count;
    RETURN NULL;
END $$;
CREATE TRIGGER night_changed AFTER UPDATE ON storage FOR EACH ROW
    WHEN ((OLD.enabled, OLD.media, OLD.site_id) IS DISTINCT FROM (NEW.enabled, NEW.media, NEW.site_id))
    EXECUTE FUNCTION note_all_nights();
CREATE TRIGGER night_changed AFTER UPDATE ON site FOR EACH ROW
    WHEN (OLD.kind IS DISTINCT FROM NEW.kind) EXECUTE FUNCTION note_all_nights();
CREATE TRIGGER night_changed AFTER INSERT OR UPDATE OR DELETE ON quality_figure
    FOR EACH STATEMENT EXECUTE FUNCTION note_all_nights();

CREATE TRIGGER guard AFTER UPDATE ON night REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_move('night_id');

-- Keeps ingest_log.
CREATE FUNCTION log_deliveries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'INSERT INTO ingest_log AS l (hour, storage_id, outcome, n_deliveries, n_bytes)
             SELECT date_trunc(''hour'', now(), ''UTC''), n.storage_id,
                    CASE WHEN n.state = ''Quarantined'' THEN ''failed'' WHEN n.state <> ''Registered'' THEN ''cancelled''
                         WHEN n.repeat THEN ''skipped'' ELSE ''success'' END,
                    count(*),
                    coalesce(sum(f.size) FILTER (WHERE n.state = ''Registered'' AND NOT n.repeat), 0)
               FROM new_rows n
               JOIN old_rows o USING (trigger_id)
               LEFT JOIN file f ON f.file_id = n.file_id
              WHERE o.state = ''Accepted'' AND n.state <> ''Accepted''
              GROUP BY 2, 3
              ORDER BY 2, 3
             ON CONFLICT (hour, storage_id, outcome) DO UPDATE
                SET n_deliveries = l.n_deliveries + excluded.n_deliveries, n_bytes = l.n_bytes + excluded.n_bytes';
    RETURN NULL;
END $$;
CREATE TRIGGER log_ended AFTER UPDATE ON trigger REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION log_deliveries();

-- Keeps deletion_log.
CREATE FUNCTION log_deletions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'INSERT INTO deletion_log AS l (hour, storage_id, n_files, n_bytes)
             SELECT date_trunc(''hour'', now(), ''UTC''), n.storage_id, count(*), coalesce(sum(f.size), 0)
               FROM new_rows n
               JOIN old_rows o USING (intent_id)
               LEFT JOIN file f ON f.file_id = n.file_id
              WHERE o.state <> ''Done'' AND n.state = ''Done''
              GROUP BY 2
              ORDER BY 2
             ON CONFLICT (hour, storage_id) DO UPDATE
                SET n_files = l.n_files + excluded.n_files, n_bytes = l.n_bytes + excluded.n_bytes';
    RETURN NULL;
END $$;
CREATE TRIGGER log_done AFTER UPDATE ON intent REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION log_deletions();

-- What was before.
INSERT INTO night_due (set_id) SELECT set_id FROM meta_set;
INSERT INTO ingest_log (hour, storage_id, outcome, n_deliveries, n_bytes)
SELECT date_trunc('hour', t.state_since, 'UTC'), storage_id,
       CASE t.state WHEN 'Quarantined' THEN 'failed' ELSE 'success' END, count(*), coalesce(sum(f.size), 0)
  FROM trigger t LEFT JOIN file f ON f.file_id = t.file_id
 WHERE t.state <> 'Accepted'
 GROUP BY 1, 2, 3;
INSERT INTO deletion_log (hour, storage_id, n_files, n_bytes)
SELECT date_trunc('hour', i.state_since, 'UTC'), storage_id, count(*), coalesce(sum(f.size), 0)
  FROM intent i LEFT JOIN file f ON f.file_id = i.file_id
 WHERE i.state = 'Done'
 GROUP BY 1, 2;
