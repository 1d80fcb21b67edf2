-- What was discarded stays among what was refused of a night. (The new state cannot be named in the transaction that
-- made it.)
CREATE INDEX trigger_discarded ON trigger (night, trigger_id)
    WHERE state <> 'Accepted' AND state <> 'Registered' AND state <> 'Quarantined';
