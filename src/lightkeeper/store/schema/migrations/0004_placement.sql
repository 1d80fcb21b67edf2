-- Where copies go: attributes of storages, expressions and distances of policies; policies that match add up.
ALTER TABLE storage ADD COLUMN attributes jsonb NOT NULL DEFAULT '{}';
ALTER TABLE policy ADD COLUMN min_distance real NOT NULL DEFAULT 0;
ALTER TABLE policy ADD COLUMN at text NOT NULL DEFAULT '';
ALTER TABLE policy ADD COLUMN expires timestamptz;
ALTER TABLE set_policy DROP CONSTRAINT set_policy_pkey;
ALTER TABLE set_policy ADD PRIMARY KEY (set_id, policy_id);
INSERT INTO set_policy (set_id, policy_id)
SELECT s.set_id, p.policy_id
  FROM meta_set s
  JOIN policy p ON s.meta @@ p.set_query
 WHERE s.state <> 'Removed'
ON CONFLICT DO NOTHING;

DROP INDEX transfer_queue;
CREATE INDEX transfer_queue ON transfer (target_id, priority, not_before, transfer_id) WHERE state = 'Waiting';

ALTER TABLE policy ALTER COLUMN policy_id TYPE int;
ALTER SEQUENCE policy_policy_id_seq AS int;
ALTER TABLE set_policy ALTER COLUMN policy_id TYPE int;
ALTER TABLE transfer ALTER COLUMN policy_id TYPE int;
ALTER TABLE intent ALTER COLUMN policy_id TYPE int;
