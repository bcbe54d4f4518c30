//! How long, how many, which letters: the limits of everything a caller hands in, except what prices are made of.
//!
//! Texts are counted in characters, not bytes. No text may hold a control character: the database refuses NUL, and line
//! breaks in names are how mail headers are forged. The limits are those the contract names; where it names none, the
//! constant below is the one place that does.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use waybill_kernel::check::Violations;

use super::change::{Path, Update};
use super::draft::{Draft, DraftLine};
use super::order::{Address, Contact, Discount, Source, TaxLine};

/// Lines of an order.
pub const MAX_LINES: usize = 10_000;
/// Shipping lines of an order.
pub const MAX_SHIPPING_LINES: usize = 100;
/// Units of a line.
pub const MAX_QUANTITY: i32 = 1_000_000;
/// Discounts in one place: on a line, on shipping, on the order.
pub const MAX_DISCOUNTS: usize = 100;
/// Taxes on a line.
pub const MAX_TAXES: usize = 50;
/// Attributes of a line.
pub const MAX_ATTRIBUTES: usize = 50;
/// Tags of an order.
pub const MAX_TAGS: usize = 50;
/// Lines of one update.
pub const MAX_UPDATED_LINES: usize = 1_000;
/// Lines that one edit adds, and that it removes, and of which it changes the quantity.
pub const MAX_EDITED_LINES: usize = 1_000;
/// Edits of an order.
pub const MAX_EDITS: usize = 1_000;
/// Characters of a merchant's note.
pub const MAX_NOTE: usize = 2_000;
/// A rate of tax, in parts per million: 1000 %.
pub const MAX_RATE_PPM: i32 = 10_000_000;
/// Characters of a reason for cancelling.
pub const MAX_REASON: usize = 500;
/// Characters of a provider's id of a payment.
pub const MAX_PROVIDER_PAYMENT_ID: usize = 200;
/// Characters of a provider's reason of a failure or dispute.
pub const MAX_PAYMENT_REASON: usize = 100;
/// Characters of the key of a system or provider.
pub const MAX_KEY: usize = 40;
/// Characters of a number.
pub const MAX_NUMBER: usize = 100;
/// Characters of a sku.
pub const MAX_SKU: usize = 100;
/// Characters of a tag.
pub const MAX_TAG: usize = 100;
/// Characters of an e-mail address.
pub const MAX_EMAIL: usize = 254;
/// Characters of an id in another system.
pub const MAX_EXTERNAL_ID: usize = 200;
/// How far a caller's clock may be ahead.
pub const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::minutes(5);

/// Faults that are listed before a caller is told that there are more: they travel in a header.
pub const MAX_FAULTS: usize = 20;

/// Whether enough faults were found to stop looking.
pub(super) fn enough(v: &Violations) -> bool {
    v.len() >= MAX_FAULTS
}

/// The first faults, and a note that there may be more.
#[must_use]
pub fn listed(v: Violations) -> Violations {
    if !enough(&v) {
        return v;
    }
    let mut first = Violations::new();
    first.extend(v.iter().take(MAX_FAULTS).cloned());
    first.push(
        "",
        format!("checking stopped after {MAX_FAULTS} faults; there may be more"),
    );
    first
}

/// Checks everything about a draft that no price is made of.
pub fn check(draft: &Draft, now: DateTime<Utc>, v: &mut Violations) {
    source(&draft.source, v);
    text(v, "number", &draft.number, MAX_NUMBER);
    times(draft, now, v);
    v.nested("customer", |v| customer(&draft.contact, v));
    addresses(draft, v);
    locale(&draft.locale, v);
    text(v, "note", &draft.contact.note, MAX_NOTE);
    tags(&draft.tags, v);
    attributes(&draft.attributes, v);
    discounts(&draft.discounts, v);
    count(v, "shipping_lines", draft.shipping.len(), MAX_SHIPPING_LINES);
    for (index, shipping) in draft.shipping.iter().take(MAX_SHIPPING_LINES).enumerate() {
        v.element("shipping_lines", index, |v| {
            text(v, "title", &shipping.title, 200);
            discounts(&shipping.discounts, v);
            taxes(&shipping.taxes, v);
        });
    }
    v.require(
        !draft.lines.is_empty(),
        "lines",
        "is empty; expected 1 to 10000 lines",
    );
    count(v, "lines", draft.lines.len(), MAX_LINES);
    for (index, draft_line) in draft.lines.iter().take(MAX_LINES).enumerate() {
        if enough(v) {
            return;
        }
        v.element("lines", index, |v| line(draft_line, v));
    }
}

/// Checks where an order came from.
pub fn source(source: &Source, v: &mut Violations) {
    v.nested("source", |v| {
        key(v, "system", &source.system, "shopify");
        required(v, "external_id", &source.external_id, MAX_EXTERNAL_ID);
    });
}

/// Checks the key of a system or provider.
pub fn key(v: &mut Violations, field: &str, value: &str, example: &str) {
    required(v, field, value, MAX_KEY);
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    if !value.chars().all(plain) {
        v.push(
            field,
            format!(
                "expected lower-case letters, digits, dots, dashes and underscores, such as \"{example}\""
            ),
        );
    }
}

/// Checks a text that may be empty.
pub fn text(v: &mut Violations, field: &str, value: &str, max: usize) {
    let length = value.chars().count();
    if length > max {
        v.push(field, format!("has {length} characters; expected at most {max}"));
    }
    if value.chars().any(char::is_control) {
        v.push(
            field,
            "holds a control character, such as a line break; leave it out",
        );
    }
}

/// Checks a text that may not be empty.
pub fn required(v: &mut Violations, field: &str, value: &str, max: usize) {
    if value.trim().is_empty() {
        v.push(field, format!("is missing; expected 1 to {max} characters"));
    }
    text(v, field, value, max);
}

fn count(v: &mut Violations, field: &str, count: usize, max: usize) {
    if count > max {
        v.push(field, format!("has {count} elements; expected at most {max}"));
    }
}

/// Checks everything about a line that no price is made of.
pub fn line(line: &DraftLine, v: &mut Violations) {
    required(v, "sku", &line.sku, MAX_SKU);
    text(v, "title", &line.title, 500);
    text(v, "category", &line.category, 200);
    attributes(&line.attributes, v);
    discounts(&line.discounts, v);
    taxes(&line.taxes, v);
}

/// Checks the new values of an update, each where its path is.
pub fn update(update: &Update, v: &mut Violations) {
    let Contact {
        customer: who,
        shipping,
        billing,
        note,
    } = &update.contact;
    for path in &update.paths {
        match path {
            Path::CustomerEmail => v.nested("customer", |v| email(&who.email, v)),
            Path::CustomerName => v.nested("customer", |v| text(v, "name", &who.name, 200)),
            Path::CustomerPhone => v.nested("customer", |v| text(v, "phone", &who.phone, 50)),
            Path::ShippingAddress => given_address("shipping_address", shipping.as_ref(), v),
            Path::BillingAddress => given_address("billing_address", billing.as_ref(), v),
            Path::Note => text(v, "note", note, MAX_NOTE),
            Path::Tags => tags(&update.tags, v),
            Path::Attributes => attributes(&update.attributes, v),
            // Checked where they are read, in the order in which the caller gave them.
            Path::LineAttributes => {}
        }
    }
}

fn tags(tags: &[String], v: &mut Violations) {
    count(v, "tags", tags.len(), MAX_TAGS);
    for (index, tag) in tags.iter().take(MAX_TAGS).enumerate() {
        v.element("tags", index, |v| required(v, "", tag, MAX_TAG));
    }
}

/// Checks what else is known of an order or a line.
pub fn attributes(attributes: &BTreeMap<String, String>, v: &mut Violations) {
    count(v, "attributes", attributes.len(), MAX_ATTRIBUTES);
    for (index, (key, value)) in attributes.iter().take(MAX_ATTRIBUTES).enumerate() {
        // The key may be the very thing that is too long, so it is named by its place.
        v.element("attributes", index, |v| {
            required(v, "key", key, 200);
            text(v, "value", value, 200);
        });
    }
}

fn discounts<A>(discounts: &[Discount<A>], v: &mut Violations) {
    count(v, "discounts", discounts.len(), MAX_DISCOUNTS);
    for (index, discount) in discounts.iter().take(MAX_DISCOUNTS).enumerate() {
        v.element("discounts", index, |v| {
            text(v, "code", &discount.code, 100);
            text(v, "title", &discount.title, 200);
        });
    }
}

fn taxes<A>(taxes: &[TaxLine<A>], v: &mut Violations) {
    count(v, "taxes", taxes.len(), MAX_TAXES);
    for (index, tax) in taxes.iter().take(MAX_TAXES).enumerate() {
        v.element("taxes", index, |v| {
            text(v, "jurisdiction", &tax.jurisdiction, 50);
            text(v, "title", &tax.title, 100);
            if !(0..=MAX_RATE_PPM).contains(&tax.rate_ppm) {
                v.push(
                    "rate_ppm",
                    format!("is {}; expected 0 to {MAX_RATE_PPM}", tax.rate_ppm),
                );
            }
        });
    }
}

fn times(draft: &Draft, now: DateTime<Utc>, v: &mut Violations) {
    let placed_at = draft.placed_at.unwrap_or(now);
    if placed_at > now + MAX_CLOCK_SKEW {
        v.push(
            "placed_at",
            format!("is {placed_at}, more than 5 minutes ahead of this server's clock ({now})"),
        );
    }
    if placed_at < DateTime::UNIX_EPOCH {
        v.push("placed_at", "is before 1970; leave it out when it is not known");
    }
    let (ship, deliver) = (draft.promised_ship_at, draft.promised_delivery_at);
    for (field, promise) in [("promised_ship_at", ship), ("promised_delivery_at", deliver)] {
        if promise.is_some_and(|promise| promise < placed_at) {
            v.push(field, format!("is before the order was placed ({placed_at})"));
        }
    }
    if let (Some(ship), Some(deliver)) = (ship, deliver)
        && ship > deliver
    {
        v.push(
            "promised_delivery_at",
            format!("is {deliver}, before promised_ship_at ({ship})"),
        );
    }
}

fn customer(contact: &Contact, v: &mut Violations) {
    let customer = &contact.customer;
    text(v, "external_id", &customer.external_id, MAX_EXTERNAL_ID);
    text(v, "name", &customer.name, 200);
    text(v, "phone", &customer.phone, 50);
    email(&customer.email, v);
}

fn email(email: &str, v: &mut Violations) {
    text(v, "email", email, MAX_EMAIL);
    if !email.is_empty() {
        let deliverable = email
            .rsplit_once('@')
            .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty() && !local.contains('@'))
            && !email.contains(char::is_whitespace);
        v.require(
            deliverable,
            "email",
            "is no e-mail address; expected one such as \"name@example.org\", or none",
        );
    }
}

fn addresses(draft: &Draft, v: &mut Violations) {
    if draft.contact.shipping.is_none() && draft.lines.iter().any(|line| !line.digital) {
        v.push(
            "shipping_address",
            "is missing; expected one, since a line is not digital",
        );
    }
    given_address("shipping_address", draft.contact.shipping.as_ref(), v);
    given_address("billing_address", draft.contact.billing.as_ref(), v);
}

fn given_address(field: &str, given: Option<&Address>, v: &mut Violations) {
    if let Some(given) = given {
        v.nested(field, |v| address(given, v));
    }
}

fn address(address: &Address, v: &mut Violations) {
    text(v, "name", &address.name, 200);
    text(v, "company", &address.company, 200);
    count(v, "lines", address.lines.len(), 4);
    for (index, line) in address.lines.iter().take(4).enumerate() {
        v.element("lines", index, |v| text(v, "", line, 200));
    }
    text(v, "city", &address.city, 200);
    text(v, "region", &address.region, 200);
    text(v, "postal_code", &address.postal_code, 50);
    text(v, "phone", &address.phone, 50);
    let country = &address.country_code;
    v.require(
        country.len() == 2 && country.bytes().all(|b| b.is_ascii_uppercase()),
        "country_code",
        "expected two upper-case letters of ISO 3166-1, such as \"GB\"",
    );
}

fn locale(locale: &str, v: &mut Violations) {
    text(v, "locale", locale, 35);
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
    v.require(
        locale.is_empty() || locale.split('-').all(plain),
        "locale",
        "expected a BCP 47 tag such as \"en-GB\", or none",
    );
}
