//! Names that become part of SQL text. Only what is checked here is ever put into a statement without being a parameter.

use std::fmt;

/// The longest name accepted: `waybill_` before it still fits into Postgres' 63 bytes with room to spare.
const MAX: usize = 30;

/// A checked schema or service name: 1 to 30 of `a` to `z` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Name(String);

/// The text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no service name; use 1 to {MAX} characters of a to z and _")]
pub struct NameError(String);

impl Name {
    pub(crate) fn parse(text: &str) -> Result<Name, NameError> {
        let fits = (1..=MAX).contains(&text.len());
        // `pg_` is reserved by Postgres, `public` belongs to everybody.
        let free = !text.starts_with("pg_") && text != "public" && text != "information_schema";
        if fits && free && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            return Ok(Name(text.to_owned()));
        }
        Err(NameError(text.chars().take(64).collect()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Quoted, since `order` is a word of SQL.
    pub(crate) fn quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words() {
        for good in ["order", "a", "store_test", &"x".repeat(30)] {
            assert_eq!(Name::parse(good).map(|n| n.quoted()), Ok(format!("\"{good}\"")));
        }
        for bad in [
            "",
            "Order",
            "o rder",
            "a\"; drop table x; --",
            "pg_temp",
            "public",
            "a1",
            "ä",
            &"x".repeat(31),
        ] {
            assert!(Name::parse(bad).is_err(), "{bad}");
        }
    }
}
