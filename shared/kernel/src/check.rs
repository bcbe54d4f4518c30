//! Collecting every fault of an input, so that a caller can mend them all at once.
//!
//! Fields are named as the caller wrote them, with dots and indexes: `lines[3].unit_price.currency_code`. Descriptions
//! say what is wrong and what would be right. Whether a fault is a gRPC status or a line on a terminal is not decided
//! here.

use std::fmt;

/// One fault of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// The path of the field.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub description: String,
}

impl fmt::Display for FieldViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.description)
    }
}

/// All faults found in an input; an error once there is at least one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations {
    found: Vec<FieldViolation>,
    /// Path of the part that is being checked, without a dot at its end.
    prefix: String,
}

impl Violations {
    /// No faults yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a fault of a field of the part that is being checked. An empty field name means the part itself.
    pub fn push(&mut self, field: impl AsRef<str>, description: impl Into<String>) {
        let field = self.path(field.as_ref());
        self.found.push(FieldViolation {
            field,
            description: description.into(),
        });
    }

    /// Notes a fault of a field when the condition does not hold.
    pub fn require(&mut self, holds: bool, field: impl AsRef<str>, description: impl Into<String>) {
        if !holds {
            self.push(field, description);
        }
    }

    /// Checks a part of the input: fields that `check` names are inside `field`.
    pub fn nested<T>(&mut self, field: impl AsRef<str>, check: impl FnOnce(&mut Self) -> T) -> T {
        let inner = self.path(field.as_ref());
        let outer = std::mem::replace(&mut self.prefix, inner);
        let result = check(self);
        self.prefix = outer;
        result
    }

    /// Checks one element of a repeated field: fields that `check` names are inside `field[index]`.
    pub fn element<T>(
        &mut self,
        field: impl AsRef<str>,
        index: usize,
        check: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.nested(format!("{}[{index}]", field.as_ref()), check)
    }

    /// The value of a result, or `None` with its error noted against a field.
    pub fn value<T, E: fmt::Display>(&mut self, field: impl AsRef<str>, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.push(field, error.to_string())).ok()
    }

    /// Takes over the faults of a part that was checked by itself.
    pub fn absorb(&mut self, field: impl AsRef<str>, part: Self) {
        for violation in part.found {
            self.nested(field.as_ref(), |v| v.push(violation.field, violation.description));
        }
    }

    /// The faults, in the order they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, FieldViolation> {
        self.found.iter()
    }

    /// How many faults were found.
    #[must_use]
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether no fault was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Nothing when there was no fault, else all of them.
    ///
    /// # Errors
    /// The faults, when there are any.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }

    fn path(&self, field: &str) -> String {
        match (self.prefix.as_str(), field) {
            ("", field) => field.to_owned(),
            (prefix, "") => prefix.to_owned(),
            // An index follows its field without a dot.
            (prefix, field) if field.starts_with('[') => format!("{prefix}{field}"),
            (prefix, field) => format!("{prefix}.{field}"),
        }
    }
}

impl From<FieldViolation> for Violations {
    fn from(violation: FieldViolation) -> Self {
        Self {
            found: vec![violation],
            prefix: String::new(),
        }
    }
}

impl Extend<FieldViolation> for Violations {
    fn extend<I: IntoIterator<Item = FieldViolation>>(&mut self, violations: I) {
        for violation in violations {
            self.push(violation.field, violation.description);
        }
    }
}

impl<'a> IntoIterator for &'a Violations {
    type Item = &'a FieldViolation;
    type IntoIter = std::slice::Iter<'a, FieldViolation>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, violation) in self.found.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            violation.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_kept_with_its_path() {
        let mut v = Violations::new();
        v.push("merchant_id", "is missing");
        v.nested("customer", |v| {
            v.push("email", "has no @");
            v.element("addresses", 1, |v| {
                v.push("city", "is empty");
                v.push("", "has no lines");
            });
        });
        v.require(true, "note", "never noted");
        v.require(false, "note", "is too long");

        let fields: Vec<&str> = v.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "merchant_id",
                "customer.email",
                "customer.addresses[1].city",
                "customer.addresses[1]",
                "note"
            ]
        );
        let error = v.into_result().expect_err("there are faults");
        assert!(
            error
                .to_string()
                .starts_with("merchant_id: is missing; customer.email: has no @; "),
            "{error}"
        );
    }

    #[test]
    fn values_and_parts_are_taken_over() {
        let mut part = Violations::new();
        assert_eq!(part.value("quantity", "7".parse::<u32>()), Some(7));
        assert_eq!(part.value("price", "x".parse::<u32>()), None);
        part.push("[0].sku", "is empty");
        let mut v = Violations::new();
        v.absorb("lines", part);
        v.extend([FieldViolation {
            field: "note".into(),
            description: "is too long".into(),
        }]);
        let fields: Vec<&str> = (&v)
            .into_iter()
            .map(|violation| violation.field.as_str())
            .collect();
        assert_eq!(fields, ["lines.price", "lines[0].sku", "note"]);
    }

    #[test]
    fn no_fault_is_no_error() {
        assert_eq!(Violations::new().into_result(), Ok(()));
        assert!(Violations::new().is_empty());
        assert_eq!(Violations::new().to_string(), "");
    }
}
