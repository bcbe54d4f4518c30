-- Refunds that a provider paid for a history of this schema that was lost, and that a person settled elsewhere: they are
-- not asked about again.
CREATE TABLE written_off_payouts (
    provider           text        NOT NULL,
    provider_refund_id text        NOT NULL,
    reason             text        NOT NULL CONSTRAINT written_off_payouts_have_reason CHECK (reason <> ''),
    -- The subject of a token.
    written_off_by     text        NOT NULL,
    written_off_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, provider_refund_id)
);
