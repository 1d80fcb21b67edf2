-- The keeper: counters of attempts, what people are told, what they must decide.
ALTER TABLE remedy ADD COLUMN told boolean NOT NULL DEFAULT true;  -- nothing of the past is told
ALTER TABLE remedy ALTER COLUMN told SET DEFAULT false;
CREATE INDEX remedy_untold ON remedy (remedy_id) WHERE NOT told AND kind IN ('transformation', 'task');

ALTER TABLE task ADD COLUMN reassigned smallint NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN rescheduled smallint NOT NULL DEFAULT 0;
UPDATE task SET reassigned = greatest(attempts - 1, 0) WHERE attempts > 1 AND state IN ('Ready', 'Running', 'Failed');

CREATE INDEX task_open ON task (transformation_id) WHERE state IN ('Ready', 'Running', 'Failed');
CREATE INDEX job_done ON job (transformation_id, minor_status, application_status, site_id) WHERE state = 'Done';

CREATE TABLE keeper_options (
    single  boolean PRIMARY KEY DEFAULT true CHECK (single),
    options jsonb NOT NULL
);
CREATE TABLE concern (
    concern_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         bigint NOT NULL,
    since      timestamptz NOT NULL DEFAULT now(),
    ended      timestamptz,
    told       boolean NOT NULL DEFAULT false,
    kind       text NOT NULL,
    condition  text NOT NULL,
    type       text NOT NULL DEFAULT '',
    sentence   text NOT NULL,
    choices    text[] NOT NULL DEFAULT '{}'
);
CREATE UNIQUE INDEX concern_open ON concern (kind, condition, id) WHERE ended IS NULL;
CREATE INDEX concern_untold ON concern (concern_id) WHERE NOT told;
CREATE TABLE message (
    message_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created     timestamptz NOT NULL DEFAULT now(),
    not_before  timestamptz NOT NULL DEFAULT now(),
    lease_until timestamptz,
    sent        timestamptz,
    refused     timestamptz,
    key         uuid NOT NULL DEFAULT gen_random_uuid(),
    epoch       int NOT NULL DEFAULT 0,
    attempts    int NOT NULL DEFAULT 0,
    condition   text NOT NULL,
    address     text NOT NULL,
    error       text NOT NULL DEFAULT '',
    items       jsonb NOT NULL
);
CREATE UNIQUE INDEX message_open ON message (condition, address) WHERE sent IS NULL AND refused IS NULL;
CREATE INDEX message_latest ON message (condition, address, sent);
CREATE TABLE report_told (
    transformation_id int PRIMARY KEY,
    in_vain           bigint NOT NULL
);
CREATE TABLE keeper_sweep (
    single  boolean PRIMARY KEY DEFAULT true CHECK (single),
    task_id bigint NOT NULL,
    at      timestamptz NOT NULL DEFAULT now()
);
