-- Messages that were decided again after commits were lost, and that a person wants to go out although the lost history
-- may have sent them.
CREATE TABLE resends (
    notification_id uuid        PRIMARY KEY REFERENCES notifications,
    reason          text        NOT NULL CHECK (reason <> ''),
    -- The subject of a token.
    decided_by      text        NOT NULL,
    decided_at      timestamptz NOT NULL DEFAULT now()
);
