-- The books (R-5): double entry, append only. A correction is a reversing entry.

CREATE TABLE journal_entries (
    entry_id    uuid        PRIMARY KEY,
    merchant_id uuid        NOT NULL,
    store_id    uuid        NOT NULL,
    order_id    uuid        NOT NULL,
    refund_id   uuid,
    -- What it books: 'sale', 'capture', 'refund_accrued' …
    kind        text        NOT NULL,
    -- What made it necessary. The same thing is booked once, however often it is heard of.
    source      text        NOT NULL,
    -- The entry it takes back.
    reverses    uuid        REFERENCES journal_entries,
    -- How many lines it has. Written first and never changed: an entry is complete or it is not committed, and no line
    -- can be added later.
    lines       smallint    NOT NULL CONSTRAINT journal_entries_have_two_sides CHECK (lines >= 2),
    booked_at   timestamptz NOT NULL,
    CONSTRAINT journal_entries_once UNIQUE (kind, source),
    CONSTRAINT journal_entries_lines_of UNIQUE (entry_id, lines)
);
CREATE INDEX journal_entries_of_store ON journal_entries (merchant_id, store_id, entry_id);
CREATE INDEX journal_entries_of_order ON journal_entries (order_id, entry_id);

CREATE TABLE journal_lines (
    entry_id    uuid     NOT NULL,
    -- The number of lines of the entry; by the foreign key it is the entry's own.
    of_lines    smallint NOT NULL,
    position    smallint NOT NULL,
    merchant_id uuid     NOT NULL,
    account     text     NOT NULL,
    currency    text     NOT NULL CONSTRAINT journal_lines_currency_is_code CHECK (currency ~ '^[A-Z]{3}$'),
    -- Minor units; positive for a debit, negative for a credit.
    amount      bigint   NOT NULL CONSTRAINT journal_lines_say_something CHECK (amount <> 0),
    PRIMARY KEY (entry_id, position),
    CONSTRAINT journal_lines_of_entry FOREIGN KEY (entry_id, of_lines) REFERENCES journal_entries (entry_id, lines),
    CONSTRAINT journal_lines_position_within CHECK (position BETWEEN 1 AND of_lines)
);
-- The trial balance reads this index alone.
CREATE INDEX journal_lines_by_account ON journal_lines (merchant_id, currency, account) INCLUDE (amount);

-- Checked when the transaction commits, once per entry: all its lines are there and sum to zero in each currency.
CREATE FUNCTION check_journal_entry() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    found      bigint;
    unbalanced text;
BEGIN
    SELECT count(*) INTO found FROM journal_lines WHERE entry_id = NEW.entry_id;
    IF found <> NEW.lines THEN
        RAISE EXCEPTION 'journal entry % has % of its % lines', NEW.entry_id, found, NEW.lines
            USING ERRCODE = 'check_violation', CONSTRAINT = 'journal_entries_complete';
    END IF;
    SELECT string_agg(currency || ' ' || total, ', ') INTO unbalanced
    FROM (SELECT currency, sum(amount) AS total FROM journal_lines WHERE entry_id = NEW.entry_id GROUP BY currency) AS sums
    WHERE total <> 0;
    IF unbalanced IS NOT NULL THEN
        RAISE EXCEPTION 'journal entry % does not sum to zero: %', NEW.entry_id, unbalanced
            USING ERRCODE = 'check_violation', CONSTRAINT = 'journal_entries_balanced';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER journal_entries_balanced AFTER INSERT ON journal_entries
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_journal_entry();

CREATE FUNCTION refuse_journal_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the journal is append only: % of % refused; book a reversing entry', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'WB003';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON journal_entries
    FOR EACH ROW EXECUTE FUNCTION refuse_journal_change();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON journal_entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_journal_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON journal_lines
    FOR EACH ROW EXECUTE FUNCTION refuse_journal_change();
CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON journal_lines
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_journal_change();
