-- Storages on tape: copies that are not on tape yet, and copies that are brought online.
ALTER TYPE replica_state ADD VALUE 'Buffered';
CREATE TYPE recall_state AS ENUM ('Waiting', 'Asked', 'Online', 'Releasing', 'Failed');

-- Storages whose files must be staged, brought from tape to a disk buffer, before they can be read. One worker at a
-- time speaks with each: a lease, with an epoch that fences late writers.
CREATE TABLE tape_storage (
    storage_id  smallint PRIMARY KEY REFERENCES storage,
    buffer      bigint CHECK (buffer > 0),          -- bytes that may be asked for at once; NULL: as many as are wanted
    not_before  timestamptz NOT NULL DEFAULT now(), -- it did not answer: nothing is asked before then
    swept       timestamptz NOT NULL DEFAULT '-infinity', -- when was looked last for what nobody needs any more
    lease_until timestamptz,
    epoch       int NOT NULL DEFAULT 0,
    trouble     text NOT NULL DEFAULT ''            -- why nothing can be asked now
);

-- A copy on tape that somebody wants to read. The row is there for as long as somebody does: see recall_need.
CREATE TABLE recall (
    recall_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    file_id      bigint NOT NULL,
    size         bigint NOT NULL,                   -- of the file: what it takes of the buffer
    created      timestamptz NOT NULL DEFAULT now(),
    state_since  timestamptz NOT NULL DEFAULT now(),
    not_before   timestamptz NOT NULL DEFAULT now(),
    pinned_until timestamptz,                       -- it stays in the buffer until then, at least; set when Online
    request_id   bigint,                            -- the last request for it
    pinned_by    bigint,                            -- the request that pinned it until then
    together     bigint NOT NULL DEFAULT 0,         -- the task that needs it with others; 0: it is needed by itself
    hour         int NOT NULL DEFAULT extract(epoch FROM now()) / 3600, -- what was wanted earlier goes first, by hours
    storage_id   smallint NOT NULL,
    priority     smallint NOT NULL DEFAULT 5,
    attempts     smallint NOT NULL DEFAULT 0,
    state        recall_state NOT NULL DEFAULT 'Waiting',
    error        text,
    UNIQUE (file_id, storage_id)
) WITH (fillfactor = 80);
CREATE INDEX recall_queue ON recall (storage_id, priority, hour, together, file_id) WHERE state = 'Waiting';
CREATE INDEX recall_held ON recall (storage_id, state, pinned_until) WHERE state IN ('Asked', 'Online', 'Releasing');
CREATE INDEX recall_request ON recall (request_id);

-- One question to a tape storage, for many files. Without a handle it was not asked, or nobody knows whether it was:
-- it is asked again. What the storage knows of twice is dropped by itself when its time is over.
CREATE TABLE stage_request (
    request_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created    timestamptz NOT NULL DEFAULT now(),
    asked      timestamptz,                         -- when the storage took it
    looked     timestamptz,                         -- when it told last how far it is; pins are counted from there
    not_before timestamptz NOT NULL DEFAULT now(),  -- it is not asked again before then
    closed     timestamptz,                         -- nobody wants anything of it any more
    storage_id smallint NOT NULL,
    attempts   smallint NOT NULL DEFAULT 0,
    handle     text                                 -- the storage's own id
);
CREATE INDEX stage_request_open ON stage_request (storage_id, not_before) WHERE closed IS NULL;

-- Files that somebody asked to have online, or copied to another storage.
CREATE TABLE stage_order (
    order_id  int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created   timestamptz NOT NULL DEFAULT now(),
    expires   timestamptz NOT NULL,                 -- nothing is kept for it from then on
    ended     timestamptz,                          -- it expired or was cancelled
    n_files   bigint NOT NULL DEFAULT 0,
    n_bytes   bigint NOT NULL DEFAULT 0,
    target_id smallint REFERENCES storage,          -- the files are copied there; NULL: they are kept online
    priority  smallint NOT NULL DEFAULT 5,
    what      text NOT NULL                         -- as it was asked for
);
CREATE TABLE stage_order_file (
    file_id  bigint NOT NULL,
    order_id int NOT NULL,
    PRIMARY KEY (order_id, file_id)
);
CREATE INDEX stage_order_file_file ON stage_order_file (file_id);

-- Copies that can be read at once.
CREATE VIEW online_copy AS
SELECT r.file_id, r.storage_id
  FROM replica r
 WHERE r.state = 'Available'
   AND (NOT EXISTS (SELECT FROM tape_storage t WHERE t.storage_id = r.storage_id)
        OR EXISTS (SELECT FROM recall c
                    WHERE c.file_id = r.file_id AND c.storage_id = r.storage_id AND c.state = 'Online'));

-- Recalls that somebody still waits for, or reads: an order, a transfer, a task, the audit.
CREATE VIEW recall_need AS
SELECT c.recall_id
  FROM recall c
 WHERE EXISTS (SELECT FROM stage_order_file o JOIN stage_order s USING (order_id)
                WHERE o.file_id = c.file_id AND s.ended IS NULL AND s.target_id IS NULL)
    OR EXISTS (SELECT FROM transfer t
                WHERE t.file_id = c.file_id AND t.state IN ('Waiting', 'Running') AND t.target_id <> c.storage_id)
    OR EXISTS (SELECT FROM task_input i
                 JOIN task USING (task_id)
                 JOIN transformation t ON t.transformation_id = i.transformation_id
                WHERE i.file_id = c.file_id AND task.state IN ('Ready', 'Running') AND t.state IN ('Active', 'Flush'))
    OR EXISTS (SELECT FROM recheck k WHERE k.file_id = c.file_id AND k.storage_id = c.storage_id)
    OR EXISTS (SELECT FROM replica r
                WHERE r.file_id = c.file_id AND r.storage_id = c.storage_id AND r.state = 'Suspect');

CREATE TRIGGER guard AFTER UPDATE ON recall REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_move('recall_id');
