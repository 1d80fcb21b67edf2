-- Productions keep what lay beside their documents; steps may take what others make without being their children.
ALTER TABLE production ADD COLUMN sandbox jsonb NOT NULL DEFAULT '{}';
ALTER TABLE transformation
    ADD COLUMN by_lineage boolean NOT NULL DEFAULT true,
    ADD COLUMN feeders int[] NOT NULL DEFAULT '{}',
    ADD COLUMN input_limit int CHECK (input_limit > 0);
