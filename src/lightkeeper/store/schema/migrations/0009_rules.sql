-- Rules on lists of files, on file-level keys and on scopes; where copies come from, how long they stay, how many bytes
-- they may take up, and when they are wanted.
ALTER TABLE policy ADD COLUMN created timestamptz NOT NULL DEFAULT now();
ALTER TABLE policy ADD COLUMN deadline timestamptz;
ALTER TABLE policy ADD COLUMN withdrawn timestamptz;
ALTER TABLE policy ADD COLUMN quota bigint CHECK (quota > 0);
ALTER TABLE policy ADD COLUMN used bigint NOT NULL DEFAULT 0;
ALTER TABLE policy ADD COLUMN counted timestamptz NOT NULL DEFAULT 'epoch';
ALTER TABLE policy ADD COLUMN protected boolean NOT NULL DEFAULT false;
ALTER TABLE policy ADD COLUMN retention interval NOT NULL DEFAULT '0';
ALTER TABLE policy ADD COLUMN source text NOT NULL DEFAULT '';
ALTER TABLE policy ADD COLUMN released_by text[] NOT NULL DEFAULT '{}';
ALTER TABLE policy ADD COLUMN file_query jsonpath;
ALTER TABLE policy ADD COLUMN scopes text[];
ALTER TABLE policy ALTER COLUMN set_query DROP NOT NULL;
CREATE INDEX set_policy_policy ON set_policy (policy_id);

CREATE TABLE file_policy (
    file_id   bigint NOT NULL,
    policy_id int NOT NULL,
    PRIMARY KEY (policy_id, file_id)
);
CREATE INDEX file_policy_file ON file_policy (file_id);

CREATE VIEW file_owed AS
SELECT f.file_id, f.set_id, f.size, m.policy_id
  FROM set_policy m
  JOIN policy p USING (policy_id)
  JOIN file f USING (set_id)
 WHERE (p.file_query IS NULL OR coalesce(f.extra, '{}') @@ p.file_query)
   AND (p.scopes IS NULL OR EXISTS (SELECT FROM directory d JOIN scope s USING (scope_id)
                                     WHERE d.dir_id = f.dir_id AND s.name LIKE ANY (p.scopes)))
 UNION ALL
SELECT f.file_id, f.set_id, f.size, m.policy_id
  FROM file_policy m
  JOIN file f USING (file_id)
  JOIN meta_set s USING (set_id)
 WHERE s.state <> 'Removed';

ALTER TABLE transfer ADD COLUMN sources smallint[];
CREATE INDEX transfer_done ON transfer (target_id, state_since) WHERE state = 'Done';
