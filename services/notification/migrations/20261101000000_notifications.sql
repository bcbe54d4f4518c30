-- How each store shows itself. Changed by an operator, read when a message is rendered.
CREATE TABLE brands (
    merchant_id    uuid NOT NULL,
    store_id       uuid NOT NULL,
    name           text NOT NULL CHECK (name <> ''),
    from_email     text NOT NULL CHECK (from_email <> ''),
    support_email  text NOT NULL CHECK (support_email <> ''),
    support_phone  text NOT NULL,
    logo_url       text NOT NULL,
    accent_color   text NOT NULL CHECK (accent_color ~ '^#[0-9a-fA-F]{6}$'),
    default_locale text NOT NULL,
    time_zone      text NOT NULL,
    updated_at     timestamptz NOT NULL,
    PRIMARY KEY (merchant_id, store_id)
);

-- Orders that were heard of: events about an order wait until it is here.
CREATE TABLE orders (
    order_id    uuid PRIMARY KEY,
    merchant_id uuid NOT NULL,
    store_id    uuid NOT NULL
);

-- What is open about an order: a return, a refund, a shipment in trouble. A follow-up waits while there is a row.
CREATE TABLE open_matters (
    subject_id uuid PRIMARY KEY,
    order_id   uuid NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('return', 'refund', 'shipment'))
);
CREATE INDEX open_matters_of_order ON open_matters (order_id);

-- One row a message: the decision about it, and what became of it. It holds no address and no name.
CREATE TABLE notifications (
    notification_id uuid PRIMARY KEY,
    merchant_id     uuid NOT NULL,
    store_id        uuid NOT NULL,
    order_id        uuid NOT NULL,
    stage           text NOT NULL,
    channel         text NOT NULL CHECK (channel IN ('email')),
    -- The shipment, return or refund it is about; the order itself for stages of the order.
    subject_id      uuid NOT NULL,
    state           text NOT NULL CHECK (state IN ('scheduled', 'sending', 'sent', 'suppressed', 'failed')),
    -- Why it waits, was suppressed or failed.
    reason          text NOT NULL DEFAULT '',
    attempts        int NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- Fixed when the first try begins, so that the same mail sent twice is recognisable as one.
    message_id      text NOT NULL DEFAULT '',
    -- The trace the message belongs to.
    traceparent     text,
    scheduled_at    timestamptz NOT NULL,
    sent_at         timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    version         bigint NOT NULL DEFAULT 1,
    log_generation  bigint NOT NULL DEFAULT log_generation(),
    log_xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    -- N-1: a customer is told once per order, stage, channel and subject, whoever asks, however often.
    CONSTRAINT notifications_once UNIQUE (order_id, stage, channel, subject_id),
    CONSTRAINT notifications_sent CHECK ((state = 'sent') = (sent_at IS NOT NULL)),
    CONSTRAINT notifications_message_id CHECK (state NOT IN ('sending', 'sent') OR message_id <> '')
);
CREATE TRIGGER guard BEFORE UPDATE ON notifications FOR EACH ROW EXECUTE FUNCTION guard_log_order();

-- Lists of a store, newest first: ids are time-ordered.
CREATE INDEX notifications_of_store ON notifications (merchant_id, store_id, notification_id DESC);
-- What waits for the store's brand: found again when it is set.
CREATE INDEX notifications_without_brand ON notifications (merchant_id, store_id)
    WHERE state = 'scheduled' AND reason = 'NO_BRAND';
