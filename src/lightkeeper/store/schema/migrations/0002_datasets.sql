-- Datasets; files that are superseded, corrupted or removed; copies that were reported and not read yet.
CREATE TYPE file_state AS ENUM ('Current', 'Superseded', 'Corrupted', 'Removed');
ALTER TABLE meta_set ADD COLUMN state file_state NOT NULL DEFAULT 'Current';
ALTER TABLE meta_set DROP CONSTRAINT meta_set_hash_key;
ALTER TABLE meta_set ADD UNIQUE (hash, state);

CREATE TABLE supersession (
    file_id bigint PRIMARY KEY,
    by_id   bigint NOT NULL
);
CREATE INDEX supersession_by ON supersession (by_id);

CREATE INDEX replica_unread ON replica (storage_id, file_id) WHERE verified_at < written_at;

CREATE TABLE dataset (
    dataset_id  int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created     timestamptz NOT NULL DEFAULT now(),
    changed     timestamptz NOT NULL DEFAULT now(),
    frozen      timestamptz,
    name        text COLLATE "C" NOT NULL UNIQUE,
    description text NOT NULL DEFAULT '',
    query       jsonb NOT NULL,
    set_query   jsonpath,                          -- compiled, on set-level keys; NULL: other conditions decide too
    file_query  jsonpath,                          -- compiled, on file-level keys; NULL: every file of the set
    digest      bytea                              -- when frozen: sha256 of its names, sorted, one on each line
);

CREATE TABLE dataset_set (
    set_id     bigint NOT NULL,
    dataset_id int NOT NULL REFERENCES dataset ON DELETE CASCADE,
    PRIMARY KEY (set_id, dataset_id)
);
CREATE INDEX dataset_set_dataset ON dataset_set (dataset_id);

CREATE TABLE dataset_file (
    file_id    bigint NOT NULL,
    dataset_id int NOT NULL,
    PRIMARY KEY (dataset_id, file_id)
);
CREATE INDEX dataset_file_file ON dataset_file (file_id);

CREATE TABLE dataset_count (
    dataset_id int PRIMARY KEY REFERENCES dataset ON DELETE CASCADE,
    n_files    bigint NOT NULL,
    n_bytes    bigint NOT NULL
) WITH (fillfactor = 20);

ALTER TABLE intent ADD COLUMN removal boolean NOT NULL DEFAULT false;
ALTER TABLE transformation ADD COLUMN dataset_id int REFERENCES dataset;

CREATE FUNCTION refuse_file_move() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong record;
BEGIN
    SELECT o.file_id, a.state AS source, b.state AS target INTO wrong
      FROM old_rows o
      JOIN new_rows n USING (file_id)
      JOIN meta_set a ON a.set_id = o.set_id
      JOIN meta_set b ON b.set_id = n.set_id
     WHERE a.state <> b.state
       AND NOT EXISTS (SELECT FROM state_move m
                        WHERE m.kind = 'file' AND m.source = a.state::text AND m.target = b.state::text)
     LIMIT 1;
    IF wrong.source IS NOT NULL THEN
        RAISE EXCEPTION 'file % may not move from % to %', wrong.file_id, wrong.source, wrong.target
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER guard AFTER UPDATE ON file REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_file_move();
