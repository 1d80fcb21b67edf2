-- Files that every job of a transformation gets beside its own inputs, by role: trained models.
CREATE TABLE companion (
    file_id           bigint,                          -- NULL: the parent has not made it yet
    transformation_id int NOT NULL REFERENCES transformation,
    parent_id         int REFERENCES transformation,   -- it is what this one makes; NULL: it was there
    role              text NOT NULL,
    query             jsonb NOT NULL,                  -- as planned
    set_query         jsonpath NOT NULL,               -- compiled, on set-level keys
    file_query        jsonpath,                        -- compiled, on file-level keys; NULL: every file of the set
    PRIMARY KEY (transformation_id, role)
);
CREATE INDEX companion_file ON companion (file_id);

-- Files that a transformation takes because they were named, whatever their metadata.
CREATE TABLE transformation_file (
    file_id           bigint NOT NULL,
    transformation_id int NOT NULL,
    PRIMARY KEY (transformation_id, file_id)
);

-- Companions of transformations that are not over.
CREATE VIEW companion_in_use AS
SELECT c.file_id, c.transformation_id
  FROM companion c
  JOIN transformation t USING (transformation_id)
 WHERE c.file_id IS NOT NULL AND t.state IN ('New', 'Active', 'Flush', 'Stopped');

-- Recalls that somebody still waits for, or reads: an order, a transfer, a task, the audit.
CREATE OR REPLACE VIEW recall_need AS
SELECT c.recall_id
  FROM recall c
 WHERE EXISTS (SELECT FROM stage_order_file o JOIN stage_order s USING (order_id)
                WHERE o.file_id = c.file_id AND s.ended IS NULL AND s.target_id IS NULL)
    OR EXISTS (SELECT FROM transfer t
                WHERE t.file_id = c.file_id AND t.state IN ('Waiting', 'Running') AND t.target_id <> c.storage_id)
    OR EXISTS (SELECT FROM task_input i
                 JOIN task USING (task_id)
                 JOIN transformation t ON t.transformation_id = i.transformation_id
                WHERE i.file_id = c.file_id AND task.state IN ('Ready', 'Running') AND t.state IN ('Active', 'Flush'))
    OR EXISTS (SELECT FROM companion_in_use u WHERE u.file_id = c.file_id)
    OR EXISTS (SELECT FROM recheck k WHERE k.file_id = c.file_id AND k.storage_id = c.storage_id)
    OR EXISTS (SELECT FROM replica r
                WHERE r.file_id = c.file_id AND r.storage_id = c.storage_id AND r.state = 'Suspect');
