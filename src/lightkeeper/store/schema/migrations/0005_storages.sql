-- Storages: what an operator switches, how they are found to be, further protocols, quotas, draining.
CREATE TYPE health_state AS ENUM ('Good', 'Degraded', 'Banned');
ALTER TABLE storage ADD COLUMN quota bigint CHECK (quota > 0);
ALTER TABLE storage ADD COLUMN retired timestamptz;
ALTER TABLE storage ADD COLUMN can_read boolean NOT NULL DEFAULT true;
ALTER TABLE storage ADD COLUMN can_write boolean NOT NULL DEFAULT true;
ALTER TABLE storage ADD COLUMN can_delete boolean NOT NULL DEFAULT true;
ALTER TABLE storage ADD COLUMN draining boolean NOT NULL DEFAULT false;

CREATE TABLE storage_protocol (
    storage_id smallint NOT NULL REFERENCES storage,
    rank       smallint NOT NULL CHECK (rank > 0), -- 0 is the storage's own
    driver     text NOT NULL,
    root       text NOT NULL,
    PRIMARY KEY (storage_id, rank)
);

CREATE TABLE storage_switch (
    storage_id smallint NOT NULL REFERENCES storage,
    since      timestamptz NOT NULL DEFAULT now(),
    operation  text NOT NULL CHECK (operation IN ('read', 'write', 'delete', 'drain')),
    is_on      boolean NOT NULL,
    why        text NOT NULL,
    PRIMARY KEY (storage_id, operation)
);

CREATE TABLE health (
    health_id   smallint PRIMARY KEY REFERENCES storage (storage_id),
    state_since timestamptz NOT NULL DEFAULT now(),
    state       health_state NOT NULL DEFAULT 'Good'
);

INSERT INTO health (health_id) SELECT storage_id FROM storage;

CREATE TABLE probe (
    storage_id  smallint NOT NULL REFERENCES storage,
    since       timestamptz NOT NULL DEFAULT now(), -- of the first of the last probes that ended alike
    due         timestamptz NOT NULL DEFAULT now(),
    last        timestamptz,
    n_failed    int NOT NULL DEFAULT 0,             -- in a row
    n_succeeded int NOT NULL DEFAULT 0,             -- in a row
    rank        smallint NOT NULL,                  -- 0: its own driver and root; the others are in storage_protocol
    answers     boolean NOT NULL DEFAULT true,      -- whether it is used; if not, the next one is
    error       text NOT NULL DEFAULT '',
    PRIMARY KEY (storage_id, rank)
) WITH (fillfactor = 20);

CREATE TABLE work_failure (
    at         timestamptz NOT NULL DEFAULT now(),
    storage_id smallint NOT NULL,
    error      text NOT NULL
);
CREATE INDEX work_failure_storage ON work_failure (storage_id, at);

CREATE VIEW storage_now AS
SELECT s.storage_id, s.site_id,
       coalesce(w.read, s.can_read) AS may_read,
       coalesce(w.write, s.can_write) AS may_write,
       coalesce(w.del, s.can_delete) AS may_delete,
       coalesce(w.drain, s.draining) AS draining,
       coalesce(h.state, 'Good') AS health,
       s.enabled AND coalesce(w.read, s.can_read) AND h.state IS DISTINCT FROM 'Banned' AS readable,
       s.enabled AND coalesce(w.write, s.can_write) AND NOT coalesce(w.drain, s.draining)
             AND h.state IS DISTINCT FROM 'Banned' AS writable,
       s.enabled AND coalesce(w.del, s.can_delete) AND h.state IS DISTINCT FROM 'Banned' AS deletable
  FROM storage s
  LEFT JOIN health h ON h.health_id = s.storage_id
 CROSS JOIN LATERAL (
       SELECT bool_and(is_on) FILTER (WHERE operation = 'read') AS read,
              bool_and(is_on) FILTER (WHERE operation = 'write') AS write,
              bool_and(is_on) FILTER (WHERE operation = 'delete') AS del,
              bool_and(is_on) FILTER (WHERE operation = 'drain') AS drain
         FROM storage_switch WHERE storage_switch.storage_id = s.storage_id) w;

CREATE TABLE storage_queue (
    storage_id smallint PRIMARY KEY REFERENCES storage,
    n_files    bigint NOT NULL,
    n_bytes    bigint NOT NULL
) WITH (fillfactor = 20);

INSERT INTO storage_queue (storage_id, n_files, n_bytes)
SELECT target_id, count(*), sum(size)
  FROM transfer JOIN file USING (file_id) WHERE state IN ('Waiting', 'Running') GROUP BY target_id;

CREATE TRIGGER guard AFTER UPDATE ON health REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_move('health_id');

CREATE FUNCTION count_queued() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM add_to_queue(array_agg(file_id), array_agg(target_id), 1)
           FROM new_rows WHERE state IN ('Waiting', 'Running');
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM add_to_queue(array_agg(file_id), array_agg(target_id), -1)
           FROM old_rows WHERE state IN ('Waiting', 'Running');
    ELSE
        PERFORM add_to_queue(array_agg(n.file_id), array_agg(n.target_id),
                             CASE WHEN n.state IN ('Waiting', 'Running') THEN 1 ELSE -1 END)
           FROM old_rows o JOIN new_rows n USING (transfer_id)
          WHERE (o.state IN ('Waiting', 'Running')) <> (n.state IN ('Waiting', 'Running'))
          GROUP BY n.state IN ('Waiting', 'Running');
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION add_to_queue(files bigint[], targets smallint[], sign int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO storage_queue AS q (storage_id, n_files, n_bytes)
    SELECT target_id, sign * count(*), sign * sum(size)
      FROM unnest(files, targets) AS t (file_id, target_id)
      JOIN file USING (file_id)
     GROUP BY target_id ORDER BY target_id
    ON CONFLICT (storage_id) DO UPDATE
       SET n_files = q.n_files + excluded.n_files, n_bytes = q.n_bytes + excluded.n_bytes
$$;
CREATE TRIGGER queued_new AFTER INSERT ON transfer REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_queued();
CREATE TRIGGER queued_moved AFTER UPDATE ON transfer REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_queued();
CREATE TRIGGER queued_gone AFTER DELETE ON transfer REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_queued();
