//! What may change about an order after its placement, and until when.
//!
//! An update names *paths*; only those are looked at. Contact and details may change at any time, also of an order that
//! has ended, since returns and refunds still write to the customer. Addresses only while they still decide something:
//! before everything has shipped, and not of an order at its end. The terms are not here: they never change (O-2).

use std::collections::{BTreeMap, BTreeSet};

use waybill_kernel::id::LineId;

use super::goods::FulfillmentStatus;
use super::order::Contact;
use super::state::{State, Status};

/// Something that an update can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// The customer's e-mail address.
    CustomerEmail,
    /// The customer's name.
    CustomerName,
    /// The customer's phone number.
    CustomerPhone,
    /// Where the goods go.
    ShippingAddress,
    /// Where the invoice goes.
    BillingAddress,
    /// The merchant's note.
    Note,
    /// Free tags.
    Tags,
    /// What else is known of the order.
    Attributes,
    /// What else is known of lines.
    LineAttributes,
}

keys! { Path {
    CustomerEmail = "customer.email",
    CustomerName = "customer.name",
    CustomerPhone = "customer.phone",
    ShippingAddress = "shipping_address",
    BillingAddress = "billing_address",
    Note = "note",
    Tags = "tags",
    Attributes = "attributes",
    LineAttributes = "line_attributes",
} }

impl Path {
    fn is_address(self) -> bool {
        matches!(self, Path::ShippingAddress | Path::BillingAddress)
    }

    /// Whether it is part of the contact, and so forgotten with the person.
    #[must_use]
    pub fn is_personal(self) -> bool {
        !matches!(self, Path::Tags | Path::Attributes | Path::LineAttributes)
    }
}

/// Pairs of what else is known.
pub type Attributes = BTreeMap<String, String>;

/// What may change of an order; of its lines, those that an update is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Personal data; nothing once it was erased.
    pub contact: Option<Contact>,
    /// Free tags.
    pub tags: Vec<String>,
    /// What else is known of the order.
    pub attributes: Attributes,
    /// What else is known of lines.
    pub lines: BTreeMap<LineId, Attributes>,
}

/// New values, and which of them are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// The values; what no path names is not looked at.
    pub contact: Contact,
    /// See [`Details::tags`].
    pub tags: Vec<String>,
    /// See [`Details::attributes`].
    pub attributes: Attributes,
    /// See [`Details::lines`].
    pub lines: BTreeMap<LineId, Attributes>,
    /// What is meant; at least one.
    pub paths: BTreeSet<Path>,
}

/// An update cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotUpdatable {
    /// An address no longer decides anything.
    AddressSettled {
        /// Which.
        path: Path,
        /// Where the order stands.
        status: Status,
        /// Where its goods stand.
        fulfillment: FulfillmentStatus,
    },
    /// Goods that need shipping need an address.
    AddressNeeded,
    /// The person was forgotten; there is nothing to change.
    ContactErased {
        /// The first path that is part of the contact.
        path: Path,
    },
    /// A line of another order.
    UnknownLine(LineId),
}

impl Details {
    /// Applies an update; tells which paths it changed.
    ///
    /// # Errors
    /// When a part of it cannot be; nothing has changed then.
    pub fn apply(&mut self, update: &Update, state: &State) -> Result<BTreeSet<Path>, NotUpdatable> {
        self.check(update, state)?;
        let changed = update
            .paths
            .iter()
            .copied()
            .filter(|path| self.put(*path, update));
        Ok(changed.collect())
    }

    fn check(&self, update: &Update, state: &State) -> Result<(), NotUpdatable> {
        let mut paths = update.paths.iter().copied();
        if let Some(path) = paths.clone().find(|path| path.is_address())
            && state.addresses_are_settled()
        {
            return Err(NotUpdatable::AddressSettled {
                path,
                status: state.status,
                fulfillment: state.fulfillment_status(),
            });
        }
        if let Some(path) = paths.find(|path| path.is_personal())
            && self.contact.is_none()
        {
            return Err(NotUpdatable::ContactErased { path });
        }
        let emptied = update.paths.contains(&Path::ShippingAddress) && update.contact.shipping.is_none();
        if emptied && state.goods.to_ship > 0 {
            return Err(NotUpdatable::AddressNeeded);
        }
        if update.paths.contains(&Path::LineAttributes)
            && let Some(unknown) = update.lines.keys().find(|line| !self.lines.contains_key(line))
        {
            return Err(NotUpdatable::UnknownLine(*unknown));
        }
        Ok(())
    }

    /// Sets one path; tells whether that changed it.
    fn put(&mut self, path: Path, update: &Update) -> bool {
        match path {
            Path::Tags => set(&mut self.tags, &update.tags),
            Path::Attributes => set(&mut self.attributes, &update.attributes),
            Path::LineAttributes => (self.lines.iter_mut())
                .filter_map(|(line, attributes)| Some((attributes, update.lines.get(line)?)))
                .fold(false, |changed, (old, new)| set(old, new) || changed),
            personal => {
                (self.contact.as_mut()).is_some_and(|contact| put_contact(contact, personal, &update.contact))
            }
        }
    }
}

fn put_contact(contact: &mut Contact, path: Path, new: &Contact) -> bool {
    match path {
        Path::CustomerEmail => set(&mut contact.customer.email, &new.customer.email),
        Path::CustomerName => set(&mut contact.customer.name, &new.customer.name),
        Path::CustomerPhone => set(&mut contact.customer.phone, &new.customer.phone),
        Path::ShippingAddress => set(&mut contact.shipping, &new.shipping),
        Path::BillingAddress => set(&mut contact.billing, &new.billing),
        Path::Note => set(&mut contact.note, &new.note),
        Path::Tags | Path::Attributes | Path::LineAttributes => false,
    }
}

fn set<T: Clone + PartialEq>(old: &mut T, new: &T) -> bool {
    let changed = old != new;
    if changed {
        old.clone_from(new);
    }
    changed
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
