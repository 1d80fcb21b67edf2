-- Manifests beside the data, and times of recovery during which nothing is deleted.
-- Copies whose line in a manifest of their storage is due, because they came, went or changed: one row for each change.
-- What is written is how they are when the line is written. Filled by note_copies() and note_files().
CREATE TABLE manifest_due (
    due_id     bigint GENERATED ALWAYS AS IDENTITY (CACHE 1000),
    file_id    bigint NOT NULL,
    since      timestamptz NOT NULL DEFAULT now(),
    dir_id     int,                                 -- with `name`: of a copy that went, whose file may be gone too
    storage_id smallint NOT NULL,
    name       text COLLATE "C",
    PRIMARY KEY (storage_id, due_id)
);

-- The manifests on each storage: files below /.lightkeeper/manifests from which its rows here can be made again.
CREATE TABLE manifest (
    storage_id  smallint NOT NULL REFERENCES storage,
    stamp       timestamptz NOT NULL,               -- when its lines were read here; manifests are believed in this order
    written     timestamptz,                        -- it lies there; NULL: being written, or its writer died
    lease_until timestamptz,                        -- while it is written: nobody else writes one till then
    n_copies    int NOT NULL DEFAULT 0,
    n_gone      int NOT NULL DEFAULT 0,
    n_bytes     bigint NOT NULL DEFAULT 0,
    sha256      bytea,                              -- of its bytes; its name has it too
    PRIMARY KEY (storage_id, stamp)
);

-- Reads of copies that failed, whoever read: jobs, people, transfers, the scrub. They leave when the copy was read again
-- and is in order, and after thirty days.
CREATE TABLE read_failure (
    at         timestamptz NOT NULL DEFAULT now(),
    file_id    bigint NOT NULL,
    storage_id smallint NOT NULL,
    reader     text NOT NULL,                       -- 'job 12', 'transfer 3', 'get', 'scrub'
    why        text NOT NULL
);
CREATE INDEX read_failure_copy ON read_failure (storage_id, file_id);
CREATE INDEX read_failure_time ON read_failure (storage_id, at);

-- Times during which the catalogue was behind its storages, after a backup was restored: nothing is deleted then.
CREATE TABLE recovery (
    recovery_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    began       timestamptz NOT NULL DEFAULT now(),
    ended       timestamptz,                        -- NULL: under way
    why         text NOT NULL,                      -- it began
    end_why     text NOT NULL DEFAULT ''            -- it ended although something was left to do
);
CREATE UNIQUE INDEX recovery_open ON recovery ((true)) WHERE ended IS NULL;

-- What a manifest has to tell is noted once per statement, whatever its size: copies that come, go, are lost or found…
CREATE FUNCTION note_copies() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO manifest_due (storage_id, file_id) SELECT storage_id, file_id FROM new_rows;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO manifest_due (storage_id, file_id, dir_id, name)
        SELECT o.storage_id, o.file_id, f.dir_id, f.name FROM old_rows o JOIN file f USING (file_id);
    ELSE
        -- Planned each time: a plan that was made for one row takes for ever over a million.
        EXECUTE 'INSERT INTO manifest_due (storage_id, file_id)
                 SELECT n.storage_id, n.file_id
                   FROM new_rows n JOIN old_rows o USING (file_id, storage_id)
                  WHERE (n.state = ''Lost'') <> (o.state = ''Lost'')';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER manifest_added AFTER INSERT ON replica REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_copies();
CREATE TRIGGER manifest_removed AFTER DELETE ON replica REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_copies();
CREATE TRIGGER manifest_changed AFTER UPDATE ON replica REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_copies();

-- … and, for every copy, that the metadata or the state of its file changed.
CREATE FUNCTION note_files() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'INSERT INTO manifest_due (storage_id, file_id)
             SELECT r.storage_id, r.file_id
               FROM new_rows n JOIN old_rows o USING (file_id) JOIN replica r USING (file_id)
              WHERE (n.set_id, n.extra) IS DISTINCT FROM (o.set_id, o.extra)';
    RETURN NULL;
END $$;
CREATE TRIGGER manifest_changed AFTER UPDATE ON file REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION note_files();

-- Copies that are there already are told of too.
INSERT INTO manifest_due (storage_id, file_id)
SELECT storage_id, file_id FROM replica WHERE state <> 'Lost' ORDER BY storage_id, file_id;
