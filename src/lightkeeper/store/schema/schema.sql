-- The whole database, to be read. A new database is made from this file; an older one comes here by migrations/.
-- PostgreSQL 15 or newer, no extension. Times are timestamptz; every state is one of domain/states.py and is
-- changed only by store/transitions.py; the trigger refuse_move() at the end refuses everything else.
--
-- Bulk tables (file, replica, file_policy, pending_input, task_input, used) have no foreign keys: one trigger call a row would
-- halve the rate of registration. `lightkeeper fsck` checks those references instead.

-- ============================================================================================ states
CREATE TYPE file_state           AS ENUM ('Current', 'Superseded', 'Corrupted', 'Removed');
CREATE TYPE trigger_state        AS ENUM ('Accepted', 'Registered', 'Quarantined', 'Discarded');
CREATE TYPE replica_state        AS ENUM ('Available', 'Suspect', 'Lost', 'Deleting', 'Buffered');
CREATE TYPE transfer_state       AS ENUM ('Waiting', 'Running', 'Done', 'Failed');
CREATE TYPE intent_state         AS ENUM ('Approved', 'Done', 'Void');
CREATE TYPE operation_state      AS ENUM ('Active', 'Done', 'Cancelled');
CREATE TYPE production_state     AS ENUM ('New', 'Active', 'Stopped', 'Completed');
CREATE TYPE transformation_state AS ENUM ('New', 'Active', 'Flush', 'Stopped', 'Completed', 'Archived', 'Cleaning',
                                          'Cleaned', 'Deleted');
CREATE TYPE task_state           AS ENUM ('Ready', 'Running', 'Done', 'Failed', 'Cancelled');
CREATE TYPE job_state            AS ENUM ('Waiting', 'Running', 'Completing', 'Done', 'Failed', 'Killed');
CREATE TYPE pilot_state          AS ENUM ('Submitted', 'Running', 'Ended', 'Lost');
CREATE TYPE health_state         AS ENUM ('Good', 'Degraded', 'Banned');
CREATE TYPE night_state          AS ENUM ('Open', 'Closed');
CREATE TYPE recall_state         AS ENUM ('Waiting', 'Asked', 'Online', 'Releasing', 'Failed');

-- Every allowed move, loaded from domain/states.py whenever a program starts on this database.
CREATE TABLE state_move (
    kind   text NOT NULL,                          -- name of the table
    source text NOT NULL,
    target text NOT NULL,
    maker  text NOT NULL,                          -- who makes it, in words
    PRIMARY KEY (kind, source, target)
);

-- One line per move. `part` is the storage for replicas, which have two-part keys.
CREATE TABLE history (
    at     timestamptz NOT NULL DEFAULT now(),
    id     bigint NOT NULL,
    part   smallint NOT NULL DEFAULT 0,
    kind   text NOT NULL,
    source text NOT NULL,
    target text NOT NULL,
    why    text NOT NULL DEFAULT ''
);
CREATE INDEX history_subject ON history (kind, id, part, at);

-- What was remedied without a person: the list of `healed` in reports.
CREATE TABLE remedy (
    remedy_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    kind      text NOT NULL,
    id        bigint NOT NULL,
    what      text NOT NULL,                       -- what was done, in words
    why       text NOT NULL,                       -- what was wrong, in words
    told      boolean NOT NULL DEFAULT false       -- it stands in a message to people; only for work
);
CREATE INDEX remedy_subject ON remedy (kind, id);
CREATE INDEX remedy_untold ON remedy (remedy_id) WHERE NOT told AND kind IN ('transformation', 'task');

-- ============================================================================================ topology
CREATE TYPE site_kind AS ENUM ('observatory', 'data centre');
CREATE TYPE media     AS ENUM ('disk', 'tape');

CREATE TABLE site (
    site_id   smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name      text NOT NULL UNIQUE,
    kind      site_kind NOT NULL,
    country   text NOT NULL DEFAULT '',
    latitude  double precision,                    -- degrees, north positive
    longitude double precision,                    -- degrees, east positive
    executor  text,                                -- plug-in that starts pilots; NULL: no computing here
    pilots    smallint NOT NULL DEFAULT 0,         -- at most so many at once
    processors smallint NOT NULL DEFAULT 1 CHECK (processors > 0), -- of each pilot
    memory_mb int CHECK (memory_mb > 0),           -- of each pilot; NULL: as much as any job wants
    tags      text[] NOT NULL DEFAULT '{}'         -- what jobs may ask for besides: 'gpu', 'container'
);

-- A storage element, as the topology document says. What holds now is in storage_now.
CREATE TABLE storage (
    storage_id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site_id    smallint NOT NULL REFERENCES site,
    quota      bigint CHECK (quota > 0),           -- bytes that may be kept here; NULL: as many as there is room for
    retired    timestamptz,                        -- decommissioned then: it is never used again
    media      media NOT NULL DEFAULT 'disk',
    enabled    boolean NOT NULL DEFAULT true,      -- false: it is given up, its copies do not count
    can_read   boolean NOT NULL DEFAULT true,
    can_write  boolean NOT NULL DEFAULT true,
    can_delete boolean NOT NULL DEFAULT true,
    draining   boolean NOT NULL DEFAULT false,     -- its copies are made elsewhere, and then deleted here
    ingest     boolean NOT NULL DEFAULT false,     -- the array control delivers here
    name       text NOT NULL UNIQUE,
    driver     text NOT NULL,
    max_transfers smallint NOT NULL DEFAULT 8 CHECK (max_transfers > 0), -- streams from and to it at once
    max_rate   bigint CHECK (max_rate > 0),        -- bytes per second from and to it; NULL: unlimited
    root       text NOT NULL,                      -- a replica lies at root || directory.path || '/' || file.name
    attributes jsonb NOT NULL DEFAULT '{}'         -- {key: text} for storage expressions, besides site, country, media
);

-- Further ways to speak to a storage, in the order in which they are tried after its own driver and root.
CREATE TABLE storage_protocol (
    storage_id smallint NOT NULL REFERENCES storage,
    rank       smallint NOT NULL CHECK (rank > 0), -- 0 is the storage's own
    driver     text NOT NULL,
    root       text NOT NULL,
    PRIMARY KEY (storage_id, rank)
);

-- What an operator switched by hand. It goes before what the document says, until he takes it back or the document
-- says the same.
CREATE TABLE storage_switch (
    storage_id smallint NOT NULL REFERENCES storage,
    since      timestamptz NOT NULL DEFAULT now(),
    operation  text NOT NULL CHECK (operation IN ('read', 'write', 'delete', 'drain')),
    is_on      boolean NOT NULL,
    why        text NOT NULL,
    PRIMARY KEY (storage_id, operation)
);

-- How a storage is found to be by probes and by the work on it. Never written by hand; its history tells why.
CREATE TABLE health (
    health_id   smallint PRIMARY KEY REFERENCES storage (storage_id),
    state_since timestamptz NOT NULL DEFAULT now(),
    state       health_state NOT NULL DEFAULT 'Good'
);

-- What is known of each way to speak to a storage: how its last probes ended, and when the next one is due.
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

-- Work that met no answer, for as long as decisions look back.
CREATE TABLE work_failure (
    at         timestamptz NOT NULL DEFAULT now(),
    storage_id smallint NOT NULL,
    error      text NOT NULL
);
CREATE INDEX work_failure_storage ON work_failure (storage_id, at);

-- What may be done with each storage now: topology, switches and health taken together.
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

-- The way from one site to another; sites without a link between them use the defaults.
CREATE TABLE link (
    source_id     smallint NOT NULL REFERENCES site,
    target_id     smallint NOT NULL REFERENCES site,
    max_transfers smallint NOT NULL DEFAULT 4 CHECK (max_transfers > 0),
    max_rate      bigint CHECK (max_rate > 0),     -- bytes per second; NULL: unlimited
    PRIMARY KEY (source_id, target_id)
);

-- What transfers are made for, and its share of what links carry when there is more than they can.
CREATE TABLE activity_share (
    activity text PRIMARY KEY,
    share    real NOT NULL DEFAULT 1 CHECK (share > 0)
);
INSERT INTO activity_share (activity) VALUES ('preservation');

-- The moment when all that was asked for has gone, for each link and storage with a rate.
CREATE UNLOGGED TABLE meter (
    name    text PRIMARY KEY,
    free_at timestamptz NOT NULL
) WITH (fillfactor = 20);

-- What went from storage to storage in each hour, for accounting; counted as copies arrive and fail.
CREATE TABLE transfer_log (
    hour        timestamptz NOT NULL,
    n_transfers bigint NOT NULL DEFAULT 0,
    n_bytes     bigint NOT NULL DEFAULT 0,
    n_failed    bigint NOT NULL DEFAULT 0,         -- attempts
    seconds     double precision NOT NULL DEFAULT 0,   -- that streams took, summed up
    source_id   smallint NOT NULL,
    target_id   smallint NOT NULL,
    activity    text NOT NULL,
    PRIMARY KEY (hour, source_id, target_id, activity)
) WITH (fillfactor = 50);

-- ============================================================================================ catalogue
-- Who owns a part of the namespace: 'acada', 'simulation', 'user.maria'.
CREATE TABLE scope (
    scope_id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name     text NOT NULL UNIQUE
);

-- An LFN is directory path + file name: the 60-100 characters of path are stored once per directory.
CREATE TABLE directory (
    dir_id   int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scope_id smallint NOT NULL REFERENCES scope,
    path     text COLLATE "C" NOT NULL UNIQUE
);

-- The vocabulary. level 'set': same value for all files of a set; level 'file': differs from file to file.
CREATE TYPE key_type  AS ENUM ('string', 'int', 'float', 'bool', 'time', 'json');
CREATE TYPE key_level AS ENUM ('set', 'file');
CREATE TABLE meta_key (
    name        text PRIMARY KEY,
    type        key_type NOT NULL,
    level       key_level NOT NULL DEFAULT 'set',
    unit        text NOT NULL DEFAULT '',
    description text NOT NULL DEFAULT ''
);

-- One row per distinct combination of set-level values and state of its files; files point to it. Queries run over
-- these rows, so that files which are not Current cost them nothing. A file changes state by changing its set.
CREATE TABLE meta_set (
    set_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created timestamptz NOT NULL DEFAULT now(),
    hash    uuid NOT NULL,                         -- md5 of meta::text (jsonb text is canonical)
    state   file_state NOT NULL DEFAULT 'Current',
    meta    jsonb NOT NULL,
    UNIQUE (hash, state)
);
CREATE INDEX meta_set_meta ON meta_set USING gin (meta jsonb_path_ops);

-- Counts are read from here, never by scanning files. Apart from meta_set, so that updates stay HOT.
CREATE TABLE set_count (
    set_id  bigint PRIMARY KEY REFERENCES meta_set,
    n_files bigint NOT NULL,
    n_bytes bigint NOT NULL
) WITH (fillfactor = 50);

-- One immutable content (I6). Wide columns first: no padding.
CREATE SEQUENCE file_id_seq CACHE 1000;
CREATE TABLE file (
    file_id     bigint NOT NULL DEFAULT nextval('file_id_seq') PRIMARY KEY,
    set_id      bigint NOT NULL,
    activity_id bigint NOT NULL,                   -- the one activity that generated or registered it (I7)
    size        bigint NOT NULL CHECK (size >= 0),
    created     timestamptz NOT NULL DEFAULT now(),
    dir_id      int NOT NULL,
    adler32     int NOT NULL,                      -- 32 bits as they are; to_hex() to print
    name        text COLLATE "C" NOT NULL,
    sha256      bytea NOT NULL CHECK (octet_length(sha256) = 32),
    extra       jsonb                              -- values of file-level keys
);
CREATE UNIQUE INDEX file_lfn ON file (dir_id, name);
CREATE UNIQUE INDEX file_set ON file (set_id, file_id);
CREATE INDEX file_activity ON file (activity_id);

-- The file that took the place of another.
CREATE TABLE supersession (
    file_id bigint PRIMARY KEY,
    by_id   bigint NOT NULL                        -- the newer one
);
CREATE INDEX supersession_by ON supersession (by_id);

-- One copy on one storage, as observed. verified_at is the moment when its bytes were last read there and had the
-- file's size and sha256. For a copy that a list reported it is 1970 until it is read; it counts for nothing till then.
CREATE TABLE replica (
    file_id     bigint NOT NULL,
    written_at  timestamptz NOT NULL DEFAULT now(),
    verified_at timestamptz NOT NULL DEFAULT now(),
    state_since timestamptz NOT NULL DEFAULT now(),
    storage_id  smallint NOT NULL,
    state       replica_state NOT NULL DEFAULT 'Available',
    PRIMARY KEY (file_id, storage_id)
) WITH (fillfactor = 90);
CREATE INDEX replica_odd ON replica (storage_id, state, file_id) WHERE state <> 'Available';
CREATE INDEX replica_unread ON replica (storage_id, file_id) WHERE verified_at < written_at;

-- Copies to be read again soon, because a decision waits for it. Suspect ones are, without being here.
CREATE TABLE recheck (
    file_id    bigint NOT NULL,
    storage_id smallint NOT NULL,
    PRIMARY KEY (file_id, storage_id)
);

-- The copies that count for preservation (RELIABILITY: ok(r)) with the data centre that holds them.
CREATE VIEW verified_copy AS
SELECT r.file_id, r.storage_id, s.site_id, r.verified_at
  FROM replica r
  JOIN storage s USING (storage_id)
  JOIN site USING (site_id)
 WHERE r.state = 'Available'
   AND r.verified_at >= r.written_at
   AND s.enabled
   AND site.kind = 'data centre';

-- What each storage holds, counted as replicas come and go.
CREATE TABLE storage_count (
    storage_id smallint PRIMARY KEY REFERENCES storage,
    n_files    bigint NOT NULL,
    n_bytes    bigint NOT NULL
) WITH (fillfactor = 20);

-- A named query. Frozen: the files that it meant at that moment, for ever.
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

-- Which metadata sets a dynamic dataset takes: what transformation_set is to transformations.
CREATE TABLE dataset_set (
    set_id     bigint NOT NULL,
    dataset_id int NOT NULL REFERENCES dataset ON DELETE CASCADE,
    PRIMARY KEY (set_id, dataset_id)
);
CREATE INDEX dataset_set_dataset ON dataset_set (dataset_id);

-- The files of frozen datasets.
CREATE TABLE dataset_file (
    file_id    bigint NOT NULL,
    dataset_id int NOT NULL,
    PRIMARY KEY (dataset_id, file_id)
);
CREATE INDEX dataset_file_file ON dataset_file (file_id);

-- What each dataset holds, counted as files come and go; of frozen ones and of those that metadata keys alone decide.
CREATE TABLE dataset_count (
    dataset_id int PRIMARY KEY REFERENCES dataset ON DELETE CASCADE,
    n_files    bigint NOT NULL,
    n_bytes    bigint NOT NULL
) WITH (fillfactor = 20);

-- ============================================================================================ ingest
-- One announced delivery. The data file is `path` below the storage's root, the trigger file path || '.trigger'.
-- Accepted rows are the queue: claimed by a lease whose epoch fences late writers.
CREATE TABLE trigger (
    trigger_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    file_id     bigint,                            -- set when Registered
    accepted    timestamptz NOT NULL DEFAULT now(),
    state_since timestamptz NOT NULL DEFAULT now(),
    not_before  timestamptz NOT NULL DEFAULT now(),
    lease_until timestamptz,
    epoch       int NOT NULL DEFAULT 0,
    storage_id  smallint NOT NULL REFERENCES storage,
    state       trigger_state NOT NULL DEFAULT 'Accepted',
    path        text COLLATE "C" NOT NULL,
    reason      text,                              -- why it was quarantined
    quarantine  text,                              -- where the file, its trigger and the reason went
    attempts    smallint NOT NULL DEFAULT 0,       -- processes that ended while they read it
    repeat      boolean NOT NULL DEFAULT false,    -- its file was in the catalogue already
    night       text,                              -- of a refused one, by its path; '' when that does not tell
    released_by text,                              -- who answers for what is wrong with it; NULL: nobody, as usual
    given       jsonb                              -- metadata that he gave, which go before what the file says
);
-- One open delivery per name; the same name may be delivered again later.
CREATE UNIQUE INDEX trigger_open ON trigger (storage_id, path) WHERE state = 'Accepted';
CREATE INDEX trigger_refused ON trigger (night, trigger_id) WHERE state = 'Quarantined';
CREATE INDEX trigger_discarded ON trigger (night, trigger_id)
    WHERE state <> 'Accepted' AND state <> 'Registered' AND state <> 'Quarantined';
CREATE INDEX trigger_queue ON trigger (not_before, trigger_id) WHERE state = 'Accepted';

-- ============================================================================================ policies, transfers, deletion
-- What a class of files is owed, by the topology or by a rule that somebody added: files that a query means, also those
-- that come later, or those that file_policy lists.
CREATE TABLE policy (
    created      timestamptz NOT NULL DEFAULT now(),
    expires      timestamptz,                            -- nothing is owed any more from then on; NULL: for ever
    promised     timestamptz NOT NULL DEFAULT now(),     -- since when it frees and removes what it does: see intent
    remove_after interval,                               -- its files are Removed when they are so old; NULL: never
    deadline     timestamptz,                            -- wanted by then; NULL: whenever
    withdrawn    timestamptz,                            -- nothing is owed since; it is kept for its retention
    quota        bigint CHECK (quota > 0),               -- bytes that its copies may take up; NULL: any
    used         bigint NOT NULL DEFAULT 0,              -- of its quota, as counted and planned since
    counted      timestamptz NOT NULL DEFAULT 'epoch',   -- when that was counted
    policy_id    int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    copies       smallint NOT NULL CHECK (copies > 0),   -- verified copies at distinct data centres
    media        media NOT NULL DEFAULT 'disk',
    free_on_site boolean NOT NULL DEFAULT false,         -- delete the on-site replica once that is fulfilled
    protected    boolean NOT NULL DEFAULT false,         -- its copies are not deleted by any means
    min_age      interval NOT NULL DEFAULT '0',          -- not before the on-site replica is so old
    retention    interval NOT NULL DEFAULT '0',          -- its copies stay so long from when they are made, whatever ends
    priority     smallint NOT NULL DEFAULT 5,            -- of its transfers; small is early
    min_distance real NOT NULL DEFAULT 0,                -- km between any two of the file's copies at data centres
    name         text NOT NULL UNIQUE,
    activity     text NOT NULL DEFAULT 'preservation' REFERENCES activity_share, -- of its transfers
    at           text NOT NULL DEFAULT '',               -- storage expression; empty: any data centre
    source       text NOT NULL DEFAULT '',               -- storage expression: copies are made only from there
    released_by  text[] NOT NULL DEFAULT '{}',           -- who agreed that it is not protected any more
    query        jsonb NOT NULL,                         -- as written; {} for a list
    set_query    jsonpath,                               -- compiled, on set-level keys; NULL: file_policy lists its files
    file_query   jsonpath,                               -- compiled, on file-level keys; NULL: every file of the set
    scopes       text[],                                 -- LIKE patterns: only files in one of them; NULL: in any
    temporary    boolean NOT NULL DEFAULT false          -- its scopes are for temporary products
);

-- Which policies a metadata set falls under: what they ask for adds up. Written once per new set. Where the policy has a
-- file_query or scopes not every file of the set is meant: see file_owed.
CREATE TABLE set_policy (
    set_id    bigint NOT NULL,
    policy_id int NOT NULL REFERENCES policy,
    PRIMARY KEY (set_id, policy_id)
);
CREATE INDEX set_policy_policy ON set_policy (policy_id);

-- The members of policies that are on a list of files and not on a query.
CREATE TABLE file_policy (
    file_id   bigint NOT NULL,
    policy_id int NOT NULL,
    PRIMARY KEY (policy_id, file_id)
);
CREATE INDEX file_policy_file ON file_policy (file_id);

-- Where temporary products lie.
CREATE VIEW temporary_directory AS
SELECT d.dir_id
  FROM directory d
  JOIN scope s USING (scope_id)
  JOIN policy p ON p.temporary AND p.withdrawn IS NULL AND s.name LIKE ANY (p.scopes);

-- Which policies each file falls under. Temporary products only under those that name their scope.
CREATE VIEW file_owed AS
SELECT f.file_id, f.set_id, f.size, m.policy_id
  FROM set_policy m
  JOIN policy p USING (policy_id)
  JOIN file f USING (set_id)
 WHERE (p.file_query IS NULL OR coalesce(f.extra, '{}') @@ p.file_query)
   AND CASE WHEN p.scopes IS NULL
            THEN f.dir_id NOT IN (SELECT dir_id FROM temporary_directory)
            ELSE EXISTS (SELECT FROM directory d JOIN scope s USING (scope_id)
                          WHERE d.dir_id = f.dir_id AND s.name LIKE ANY (p.scopes)) END
 UNION ALL
SELECT f.file_id, f.set_id, f.size, m.policy_id
  FROM file_policy m
  JOIN file f USING (file_id)
  JOIN meta_set s USING (set_id)
 WHERE s.state <> 'Removed';

-- Files whose copies changed since they were last compared with what they are owed. A row leaves when they agree
-- or when the missing transfers and intents were made; it comes back when one of those ends.
CREATE TABLE unsettled (
    file_id    bigint PRIMARY KEY,
    not_before timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0.02);

-- One copy to be made. Claimed by a lease whose epoch fences late writers.
CREATE TABLE transfer (
    transfer_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    file_id     bigint NOT NULL,
    created     timestamptz NOT NULL DEFAULT now(),
    state_since timestamptz NOT NULL DEFAULT now(),
    not_before  timestamptz NOT NULL DEFAULT now(),
    lease_until timestamptz,
    epoch       int NOT NULL DEFAULT 0,
    attempts    smallint NOT NULL DEFAULT 0,
    policy_id   int,
    sources     smallint[],                        -- only from one of these storages; NULL: from any
    source_id   smallint,                          -- chosen when claimed: best of the copies that exist then
    target_id   smallint NOT NULL,
    priority    smallint NOT NULL DEFAULT 5,
    state       transfer_state NOT NULL DEFAULT 'Waiting',
    stream      bigint,                            -- one of those that go together with it, for all of them
    failed      smallint[] NOT NULL DEFAULT '{}',  -- storages that attempts were made from in vain, once each time
    activity    text NOT NULL DEFAULT 'preservation',
    sha256      bytea,                             -- of the bytes read back at the target
    error       text
) WITH (fillfactor = 80);
CREATE INDEX transfer_queue ON transfer (target_id, activity, priority, not_before, transfer_id)
    WHERE state = 'Waiting';
CREATE INDEX transfer_running ON transfer (source_id, target_id) WHERE state = 'Running';
CREATE INDEX transfer_open ON transfer (file_id) WHERE state <> 'Done';
CREATE INDEX transfer_done ON transfer (target_id, state_since) WHERE state = 'Done';
CREATE UNIQUE INDEX transfer_once ON transfer (file_id, target_id) WHERE state IN ('Waiting', 'Running');

-- What transfers that wait or run will bring to each storage, so that none is planned beyond a quota. Counted by a
-- trigger on transfer.
CREATE TABLE storage_queue (
    storage_id smallint PRIMARY KEY REFERENCES storage,
    n_files    bigint NOT NULL,
    n_bytes    bigint NOT NULL
) WITH (fillfactor = 20);

-- An approved deletion of one replica, with the evidence that made it safe (I2, I3). `promised`: a policy said so before
-- the file came. Of the others only so many are carried out in an hour, unless two people approved them.
CREATE TABLE intent (
    intent_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    file_id      bigint NOT NULL,
    created      timestamptz NOT NULL DEFAULT now(),
    state_since  timestamptz NOT NULL DEFAULT now(),
    not_before   timestamptz NOT NULL DEFAULT now(), -- until then it may be undone in peace
    policy_id    int,
    operation_id int,                              -- the operation that it is part of
    storage_id   smallint NOT NULL,
    state        intent_state NOT NULL DEFAULT 'Approved',
    removal      boolean NOT NULL DEFAULT false,   -- the file is Removed: no copy is kept
    promised     boolean NOT NULL DEFAULT false,
    cleared_by   text[],                           -- the two people who approved more than the hour's number
    actor        text NOT NULL,
    why          text NOT NULL,
    evidence     jsonb NOT NULL                    -- {copies: [{storage, site, verified_at}], wanted, the file's sha256}
);
CREATE UNIQUE INDEX intent_once ON intent (file_id, storage_id) WHERE state = 'Approved';
CREATE INDEX intent_queue ON intent (storage_id, promised, (cleared_by IS NOT NULL), intent_id) WHERE state = 'Approved';
CREATE INDEX intent_operation ON intent (operation_id, file_id) WHERE operation_id IS NOT NULL;

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

-- ============================================================================================ audit
-- What the audit knows of each storage. The marker lies on the storage itself, in /.lightkeeper/storage, so that another
-- disk, or the empty folder where one should be mounted, is not taken for it.
CREATE TABLE storage_audit (
    storage_id  smallint PRIMARY KEY REFERENCES storage,
    marker      uuid NOT NULL DEFAULT gen_random_uuid(),
    marked      timestamptz,                        -- when it was written there; NULL: not yet
    every       interval,                           -- a pass begins so often; 0: never; NULL: the setting
    rate        bigint CHECK (rate > 0),            -- bytes per second that a pass may read; NULL: the setting
    began       timestamptz NOT NULL DEFAULT now(), -- the last pass; before the first when the storage was taken up
    not_before  timestamptz NOT NULL DEFAULT now(), -- then all that was read is within the rate
    lease_until timestamptz,                        -- somebody reads here until then
    epoch       int NOT NULL DEFAULT 0,
    trouble     text NOT NULL DEFAULT ''            -- why nothing can be read now
);

-- One reading of every copy on a storage, by file id: at most one is under way, the others are kept as a record.
CREATE TABLE scrub_pass (
    pass_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    storage_id smallint NOT NULL REFERENCES storage,
    began      timestamptz NOT NULL DEFAULT now(),
    ended      timestamptz,                         -- NULL: under way
    after_id   bigint NOT NULL DEFAULT 0,           -- copies of files up to this one were dealt with
    n_passed   bigint NOT NULL DEFAULT 0,           -- copies that were dealt with: read, or verified since it began
    n_read     bigint NOT NULL DEFAULT 0,
    n_bytes    bigint NOT NULL DEFAULT 0,
    n_unread   bigint NOT NULL DEFAULT 0,           -- copies that could not be read then, which says nothing of them
    n_faults   bigint NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX scrub_pass_open ON scrub_pass (storage_id) WHERE ended IS NULL;

-- The last comparison of each storage's listing with the catalogue.
CREATE TABLE comparison (
    storage_id   smallint PRIMARY KEY REFERENCES storage,
    began        timestamptz NOT NULL DEFAULT now(),
    ended        timestamptz,                       -- NULL: never yet; began is when the storage was taken up
    n_listed     bigint NOT NULL DEFAULT 0,
    n_bytes      bigint NOT NULL DEFAULT 0,
    n_young      bigint NOT NULL DEFAULT 0,         -- not in the catalogue, but too young to be called dark
    n_unnamed    bigint NOT NULL DEFAULT 0,         -- their names are no text
    n_dark       bigint NOT NULL DEFAULT 0,
    n_dark_bytes bigint NOT NULL DEFAULT 0,
    n_lost       bigint NOT NULL DEFAULT 0
);

-- Files that lie on a storage and are not in the catalogue, as the last comparison found them.
CREATE TABLE dark_file (
    storage_id smallint NOT NULL REFERENCES storage,
    size       bigint NOT NULL,
    modified   timestamptz NOT NULL,                -- by the storage's clock
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen  timestamptz NOT NULL DEFAULT now(),
    path       text COLLATE "C" NOT NULL,
    PRIMARY KEY (storage_id, path)
);

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

-- ============================================================================================ work
-- A graph of transformations, as one document asked for it.
CREATE TABLE production (
    production_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created       timestamptz NOT NULL DEFAULT now(),
    state_since   timestamptz NOT NULL DEFAULT now(),
    state         production_state NOT NULL DEFAULT 'New',
    name          text NOT NULL UNIQUE,
    campaign      text NOT NULL,
    document      text NOT NULL,                   -- as submitted
    warnings      text[] NOT NULL DEFAULT '{}',
    sandbox       jsonb NOT NULL DEFAULT '{}',     -- {name: text} of the files that lay beside the document
    group_name    text NOT NULL DEFAULT 'observatory' -- of people; has a share of the processors
);

-- Work on every file that matches a query, or on what its parent makes of them.
CREATE TABLE transformation (
    transformation_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    production_id     int NOT NULL REFERENCES production,
    parent_id         int REFERENCES transformation,   -- takes only files that the parent made
    created           timestamptz NOT NULL DEFAULT now(),
    state_since       timestamptz NOT NULL DEFAULT now(),
    group_size        bigint NOT NULL CHECK (group_size > 0), -- what it counts is up to the grouping: files, bytes, ...
    step              smallint NOT NULL,
    flushes           smallint NOT NULL DEFAULT 0,
    max_attempts      smallint NOT NULL DEFAULT 3,
    priority          smallint NOT NULL DEFAULT 5,
    dataset_id        int REFERENCES dataset,          -- takes only files of this frozen dataset
    state             transformation_state NOT NULL DEFAULT 'New',
    open              boolean NOT NULL DEFAULT false,  -- files that are registered later are taken too
    name              text NOT NULL UNIQUE,
    type              text NOT NULL,                   -- DataReprocessing, Merging, ...
    job_type          text NOT NULL,
    group_by          text[] NOT NULL DEFAULT '{}',    -- metadata keys whose values a task never mixes
    query             jsonb NOT NULL,                  -- as planned
    set_query         jsonpath NOT NULL,               -- compiled, on set-level keys
    file_query        jsonpath,                        -- compiled, on file-level keys; NULL: every file of the set
    body              jsonb NOT NULL,                  -- for the job type
    by_lineage        boolean NOT NULL DEFAULT true,   -- false: all that matches, not only what parent or feeders made
    feeders           int[] NOT NULL DEFAULT '{}',     -- several parents: it takes what any of them made
    input_limit       int CHECK (input_limit > 0),     -- only the first so many files, by their names; NULL: all
    grouping          text NOT NULL DEFAULT 'site',    -- plug-in that puts waiting files into tasks
    processors        smallint NOT NULL DEFAULT 1 CHECK (processors > 0), -- of each job
    memory_mb         int CHECK (memory_mb > 0),       -- of each job; NULL: it does not matter
    tags              text[] NOT NULL DEFAULT '{}',    -- what a pilot must have
    n_tasks           int NOT NULL DEFAULT 0 CHECK (n_tasks >= 0), -- tasks without input that are wanted: simulation
    look_after        timestamptz NOT NULL DEFAULT now(), -- its waiting files are not looked at before then
    limits            jsonb NOT NULL DEFAULT '{}',     -- what its jobs may use, where that is not as in the settings
    site_ids          smallint[] NOT NULL DEFAULT '{}' -- jobs only at one of these sites; empty: anywhere
);
CREATE INDEX transformation_production ON transformation (production_id);
CREATE INDEX transformation_parent ON transformation (parent_id);

-- Files that every job of a transformation gets beside its own inputs, by role: trained models.
CREATE TABLE companion (
    file_id           bigint,                          -- NULL: the parent has not made it yet
    transformation_id int NOT NULL REFERENCES transformation,
    parent_id         int REFERENCES transformation,   -- it is what this one makes; NULL: it was there
    role              text NOT NULL,
    query             jsonb NOT NULL,                  -- as planned
    set_query         jsonpath NOT NULL,               -- compiled, on set-level keys
    file_query        jsonpath,                        -- compiled, on file-level keys; NULL: every file of the set
    PRIMARY KEY (transformation_id, role)
);
CREATE INDEX companion_file ON companion (file_id);

-- Files that a transformation takes because they were named, whatever their metadata.
CREATE TABLE transformation_file (
    file_id           bigint NOT NULL,
    transformation_id int NOT NULL,
    PRIMARY KEY (transformation_id, file_id)
);

-- Companions of transformations that are not over.
CREATE VIEW companion_in_use AS
SELECT c.file_id, c.transformation_id
  FROM companion c
  JOIN transformation t USING (transformation_id)
 WHERE c.file_id IS NOT NULL AND t.state IN ('New', 'Active', 'Flush', 'Stopped');

-- Which metadata sets a transformation takes. Written once per new set, not once per file.
CREATE TABLE transformation_set (
    set_id            bigint NOT NULL,
    transformation_id int NOT NULL,
    PRIMARY KEY (set_id, transformation_id)
);

-- Matched files that wait for a task: a queue, rows leave when the task is made. Only what is new is looked at: 'no copy'
-- becomes new again when a copy of the file changes, see look_again(); 'left' lies ready until a group is whole.
CREATE TYPE input_stand AS ENUM ('new', 'no copy', 'left');
CREATE TABLE pending_input (
    file_id           bigint NOT NULL,
    transformation_id int NOT NULL,
    stand             input_stand NOT NULL DEFAULT 'new',
    PRIMARY KEY (transformation_id, file_id)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX pending_input_new ON pending_input (transformation_id, file_id) WHERE stand = 'new';
CREATE INDEX pending_input_no_copy ON pending_input (file_id) WHERE stand = 'no copy';

-- Files that somebody took out of a transformation, with the state that they have there now; no task takes them.
CREATE TABLE input_aside (
    file_id           bigint NOT NULL,
    at                timestamptz NOT NULL DEFAULT now(),
    transformation_id int NOT NULL,
    state             text NOT NULL CHECK (state IN ('Processed', 'Problematic', 'Removed')),
    why               text NOT NULL,
    PRIMARY KEY (transformation_id, file_id)
);

-- Work with fixed inputs. `attempts` numbers its current job: a job with a smaller attempt is stale and changes
-- nothing any more (I7, I8).
CREATE TABLE task (
    task_id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created           timestamptz NOT NULL DEFAULT now(),
    state_since       timestamptz NOT NULL DEFAULT now(),
    not_before        timestamptz NOT NULL DEFAULT now(),
    transformation_id int NOT NULL REFERENCES transformation,
    attempts          smallint NOT NULL DEFAULT 0,
    site_id           smallint REFERENCES site,        -- where most of its inputs lie
    state             task_state NOT NULL DEFAULT 'Ready',
    n_inputs          int NOT NULL DEFAULT 0,
    number            int,                             -- of a task without input, from 1 on in its transformation
    reassigned        smallint NOT NULL DEFAULT 0,     -- other attempts it was given after the work itself failed
    rescheduled       smallint NOT NULL DEFAULT 0      -- the same after what is around it failed
) WITH (fillfactor = 80);
CREATE INDEX task_of ON task (transformation_id, task_id);
CREATE INDEX task_open ON task (transformation_id) WHERE state IN ('Ready', 'Running', 'Failed');
CREATE UNIQUE INDEX task_number ON task (transformation_id, number) WHERE number IS NOT NULL;
CREATE INDEX task_ready ON task (not_before) WHERE state = 'Ready';

CREATE TABLE task_input (                              -- at most once per file and transformation: task_input_once
    file_id           bigint NOT NULL,
    task_id           bigint NOT NULL,
    transformation_id int NOT NULL,
    PRIMARY KEY (task_id, file_id)
);
CREATE UNIQUE INDEX task_input_once ON task_input (file_id, transformation_id);

-- One attempt of a task. Status, minor and application status are what reports show.
CREATE TABLE job (
    job_id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_id            bigint NOT NULL,
    pilot_id           bigint,
    submitted          timestamptz NOT NULL DEFAULT now(),
    started            timestamptz,
    ended              timestamptz,
    state_since        timestamptz NOT NULL DEFAULT now(),
    exit_code          int,
    attempt            smallint NOT NULL,
    site_id            smallint,
    state              job_state NOT NULL DEFAULT 'Waiting',
    minor_status       text NOT NULL DEFAULT '',
    application_status text NOT NULL DEFAULT '',
    report             jsonb,                          -- outputs and activities as the pilot reported them
    transformation_id  int NOT NULL,                   -- that of its task
    cpu_seconds        real,                           -- what its tool used; NULL: nobody could tell
    wall_seconds       real,
    memory             bigint,                         -- bytes, at its peak, of all its processes together
    disk               bigint                          -- bytes, at its peak, of what it wrote into its folder
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX job_attempt ON job (task_id, attempt);
-- The report of a million tasks that are done is read from here alone.
CREATE INDEX job_done ON job (transformation_id, minor_status, application_status, site_id) WHERE state = 'Done';
CREATE INDEX job_completing ON job (state_since) WHERE state = 'Completing';

-- Only waiting jobs; a claim deletes the row. What a job needs, and how urgent it is, its transformation says.
CREATE TABLE job_queue (
    job_id            bigint   NOT NULL UNIQUE,
    transformation_id int      NOT NULL,
    site_id           smallint NOT NULL,               -- where most of its inputs lie
    PRIMARY KEY (transformation_id, site_id, job_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

-- How far each transformation is. Whoever changes something adds a row with the difference, so that nobody waits for
-- anybody else; the sum is what counts, and a duty joins the rows. Kept by count_inputs(), count_tasks(), count_jobs().
CREATE TABLE transformation_count (
    transformation_id int NOT NULL,
    unused      int NOT NULL DEFAULT 0,                -- files, by their state
    assigned    int NOT NULL DEFAULT 0,
    processed   int NOT NULL DEFAULT 0,
    problematic int NOT NULL DEFAULT 0,
    removed     int NOT NULL DEFAULT 0,
    ready       int NOT NULL DEFAULT 0,                -- tasks, by their state; cancelled ones count no more
    running     int NOT NULL DEFAULT 0,
    done        int NOT NULL DEFAULT 0,
    failed      int NOT NULL DEFAULT 0,
    queued      int NOT NULL DEFAULT 0,                -- jobs that wait for a pilot
    on_pilots   int NOT NULL DEFAULT 0,                -- jobs that run there
    in_vain     int NOT NULL DEFAULT 0,                -- jobs that failed or were killed
    outputs     int NOT NULL DEFAULT 0                 -- files that were made
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX transformation_count_of ON transformation_count (transformation_id);

CREATE VIEW transformation_progress AS
SELECT transformation_id, sum(unused) AS unused, sum(assigned) AS assigned, sum(processed) AS processed,
       sum(problematic) AS problematic, sum(removed) AS removed, sum(ready) AS ready, sum(running) AS running,
       sum(done) AS done, sum(failed) AS failed, sum(queued) AS queued, sum(on_pilots) AS on_pilots,
       sum(in_vain) AS in_vain, sum(outputs) AS outputs
  FROM transformation_count
 GROUP BY transformation_id;

-- Shares of the processors, when more is wanted than there is: of groups of people, of productions, of job types. What
-- has no row has 1.
CREATE TABLE work_share (
    kind  text NOT NULL CHECK (kind IN ('group', 'production', 'job type')),
    name  text NOT NULL,
    share real NOT NULL CHECK (share > 0),
    PRIMARY KEY (kind, name)
);

CREATE TABLE job_alive (                               -- only jobs on a pilot; small, always in memory
    job_id   bigint PRIMARY KEY,
    pilot_id bigint NOT NULL,
    seen     timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- What each job's tool printed.
CREATE TABLE job_log (
    job_id bigint PRIMARY KEY,
    text   text NOT NULL                               -- its beginning and its end
);

-- A process at a site that asks for jobs.
CREATE TABLE pilot (
    pilot_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    submitted   timestamptz NOT NULL DEFAULT now(),
    state_since timestamptz NOT NULL DEFAULT now(),
    seen        timestamptz NOT NULL DEFAULT now(),
    site_id     smallint NOT NULL REFERENCES site,
    state       pilot_state NOT NULL DEFAULT 'Submitted',
    name        text NOT NULL UNIQUE,
    executor    text NOT NULL,
    handle      text,                                  -- the executor's own; NULL: not started, or not known to be
    secret      bytea NOT NULL,                        -- sha256 of the pilot's secret
    processors  smallint NOT NULL DEFAULT 1,           -- what it has: a job that needs more is not for it
    memory_mb   int,                                   -- NULL: as much as any job wants
    tags        text[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50);
CREATE INDEX pilot_live ON pilot (site_id) WHERE state IN ('Submitted', 'Running');

-- ============================================================================================ keeper
-- What the topology document says about the keeper: what it may do with each type of transformation, and whom it tells.
CREATE TABLE keeper_options (
    single  boolean PRIMARY KEY DEFAULT true CHECK (single), -- there is one row, or none
    options jsonb NOT NULL
);

-- What a person must decide. One row for as long as it holds; it is told once.
CREATE TABLE concern (
    concern_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         bigint NOT NULL,
    since      timestamptz NOT NULL DEFAULT now(),
    ended      timestamptz,                         -- it does not hold any more
    told       boolean NOT NULL DEFAULT false,      -- it stands in a message
    kind       text NOT NULL,                       -- 'transformation', 'task', 'message', ...; with `id` its subject
    condition  text NOT NULL,                       -- 'decide', 'contradiction', ...
    type       text NOT NULL DEFAULT '',            -- of the transformation, which says whom to tell
    sentence   text NOT NULL,
    choices    text[] NOT NULL DEFAULT '{}'         -- what a person can do, as commands
);
CREATE UNIQUE INDEX concern_open ON concern (kind, condition, id) WHERE ended IS NULL;
CREATE INDEX concern_untold ON concern (concern_id) WHERE NOT told;

-- Messages to people: the outbox. News of a kind for an address are gathered in the one that is open until it is due.
-- A worker sends it under a lease, with an epoch that fences late writers.
CREATE TABLE message (
    message_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created     timestamptz NOT NULL DEFAULT now(),
    not_before  timestamptz NOT NULL DEFAULT now(), -- at most one a period; later when the server does not answer
    lease_until timestamptz,
    sent        timestamptz,
    refused     timestamptz,                        -- whoever takes messages for this address never will
    key         uuid NOT NULL DEFAULT gen_random_uuid(), -- the same each time it is sent: who gets two knows that it is one
    epoch       int NOT NULL DEFAULT 0,
    attempts    int NOT NULL DEFAULT 0,
    condition   text NOT NULL,                      -- 'flush', 'complete', 'reassign', 'report', 'decide'
    address     text NOT NULL,                      -- of a mailbox, or a URL
    error       text NOT NULL DEFAULT '',
    items       jsonb NOT NULL                      -- {key: one piece of news}
);
CREATE UNIQUE INDEX message_open ON message (condition, address) WHERE sent IS NULL AND refused IS NULL;
CREATE INDEX message_latest ON message (condition, address, sent);

-- Failed attempts of each transformation when its report was told last: silent until there are others.
CREATE TABLE report_told (
    transformation_id int PRIMARY KEY,
    in_vain           bigint NOT NULL
);

-- How far the sweep for contradictions is, over all tasks.
CREATE TABLE keeper_sweep (
    single  boolean PRIMARY KEY DEFAULT true CHECK (single),
    task_id bigint NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
);

-- ============================================================================================ tape
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
    OR EXISTS (SELECT FROM companion_in_use u WHERE u.file_id = c.file_id)
    OR EXISTS (SELECT FROM recheck k WHERE k.file_id = c.file_id AND k.storage_id = c.storage_id)
    OR EXISTS (SELECT FROM replica r
                WHERE r.file_id = c.file_id AND r.storage_id = c.storage_id AND r.state = 'Suspect');

-- ============================================================================================ nights
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

-- ============================================================================================ provenance
-- Texts that many activities share: configurations, software environments.
CREATE TABLE document (
    sha256 bytea PRIMARY KEY,
    body   jsonb NOT NULL
);

-- One run of one tool, or one batch of ingest (W3C PROV: Activity; agent: the software and who started it).
CREATE TABLE activity (
    activity_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id        bigint,
    started       timestamptz NOT NULL,
    ended         timestamptz,
    uuid          uuid NOT NULL DEFAULT gen_random_uuid(),
    name          text NOT NULL,
    agent         text NOT NULL,
    software      jsonb NOT NULL,                      -- {program: version}: the programs that did the work
    environment   bytea REFERENCES document,           -- every package and version
    configuration bytea REFERENCES document
);
CREATE INDEX activity_job ON activity (job_id);

CREATE TABLE used (                                    -- W3C PROV: Used; wasGeneratedBy is file.activity_id
    activity_id bigint NOT NULL,
    file_id     bigint NOT NULL,
    PRIMARY KEY (activity_id, file_id)
);
CREATE INDEX used_file ON used (file_id, activity_id);

-- ============================================================================================ guards
-- Refuses every change of a state that state_move does not have (I11). Once per statement, whatever its size.
CREATE FUNCTION refuse_move() RETURNS trigger LANGUAGE plpgsql
    SET enable_nestloop = off -- nothing is known of transition tables, and a loop over 50,000 rows squared does not end
AS $$
DECLARE
    wrong record;
BEGIN
    EXECUTE format(
        'SELECT o.state::text AS source, n.state::text AS target
           FROM old_rows o JOIN new_rows n USING (%s)
          WHERE o.state <> n.state
            AND NOT EXISTS (SELECT FROM state_move m
                             WHERE m.kind = %L AND m.source = o.state::text AND m.target = n.state::text)
          LIMIT 1', TG_ARGV[0], TG_TABLE_NAME) INTO wrong;
    IF wrong.source IS NOT NULL THEN
        RAISE EXCEPTION '% may not move from % to %', TG_TABLE_NAME, wrong.source, wrong.target
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER guard AFTER UPDATE ON trigger REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_move('trigger_id');
CREATE TRIGGER guard AFTER UPDATE ON replica REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_move('file_id, storage_id');
CREATE TRIGGER guard AFTER UPDATE ON transfer REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_move('transfer_id');
CREATE TRIGGER guard AFTER UPDATE ON intent REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_move('intent_id');
CREATE TRIGGER guard AFTER UPDATE ON operation REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_move('operation_id');
CREATE TRIGGER guard AFTER UPDATE ON production REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_move('production_id');
CREATE TRIGGER guard AFTER UPDATE ON transformation REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_move('transformation_id');
CREATE TRIGGER guard AFTER UPDATE ON task REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_move('task_id');
CREATE TRIGGER guard AFTER UPDATE ON job REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_move('job_id');
CREATE TRIGGER guard AFTER UPDATE ON pilot REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_move('pilot_id');
CREATE TRIGGER guard AFTER UPDATE ON recall REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_move('recall_id');

CREATE TRIGGER guard AFTER UPDATE ON health REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_move('health_id');

-- Keeps storage_queue. A transfer counts while it waits or runs.
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

CREATE FUNCTION refuse_file_move() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop = off AS $$
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

-- The content of a file never changes (I6).
CREATE FUNCTION refuse_new_content() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the content of file % may not change; register a new version', OLD.file_id
        USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER immutable BEFORE UPDATE ON file FOR EACH ROW
    WHEN ((OLD.size, OLD.sha256, OLD.adler32, OLD.dir_id, OLD.name, OLD.activity_id)
          IS DISTINCT FROM (NEW.size, NEW.sha256, NEW.adler32, NEW.dir_id, NEW.name, NEW.activity_id))
    EXECUTE FUNCTION refuse_new_content();

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

-- A file that waits for a copy at a data centre is looked at again when one of its copies comes or changes.
CREATE FUNCTION look_again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pending_input WHERE stand = 'no copy') THEN
        EXECUTE 'UPDATE pending_input p SET stand = ''new''
                   FROM new_rows n WHERE p.file_id = n.file_id AND p.stand = ''no copy''';
        IF FOUND THEN
            PERFORM pg_notify('lightkeeper', 'input');
        END IF;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER input_has_copy AFTER INSERT ON replica REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION look_again();
CREATE TRIGGER input_has_other_copy AFTER UPDATE ON replica REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION look_again();

-- Keep transformation_count.
CREATE FUNCTION count_inputs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO transformation_count (transformation_id, unused)
        SELECT transformation_id, count(*) FROM new_rows GROUP BY transformation_id;
    ELSE
        INSERT INTO transformation_count (transformation_id, unused)
        SELECT transformation_id, -count(*) FROM old_rows GROUP BY transformation_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER counted_new AFTER INSERT ON pending_input REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_inputs();
CREATE TRIGGER counted_gone AFTER DELETE ON pending_input REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_inputs();

CREATE FUNCTION count_aside() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO transformation_count (transformation_id, processed, problematic, removed)
        SELECT transformation_id, count(*) FILTER (WHERE state = 'Processed'),
               count(*) FILTER (WHERE state = 'Problematic'), count(*) FILTER (WHERE state = 'Removed')
          FROM new_rows GROUP BY transformation_id;
    ELSE
        INSERT INTO transformation_count (transformation_id, processed, problematic, removed)
        SELECT transformation_id, -count(*) FILTER (WHERE state = 'Processed'),
               -count(*) FILTER (WHERE state = 'Problematic'), -count(*) FILTER (WHERE state = 'Removed')
          FROM old_rows GROUP BY transformation_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER counted_new AFTER INSERT ON input_aside REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_aside();
CREATE TRIGGER counted_gone AFTER DELETE ON input_aside REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_aside();

CREATE FUNCTION count_new_tasks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO transformation_count (transformation_id, assigned, ready)
    SELECT transformation_id, sum(n_inputs), count(*) FROM new_rows GROUP BY transformation_id;
    RETURN NULL;
END $$;
CREATE TRIGGER counted_new AFTER INSERT ON task REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_new_tasks();

CREATE FUNCTION count_tasks() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop = off AS $$
BEGIN
    INSERT INTO transformation_count (transformation_id, assigned, processed, problematic, ready, running, done, failed)
    SELECT transformation_id,
           coalesce(sum(sign * n_inputs) FILTER (WHERE state IN ('Ready', 'Running')), 0),
           coalesce(sum(sign * n_inputs) FILTER (WHERE state = 'Done'), 0),
           coalesce(sum(sign * n_inputs) FILTER (WHERE state = 'Failed'), 0),
           coalesce(sum(sign) FILTER (WHERE state = 'Ready'), 0),
           coalesce(sum(sign) FILTER (WHERE state = 'Running'), 0),
           coalesce(sum(sign) FILTER (WHERE state = 'Done'), 0),
           coalesce(sum(sign) FILTER (WHERE state = 'Failed'), 0)
      FROM (SELECT o.transformation_id, o.n_inputs, c.state, c.sign
              FROM old_rows o
              JOIN new_rows n USING (task_id)
             CROSS JOIN LATERAL (VALUES (o.state, -1), (n.state, 1)) c (state, sign)
             WHERE o.state <> n.state) changed
     GROUP BY transformation_id;
    RETURN NULL;
END $$;
CREATE TRIGGER counted_moved AFTER UPDATE ON task REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_tasks();

CREATE FUNCTION count_new_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO transformation_count (transformation_id, queued)
    SELECT transformation_id, count(*) FROM new_rows GROUP BY transformation_id;
    RETURN NULL;
END $$;
CREATE TRIGGER counted_new AFTER INSERT ON job REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_new_jobs();

CREATE FUNCTION count_jobs() RETURNS trigger LANGUAGE plpgsql SET enable_nestloop = off AS $$
BEGIN
    INSERT INTO transformation_count (transformation_id, queued, on_pilots, in_vain)
    SELECT transformation_id,
           coalesce(sum(sign) FILTER (WHERE state = 'Waiting'), 0),
           coalesce(sum(sign) FILTER (WHERE state = 'Running'), 0),
           coalesce(sum(sign) FILTER (WHERE state IN ('Failed', 'Killed')), 0)
      FROM (SELECT o.transformation_id, c.state, c.sign
              FROM old_rows o
              JOIN new_rows n USING (job_id)
             CROSS JOIN LATERAL (VALUES (o.state, -1), (n.state, 1)) c (state, sign)
             WHERE o.state <> n.state) changed
     GROUP BY transformation_id;
    RETURN NULL;
END $$;
CREATE TRIGGER counted_moved AFTER UPDATE ON job REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION count_jobs();
