//! Imports: a file of orders that is read once, however often the stream that brings it breaks.
//!
//! What is durable of an import is a place in its file and counts of what became of the orders before it. Both move together
//! and forward only (O-20).

use chrono::{DateTime, Utc};

/// Refused lines that are remembered of one import; further ones are counted.
pub const MAX_REFUSALS: i64 = 10_000;
/// Rows of one import.
pub const MAX_ROWS: i64 = 5_000_000;

/// How the orders of an import are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportFormat {
    /// Shopify's order export.
    ShopifyCsv,
    /// A line of protobuf JSON for each order.
    JsonLines,
}

keys! { ImportFormat {
    ShopifyCsv = "shopify_csv",
    JsonLines = "json_lines",
} }

/// What a caller says about a file when opening its import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The caller's key.
    pub id: String,
    /// How the orders are written down.
    pub format: ImportFormat,
    /// The file's size, where it is known.
    pub size: Option<i64>,
    /// The file's SHA-256 in hexadecimal; empty when it is not known.
    pub sha256: String,
}

/// An import as far as it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The caller's key.
    pub id: String,
    /// How the orders are written down.
    pub format: ImportFormat,
    /// The file's size, once somebody said.
    pub size: Option<i64>,
    /// The file's SHA-256, once somebody said.
    pub sha256: String,
    /// What stands before all orders and is needed to read on; nothing before it has been read.
    pub header: Vec<u8>,
    /// How often it was opened: who opened it last goes on with it.
    pub epoch: i64,
    /// Whether the whole file was read.
    pub is_done: bool,
    /// Everything before this byte is durable.
    pub bytes_done: i64,
    /// The same in lines.
    pub lines_done: i64,
    /// What became of it.
    pub counts: Counts,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When it came this far.
    pub updated_at: DateTime<Utc>,
}

/// What became of orders.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows they were written on.
    pub rows: i64,
    /// Placed by this import.
    pub placed: i64,
    /// Placed before.
    pub duplicates: i64,
    /// Refused.
    pub refused: i64,
    /// Payments that are recorded.
    pub payments: i64,
    /// Payments that could not be.
    pub payments_refused: i64,
}

/// A refused line as it is remembered: nothing of what stood in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The line.
    pub line: i64,
    /// The reason code.
    pub reason: String,
    /// The fields at fault, joined by commas.
    pub fields: String,
}

/// An import is not of the file that it is opened with: in what, what it was, and what it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differs {
    /// In what.
    pub field: &'static str,
    /// What it was opened with first.
    pub was: String,
    /// What it is opened with now.
    pub is: String,
}

impl Import {
    /// Whether an opening is about the same file, as far as is known.
    ///
    /// # Errors
    ///
    /// In what it differs.
    pub fn is_of(&self, opening: &Opening) -> Result<(), Differs> {
        let differs = |field, was: String, is: String| Err(Differs { field, was, is });
        if self.format != opening.format {
            return differs(
                "format",
                self.format.as_str().to_owned(),
                opening.format.as_str().to_owned(),
            );
        }
        if let (Some(was), Some(is)) = (self.size, opening.size)
            && was != is
        {
            return differs("size_bytes", was.to_string(), is.to_string());
        }
        if let Some(is) = opening.size
            && is < self.bytes_done
        {
            return differs(
                "size_bytes",
                format!("{} or more", self.bytes_done),
                is.to_string(),
            );
        }
        let both = !self.sha256.is_empty() && !opening.sha256.is_empty();
        if both && self.sha256 != opening.sha256 {
            return differs("sha256", self.sha256.clone(), opening.sha256.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_of_one_file_as_far_as_is_known() {
        let opening = Opening {
            id: "i".into(),
            format: ImportFormat::JsonLines,
            size: Some(7),
            sha256: "aa".into(),
        };
        let import = Import {
            id: "i".into(),
            format: ImportFormat::JsonLines,
            size: Some(7),
            sha256: String::new(),
            header: Vec::new(),
            epoch: 1,
            is_done: false,
            bytes_done: 0,
            lines_done: 0,
            counts: Counts::default(),
            created_at: DateTime::UNIX_EPOCH,
            updated_at: DateTime::UNIX_EPOCH,
        };
        assert_eq!(import.is_of(&opening), Ok(()));
        let silent = Opening {
            size: None,
            sha256: String::new(),
            ..opening.clone()
        };
        assert_eq!(import.is_of(&silent), Ok(()));
        let field =
            |import: &Import, opening: &Opening| import.is_of(opening).map_err(|differs| differs.field);
        let other = Opening {
            format: ImportFormat::ShopifyCsv,
            ..opening.clone()
        };
        assert_eq!(field(&import, &other), Err("format"));
        let longer = Opening {
            size: Some(8),
            ..opening.clone()
        };
        assert_eq!(field(&import, &longer), Err("size_bytes"));
        let begun = Import {
            size: None,
            bytes_done: 8,
            ..import.clone()
        };
        assert_eq!(field(&begun, &opening), Err("size_bytes"));
        let known = Import {
            sha256: "bb".into(),
            ..import
        };
        assert_eq!(field(&known, &opening), Err("sha256"));
    }
}
