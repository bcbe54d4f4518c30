-- Who caused an event, and what it follows from: the subject of a caller's token and its request id, or the service and the
-- event that it reacted to. Unknown for events of before, and where the writer does not know. Both are names in the books of
-- machines and operators, never a customer's data: the log is kept.
ALTER TABLE event_log
    ADD COLUMN actor text,
    ADD COLUMN cause text;
