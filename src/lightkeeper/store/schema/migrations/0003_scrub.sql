-- The audit of copies: what each storage is known by, passes of re-reading, comparisons with listings, dark files.
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
-- Copies that were there before may never have been read again: their first pass and comparison are due.
INSERT INTO storage_audit (storage_id, began) SELECT storage_id, 'epoch' FROM storage;

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
INSERT INTO comparison (storage_id, began) SELECT storage_id, 'epoch' FROM storage;

CREATE TABLE dark_file (
    storage_id smallint NOT NULL REFERENCES storage,
    size       bigint NOT NULL,
    modified   timestamptz NOT NULL,                -- by the storage's clock
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen  timestamptz NOT NULL DEFAULT now(),
    path       text COLLATE "C" NOT NULL,
    PRIMARY KEY (storage_id, path)
);
