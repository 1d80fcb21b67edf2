-- Transfers go in streams, by shares and within rates; what went over links is kept by hour and activity.
CREATE TABLE activity_share (
    activity text PRIMARY KEY,
    share    real NOT NULL DEFAULT 1 CHECK (share > 0)
);
INSERT INTO activity_share (activity) VALUES ('preservation');

CREATE UNLOGGED TABLE meter (
    name    text PRIMARY KEY,
    free_at timestamptz NOT NULL
) WITH (fillfactor = 20);

CREATE TABLE transfer_log (
    hour        timestamptz NOT NULL,
    n_transfers bigint NOT NULL DEFAULT 0,
    n_bytes     bigint NOT NULL DEFAULT 0,
    n_failed    bigint NOT NULL DEFAULT 0,
    seconds     double precision NOT NULL DEFAULT 0,
    source_id   smallint NOT NULL,
    target_id   smallint NOT NULL,
    activity    text NOT NULL,
    PRIMARY KEY (hour, source_id, target_id, activity)
) WITH (fillfactor = 50);
-- How long transfers took was not kept; files that were forgotten since are missing in the bytes.
INSERT INTO transfer_log (hour, n_transfers, n_bytes, source_id, target_id, activity)
SELECT date_trunc('hour', t.state_since, 'UTC'), count(*), coalesce(sum(f.size), 0), t.source_id, t.target_id,
       'preservation'
  FROM transfer t LEFT JOIN file f USING (file_id)
 WHERE t.state = 'Done'
 GROUP BY 1, 4, 5;
DROP TABLE link_count;

ALTER TABLE storage ADD COLUMN max_transfers smallint NOT NULL DEFAULT 8 CHECK (max_transfers > 0);
ALTER TABLE storage ADD COLUMN max_rate bigint CHECK (max_rate > 0);
ALTER TABLE policy ADD COLUMN activity text NOT NULL DEFAULT 'preservation' REFERENCES activity_share;
ALTER TABLE transfer ADD COLUMN stream bigint;
ALTER TABLE transfer ADD COLUMN failed smallint[] NOT NULL DEFAULT '{}';
ALTER TABLE transfer ADD COLUMN activity text NOT NULL DEFAULT 'preservation';
UPDATE transfer SET stream = transfer_id WHERE state = 'Running';

DROP INDEX transfer_queue;
CREATE INDEX transfer_queue ON transfer (target_id, activity, priority, not_before, transfer_id)
    WHERE state = 'Waiting';

-- Nothing is known of transition tables: for 50,000 moved rows a loop was chosen that did not end.
ALTER FUNCTION refuse_move() SET enable_nestloop = off;
ALTER FUNCTION refuse_file_move() SET enable_nestloop = off;
