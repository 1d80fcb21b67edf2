-- Processes that ended while they read a delivery.
ALTER TABLE trigger ADD COLUMN attempts smallint NOT NULL DEFAULT 0;
