-- Transformations are counted as they go, their waiting files are looked at once, and what runs first is a matter of
-- priorities, shares and needs.
ALTER TYPE transformation_state ADD VALUE 'Archived';
ALTER TYPE transformation_state ADD VALUE 'Cleaning';
ALTER TYPE transformation_state ADD VALUE 'Cleaned';
ALTER TYPE transformation_state ADD VALUE 'Deleted';
ALTER TYPE task_state ADD VALUE 'Cancelled';

ALTER TABLE site
    ADD COLUMN processors smallint NOT NULL DEFAULT 1 CHECK (processors > 0),
    ADD COLUMN memory_mb int CHECK (memory_mb > 0),
    ADD COLUMN tags text[] NOT NULL DEFAULT '{}';
ALTER TABLE production ADD COLUMN group_name text NOT NULL DEFAULT 'observatory';
ALTER TABLE transformation
    ALTER COLUMN group_size TYPE bigint,
    ADD COLUMN grouping text NOT NULL DEFAULT 'site',
    ADD COLUMN processors smallint NOT NULL DEFAULT 1 CHECK (processors > 0),
    ADD COLUMN memory_mb int CHECK (memory_mb > 0),
    ADD COLUMN tags text[] NOT NULL DEFAULT '{}',
    ADD COLUMN n_tasks int NOT NULL DEFAULT 0 CHECK (n_tasks >= 0),
    ADD COLUMN look_after timestamptz NOT NULL DEFAULT now();
UPDATE transformation SET grouping = 'keys' WHERE group_by <> '{}';
CREATE INDEX transformation_production ON transformation (production_id);
CREATE INDEX transformation_parent ON transformation (parent_id);

CREATE TYPE input_stand AS ENUM ('new', 'no copy', 'left');
ALTER TABLE pending_input ADD COLUMN stand input_stand NOT NULL DEFAULT 'new';
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


ALTER TABLE task ADD COLUMN n_inputs int NOT NULL DEFAULT 0, ADD COLUMN number int;
UPDATE task SET n_inputs = i.n FROM (SELECT task_id, count(*) AS n FROM task_input GROUP BY task_id) i
 WHERE i.task_id = task.task_id;
DROP INDEX task_open;
CREATE INDEX task_of ON task (transformation_id, task_id);
CREATE UNIQUE INDEX task_number ON task (transformation_id, number) WHERE number IS NOT NULL;

ALTER TABLE job ADD COLUMN transformation_id int;
UPDATE job SET transformation_id = task.transformation_id FROM task WHERE task.task_id = job.task_id;
ALTER TABLE job ALTER COLUMN transformation_id SET NOT NULL;

DROP TABLE job_queue;
CREATE TABLE job_queue (
    job_id            bigint   NOT NULL UNIQUE,
    transformation_id int      NOT NULL,
    site_id           smallint NOT NULL,               -- where most of its inputs lie
    PRIMARY KEY (transformation_id, site_id, job_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

INSERT INTO job_queue (job_id, transformation_id, site_id)
SELECT job_id, transformation_id, site_id FROM job WHERE state = 'Waiting';

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

ALTER TABLE pilot
    ADD COLUMN processors smallint NOT NULL DEFAULT 1,
    ADD COLUMN memory_mb int,
    ADD COLUMN tags text[] NOT NULL DEFAULT '{}';

INSERT INTO transformation_count (transformation_id, unused)
SELECT transformation_id, count(*) FROM pending_input GROUP BY transformation_id;
INSERT INTO transformation_count (transformation_id, assigned, processed, problematic, ready, running, done, failed)
SELECT transformation_id, coalesce(sum(n_inputs) FILTER (WHERE state IN ('Ready', 'Running')), 0),
       coalesce(sum(n_inputs) FILTER (WHERE state = 'Done'), 0),
       coalesce(sum(n_inputs) FILTER (WHERE state = 'Failed'), 0),
       count(*) FILTER (WHERE state = 'Ready'), count(*) FILTER (WHERE state = 'Running'),
       count(*) FILTER (WHERE state = 'Done'), count(*) FILTER (WHERE state = 'Failed')
  FROM task GROUP BY transformation_id;
INSERT INTO transformation_count (transformation_id, queued, on_pilots, in_vain)
SELECT transformation_id, count(*) FILTER (WHERE state = 'Waiting'), count(*) FILTER (WHERE state = 'Running'),
       count(*) FILTER (WHERE state IN ('Failed', 'Killed'))
  FROM job GROUP BY transformation_id;
INSERT INTO transformation_count (transformation_id, outputs)
SELECT job.transformation_id, count(*) FROM file JOIN activity USING (activity_id) JOIN job USING (job_id)
 GROUP BY job.transformation_id;

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
