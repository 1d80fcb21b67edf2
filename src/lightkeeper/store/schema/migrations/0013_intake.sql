-- Refused deliveries are verified again, released by a person, or discarded; products are of three kinds.
ALTER TYPE trigger_state ADD VALUE 'Discarded';
ALTER TABLE trigger ADD COLUMN released_by text;
ALTER TABLE trigger ADD COLUMN given jsonb;

-- Temporary products: owed only what policies say that name their scope.
ALTER TABLE policy ADD COLUMN temporary boolean NOT NULL DEFAULT false;
CREATE VIEW temporary_directory AS
SELECT d.dir_id
  FROM directory d
  JOIN scope s USING (scope_id)
  JOIN policy p ON p.temporary AND p.withdrawn IS NULL AND s.name LIKE ANY (p.scopes);
CREATE OR REPLACE VIEW file_owed AS
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
