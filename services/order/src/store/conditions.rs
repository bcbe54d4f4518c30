//! What a filter says, as conditions on an order `o`; and the narrow indexes that name the few orders which may pass.
//!
//! Texts are compared by their beginning as ranges, not by LIKE: so no character of a caller's has a special meaning. The
//! expressions are those of the indexes, letter by letter.

use sqlx::types::chrono::{DateTime, Utc};

use super::find::Sql;
use crate::domain::find::{By, Filter};
use crate::domain::goods::FulfillmentStatus;
use crate::domain::order::Tenant;
use crate::domain::payment::PaymentStatus;
use crate::domain::returns::ReturnStatus;
use crate::domain::state::Status;

/// Behind every text that begins with what stands before it: no character is greater.
const LAST: &str = "chr(1114111)";

const SKU: &str = "lower(l.sku)";
pub(super) const EMAIL: &str = "lower(c.email) COLLATE \"C\"";
pub(super) const EXTERNAL_ID: &str = "c.customer_external_id COLLATE \"C\"";
const NAME: &str = "lower(c.name) COLLATE \"C\"";
const LAST_NAME: &str = "lower(split_part(rtrim(c.name), ' ', -1)) COLLATE \"C\"";

/// A part of a filter that an index of its own answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Narrow {
    ExternalId,
    Email,
    Text,
    Sku,
    Tag,
    Total,
}

impl Narrow {
    /// The parts that a filter has, the ones first that likely name the fewest orders.
    pub(super) fn of(filter: &Filter, by: By) -> impl Iterator<Item = Narrow> + use<> {
        // A list that is sorted by the total walks the range of totals anyway.
        let range = filter.total_from.is_some() || filter.total_to.is_some();
        [
            (filter.customer_external_id.is_some(), Narrow::ExternalId),
            (filter.customer_email.is_some(), Narrow::Email),
            (filter.text.is_some(), Narrow::Text),
            (filter.sku.is_some(), Narrow::Sku),
            (filter.tag.is_some(), Narrow::Tag),
            (range && by != By::Total, Narrow::Total),
        ]
        .into_iter()
        .filter_map(|(has, narrow)| has.then_some(narrow))
    }

    /// The ids of orders that may pass, as an index has them: all that do, perhaps some more than once or for nothing. At
    /// most `limit`.
    pub(super) fn push_candidates(self, sql: &mut Sql, tenant: Tenant, filter: &Filter, limit: i64) {
        // In the order of the index: else the planner may hope to meet enough of them soon by reading the whole table.
        let order = match self {
            Narrow::ExternalId => {
                push_from(sql, "order_contacts c", "c", tenant);
                push_external_id(sql, filter.customer_external_id.as_deref().unwrap_or_default());
                format!("{EXTERNAL_ID}, c.order_id")
            }
            Narrow::Email => {
                push_from(sql, "order_contacts c", "c", tenant);
                push_email(sql, filter.customer_email.as_deref().unwrap_or_default());
                format!("{EMAIL}, c.order_id")
            }
            Narrow::Text => {
                return push_texts(sql, tenant, filter.text.as_deref().unwrap_or_default(), limit);
            }
            Narrow::Sku => {
                push_from(sql, "order_lines l", "l", tenant);
                push_range_of_sku(sql, filter.sku.as_deref().unwrap_or_default());
                SKU.to_owned()
            }
            Narrow::Tag => {
                push_from(sql, "order_tags t", "t", tenant);
                sql.push(" AND t.tag = ");
                sql.push_bind(filter.tag.clone());
                "t.tag, t.order_id".to_owned()
            }
            Narrow::Total => {
                push_from(sql, "orders o", "o", tenant);
                push_range(sql, filter, By::Total);
                "o.currency, o.total_minor, o.order_id".to_owned()
            }
        };
        sql.push(format!(" ORDER BY {order} LIMIT {limit}"));
    }
}

fn push_from(sql: &mut Sql, table: &str, name: &str, tenant: Tenant) {
    sql.push(format!("SELECT {name}.order_id FROM {table} WHERE true"));
    push_tenant(sql, name, tenant);
}

pub(super) fn push_tenant(sql: &mut Sql, name: &str, tenant: Tenant) {
    sql.push(format!(" AND {name}.merchant_id = "));
    sql.push_bind(tenant.merchant.uuid());
    sql.push(format!(" AND {name}.store_id = "));
    sql.push_bind(tenant.store.uuid());
}

/// The span of what a list is sorted by, as far as a filter names one.
pub(super) fn push_range(sql: &mut Sql, filter: &Filter, by: By) {
    match by {
        By::Placed => push_span(sql, "o.placed_at", filter.placed_from, filter.placed_before),
        By::Total => {
            if let Some(currency) = filter.currency {
                sql.push(" AND o.currency = ");
                sql.push_bind(currency.code());
            }
            for (sign, minor) in [(">=", filter.total_from), ("<=", filter.total_to)] {
                if let Some(minor) = minor {
                    sql.push(format!(" AND o.total_minor {sign} "));
                    sql.push_bind(minor);
                }
            }
        }
    }
}

fn push_span(sql: &mut Sql, column: &str, from: Option<DateTime<Utc>>, before: Option<DateTime<Utc>>) {
    for (sign, time) in [(">=", from), ("<", before)] {
        if let Some(time) = time {
            sql.push(format!(" AND {column} {sign} "));
            sql.push_bind(time);
        }
    }
}

/// Everything that a filter says about an order `o`.
pub(super) fn push_conditions(sql: &mut Sql, filter: &Filter) {
    let facets = [
        ("status", filter.status.map(Status::as_str)),
        ("payment_status", filter.payment_status.map(PaymentStatus::as_str)),
        (
            "fulfillment_status",
            filter.fulfillment_status.map(FulfillmentStatus::as_str),
        ),
        ("return_status", filter.return_status.map(ReturnStatus::as_str)),
    ];
    for (column, wanted) in facets {
        if let Some(wanted) = wanted {
            sql.push(format!(" AND o.{column} = "));
            sql.push_bind(wanted);
        }
    }
    for by in [By::Placed, By::Total] {
        push_range(sql, filter, by);
    }
    push_span(sql, "o.updated_at", filter.updated_from, filter.updated_before);
    if let Some(tag) = &filter.tag {
        sql.push(" AND o.tags ? ");
        sql.push_bind(tag.clone());
    }
    if let Some(sku) = &filter.sku {
        sql.push(" AND ");
        push_some(sql, "order_lines l", "l", |sql| push_sku(sql, sku));
    }
    if filter.customer_external_id.is_some() || filter.customer_email.is_some() {
        sql.push(" AND ");
        push_some(sql, "order_contacts c", "c", |sql| {
            if let Some(id) = &filter.customer_external_id {
                push_external_id(sql, id);
            }
            if let Some(email) = &filter.customer_email {
                push_email(sql, email);
            }
        });
    }
    if let Some(text) = &filter.text {
        push_begins_somewhere(sql, text);
    }
}

/// Whether the order has some row of another table. With a LIMIT inside, the planner looks order by order, and does not
/// read all rows of the table that would do.
fn push_some(sql: &mut Sql, table: &str, name: &str, conditions: impl FnOnce(&mut Sql)) {
    sql.push(format!(
        "(SELECT true FROM {table}
          WHERE ({name}.order_id, {name}.merchant_id, {name}.store_id) = (o.order_id, o.merchant_id, o.store_id)"
    ));
    conditions(sql);
    sql.push(" LIMIT 1) IS TRUE");
}

fn push_sku(sql: &mut Sql, sku: &str) {
    sql.push(format!(" AND {SKU} = lower("));
    sql.push_bind(sku.to_owned());
    sql.push(" COLLATE \"C\") AND l.sku = ");
    sql.push_bind(sku.to_owned());
}

/// The same, to find lines by the index of skus in its order. The sku is the only one of a range then: of what equals a text the
/// planner knows that it is in order already, and may read the whole table for it instead.
fn push_range_of_sku(sql: &mut Sql, sku: &str) {
    sql.push(format!(" AND {SKU} BETWEEN lower("));
    sql.push_bind(sku.to_owned());
    sql.push(" COLLATE \"C\") AND lower(");
    sql.push_bind(sku.to_owned());
    sql.push(" COLLATE \"C\") AND l.sku = ");
    sql.push_bind(sku.to_owned());
}

pub(super) fn push_email(sql: &mut Sql, email: &str) {
    sql.push(format!(" AND c.email <> '' AND {EMAIL} = lower("));
    sql.push_bind(email.to_owned());
    sql.push("::text)");
}

pub(super) fn push_external_id(sql: &mut Sql, id: &str) {
    sql.push(format!(" AND c.customer_external_id <> '' AND {EXTERNAL_ID} = "));
    sql.push_bind(id.to_owned());
}

/// Whether an expression begins with a text, in the case that is told.
fn push_begins(sql: &mut Sql, expression: &str, text: &str, case: Case) {
    let (before, behind) = match case {
        Case::AsIs => ("(", "::text"),
        Case::Lower => ("lower(", "::text"),
        Case::LowerAscii => ("lower(", "::text COLLATE \"C\""),
    };
    sql.push(format!("({expression} >= {before}"));
    sql.push_bind(text.to_owned());
    sql.push(format!("{behind}) AND {expression} < {before}"));
    sql.push_bind(text.to_owned());
    sql.push(format!("{behind}) || {LAST})"));
}

#[derive(Clone, Copy)]
enum Case {
    /// As both are written.
    AsIs,
    /// Both in lower case, by the locale of the database.
    Lower,
    /// Both in lower case, as far as they are ASCII.
    LowerAscii,
}

/// What a text is compared with in contacts, each with the condition that its index has.
const OF_CONTACTS: [(&str, &str); 3] = [
    ("c.email <> ''", EMAIL),
    ("c.name <> ''", NAME),
    ("c.name LIKE '% %'", LAST_NAME),
];

/// A number as it is typed, and as shops show it.
fn numbers(text: &str) -> [String; 2] {
    [text.to_owned(), format!("#{text}")]
}

/// The candidates of a text, index by index.
fn push_texts(sql: &mut Sql, tenant: Tenant, text: &str, limit: i64) {
    let mut arms = Arms {
        sql,
        limit,
        first: true,
    };
    for number in numbers(text) {
        arms.push("orders o", "o", "o.number", tenant, |sql| {
            push_begins(sql, "o.number", &number, Case::AsIs)
        });
    }
    for (only, expression) in OF_CONTACTS {
        arms.push("order_contacts c", "c", expression, tenant, |sql| {
            sql.push(only);
            sql.push(" AND ");
            push_begins(sql, expression, text, Case::Lower);
        });
    }
    arms.push("order_lines l", "l", SKU, tenant, |sql| {
        push_begins(sql, SKU, text, Case::LowerAscii)
    });
}

/// Parts of a UNION, each bounded by itself.
struct Arms<'a> {
    sql: &'a mut Sql,
    limit: i64,
    first: bool,
}

impl Arms<'_> {
    fn push(
        &mut self,
        table: &str,
        name: &str,
        order: &str,
        tenant: Tenant,
        condition: impl FnOnce(&mut Sql),
    ) {
        if !std::mem::take(&mut self.first) {
            self.sql.push(" UNION ALL ");
        }
        self.sql.push("(");
        push_from(self.sql, table, name, tenant);
        self.sql.push(" AND ");
        condition(self.sql);
        self.sql.push(format!(" ORDER BY {order} LIMIT {})", self.limit));
    }
}

/// The same of one order.
fn push_begins_somewhere(sql: &mut Sql, text: &str) {
    sql.push(" AND (");
    for number in numbers(text) {
        push_begins(sql, "o.number", &number, Case::AsIs);
        sql.push(" OR ");
    }
    push_some(sql, "order_contacts c", "c", |sql| {
        sql.push(" AND (");
        for (at, (only, expression)) in OF_CONTACTS.into_iter().enumerate() {
            sql.push(if at == 0 { "(" } else { " OR (" });
            sql.push(only);
            sql.push(" AND ");
            push_begins(sql, expression, text, Case::Lower);
            sql.push(")");
        }
        sql.push(")");
    });
    sql.push(" OR ");
    push_some(sql, "order_lines l", "l", |sql| {
        sql.push(" AND ");
        push_begins(sql, SKU, text, Case::LowerAscii);
    });
    sql.push(")");
}
