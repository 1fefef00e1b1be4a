-- Forgets the batch before.
TRUNCATE made
