-- Jobs run under limits, and what they used is kept.
ALTER TABLE transformation ADD COLUMN limits jsonb NOT NULL DEFAULT '{}';
ALTER TABLE job
    ADD COLUMN cpu_seconds real,
    ADD COLUMN wall_seconds real,
    ADD COLUMN memory bigint,
    ADD COLUMN disk bigint;
