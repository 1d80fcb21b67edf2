-- Deletions with limits and approvals, in turns for each storage; operations on many files; files that expire.
CREATE TYPE operation_state AS ENUM ('Active', 'Done', 'Cancelled');
ALTER TABLE policy ADD COLUMN promised timestamptz NOT NULL DEFAULT now();
ALTER TABLE policy ADD COLUMN remove_after interval;
ALTER TABLE intent ADD COLUMN not_before timestamptz NOT NULL DEFAULT now();
ALTER TABLE intent ADD COLUMN operation_id int;
ALTER TABLE intent ADD COLUMN promised boolean NOT NULL DEFAULT false;
ALTER TABLE intent ADD COLUMN cleared_by text[];
DROP INDEX intent_queue;
CREATE INDEX intent_queue ON intent (storage_id, promised, (cleared_by IS NOT NULL), intent_id) WHERE state = 'Approved';
CREATE INDEX intent_operation ON intent (operation_id, file_id) WHERE operation_id IS NOT NULL;
UPDATE intent SET promised = NOT removal WHERE state = 'Approved';

-- How deletions go on each storage; without a row they go on as the settings say.
CREATE TABLE storage_deletion (
    storage_id smallint PRIMARY KEY REFERENCES storage,
    per_hour   int CHECK (per_hour >= 0),           -- from the topology; NULL: the settings
    paused     text,                                -- who paused them, and why; NULL: they go on
    stopped    timestamptz,                         -- since when the hour's number is used up and more wait for two people
    not_before timestamptz NOT NULL DEFAULT now(),  -- the storage did not answer: until then it is left alone
    trouble    text NOT NULL DEFAULT ''
);

-- Deletions that began in each minute of the last hour or so.
CREATE TABLE deletion_minute (
    storage_id smallint NOT NULL REFERENCES storage,
    minute     timestamptz NOT NULL,
    promised   boolean NOT NULL,
    n_files    int NOT NULL,
    PRIMARY KEY (storage_id, minute, promised)
) WITH (fillfactor = 50);

-- Who approved more deletions on a storage than an hour's number: those up to an intent, as he saw them.
CREATE TABLE deletion_approval (
    approval_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    up_to       bigint NOT NULL,                    -- the last intent that was there
    n_files     int NOT NULL,                       -- so many waited
    storage_id  smallint NOT NULL REFERENCES storage,
    name        text NOT NULL
);
CREATE INDEX deletion_approval_storage ON deletion_approval (storage_id, approval_id);

-- One change of where the copies of many files lie, tracked until it is done for every one of them.
CREATE TYPE operation_kind AS ENUM ('replicate', 'move', 'delete');
CREATE TABLE operation (
    operation_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created      timestamptz NOT NULL DEFAULT now(),
    state_since  timestamptz NOT NULL DEFAULT now(),
    not_before   timestamptz NOT NULL DEFAULT now(), -- then it is looked after again
    n_files      bigint NOT NULL DEFAULT 0,
    n_bytes      bigint NOT NULL DEFAULT 0,
    after_id     bigint NOT NULL DEFAULT 0,         -- deletions were asked for of files up to this one
    policy_id    int,                               -- asks for the copies while it is Active
    kind         operation_kind NOT NULL,
    state        operation_state NOT NULL DEFAULT 'Active',
    copies       smallint NOT NULL,                 -- wanted at `target`
    name         text NOT NULL UNIQUE,
    files        text NOT NULL,                     -- what was asked for, in words
    target       text NOT NULL DEFAULT '',          -- storage expression: where copies are made
    source       text NOT NULL DEFAULT '',          -- storage expression: where copies are deleted
    actor        text NOT NULL
);
CREATE INDEX operation_active ON operation (not_before) WHERE state = 'Active';

-- The files of an operation, fixed when it begins.
CREATE TABLE operation_file (
    file_id      bigint NOT NULL,
    operation_id int NOT NULL,
    given_up     text,                              -- why a person took it out: nothing more is done for it
    PRIMARY KEY (operation_id, file_id)
);


-- Where an operation stands with its files after one: see domain/operations.py, Facts. `targets` and `sources` are what
-- its expressions mean, `copies` are wanted at the target, transfers that failed before `since` say nothing.
CREATE FUNCTION operation_facts(operation int, after bigint, copies int, targets int[], sources int[],
                                since timestamptz)
    RETURNS TABLE (file_id bigint, size bigint, taken_out boolean, removed boolean, readable boolean, hope boolean,
                   copies_there boolean, bad_copy boolean, source_left boolean, transfer text, damaged boolean,
                   old boolean)
    LANGUAGE sql STABLE AS $$
        SELECT m.file_id, f.size, m.given_up IS NOT NULL, s.state = 'Removed', r.readable, r.hope,
               r.centres >= copies, r.bad_copy, r.source_left, t.state::text, coalesce(t.damaged, false),
               coalesce(t.old, false)
          FROM operation_file m
          JOIN file f USING (file_id)
          JOIN meta_set s USING (set_id)
         CROSS JOIN LATERAL (
               SELECT coalesce(bool_or(r.state = 'Available'), false) AS readable,
                      coalesce(bool_or(r.state IN ('Available', 'Suspect')), false) AS hope,
                      count(DISTINCT p.site_id) FILTER (WHERE r.state = 'Available' AND r.verified_at >= r.written_at
                                                          AND r.storage_id = ANY(targets)) AS centres,
                      coalesce(bool_or(r.state IN ('Suspect', 'Lost') AND r.storage_id = ANY(targets)), false)
                      AS bad_copy,
                      coalesce(bool_or(r.storage_id = ANY(sources)), false) AS source_left
                 FROM replica r JOIN storage p USING (storage_id)
                WHERE r.file_id = m.file_id) r
          LEFT JOIN LATERAL (
               SELECT x.state, coalesce(x.error LIKE '%sha256%', false) AS damaged,
                      x.state IN ('Waiting', 'Running') AND x.state_since < now() - interval '1 hour' AS old
                 FROM transfer x
                WHERE x.file_id = m.file_id AND x.target_id = ANY(targets) AND x.state <> 'Done'
                  AND (x.state <> 'Failed' OR x.state_since >= since AND x.attempts > 0)
                ORDER BY x.state = 'Failed', x.transfer_id DESC
                LIMIT 1) t ON true
         WHERE m.operation_id = operation AND m.file_id > after
    $$;

CREATE TRIGGER guard AFTER UPDATE ON operation REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_move('operation_id');
