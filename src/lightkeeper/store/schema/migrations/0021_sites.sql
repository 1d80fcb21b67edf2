-- Jobs of a transformation may be allowed at several sites.
ALTER TABLE transformation ADD COLUMN site_ids smallint[] NOT NULL DEFAULT '{}';
UPDATE transformation SET site_ids = ARRAY[destination_id] WHERE destination_id IS NOT NULL;
ALTER TABLE transformation DROP COLUMN destination_id;
