-- Goods on their way, and what carriers said about them.

-- A shipment is only made and changed in a transaction that updates its order's row in `fulfillments`: that row's guard
-- keeps the log's order for both, so there is none here, and the code counts the version.
CREATE TABLE shipments (
    shipment_id     uuid        PRIMARY KEY,
    merchant_id     uuid        NOT NULL,
    store_id        uuid        NOT NULL,
    order_id        uuid        NOT NULL REFERENCES fulfillments,
    location_id     uuid        NOT NULL,
    status          text        COLLATE "C" NOT NULL,
    carrier         text        COLLATE "C" NOT NULL,
    service         text        NOT NULL,
    tracking_number text        COLLATE "C" NOT NULL,
    tracking_url    text        NOT NULL,
    shipped_at      timestamptz NOT NULL,
    delivered_at    timestamptz,
    -- Time of the newest scan, by which late ones are recognised (F-8). Null before the first.
    newest_scan_at  timestamptz,
    version         bigint      NOT NULL DEFAULT 1,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT shipments_from_location FOREIGN KEY (merchant_id, location_id)
        REFERENCES locations (merchant_id, location_id),
    -- A carrier's number names one shipment: scans find it by nothing else.
    CONSTRAINT shipments_tracking_number_once UNIQUE (merchant_id, carrier, tracking_number),
    CONSTRAINT shipments_status_known CHECK (status IN (
        'pending', 'info_received', 'in_transit', 'expired', 'exception', 'out_for_delivery', 'attempt_failed',
        'available_for_pickup', 'delivered', 'returned_to_sender')),
    CONSTRAINT shipments_delivered_has_time CHECK (status <> 'delivered' OR delivered_at IS NOT NULL)
) WITH (fillfactor = 80);

-- Lists of a store, newest first: the id grows with time.
CREATE INDEX shipments_of_store ON shipments (merchant_id, store_id, shipment_id);
CREATE INDEX shipments_of_order ON shipments (order_id, shipment_id);

CREATE TABLE shipment_lines (
    shipment_id uuid   NOT NULL REFERENCES shipments,
    line_id     uuid   NOT NULL,
    sku         text   COLLATE "C" NOT NULL,
    units       bigint NOT NULL,
    -- Of these, units that came back and lie in the building again.
    restocked   bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (shipment_id, line_id),
    CONSTRAINT shipment_lines_units CHECK (units > 0),
    -- F-10: never more comes back into stock than went out.
    CONSTRAINT shipment_lines_restocked CHECK (restocked BETWEEN 0 AND units)
);

-- What carriers said, all of it, also what did not change anything.
CREATE TABLE tracking_events (
    tracking_event_id uuid        PRIMARY KEY,
    shipment_id       uuid        NOT NULL REFERENCES shipments,
    status            text        COLLATE "C" NOT NULL,
    -- What the carrier wrote; may name a person, and so never becomes part of an event.
    location          text        NOT NULL,
    description       text        NOT NULL,
    -- When the carrier saw it, as it said.
    occurred_at       timestamptz NOT NULL,
    recorded_at       timestamptz NOT NULL,
    -- The source's id of the scan; empty when it gives none.
    source_event_id   text        COLLATE "C" NOT NULL
);

CREATE INDEX tracking_events_of_shipment ON tracking_events (shipment_id, occurred_at);
-- F-9: what was heard before is recognised by the source's id, or else by what was said and of when.
CREATE UNIQUE INDEX tracking_events_source_once ON tracking_events (shipment_id, source_event_id)
    WHERE source_event_id <> '';
CREATE UNIQUE INDEX tracking_events_said_once ON tracking_events (shipment_id, status, occurred_at)
    WHERE source_event_id = '';
