//! The rows of a CSV file (RFC 4180), so that a broken one costs itself and no other.
//!
//! A text in quotes may hold line breaks, so a quote that is never closed would swallow the rows below it, up to the next
//! quote or the end of the file. So where a row ends is found here: one that goes over several lines has to be sound (its
//! quotes close where a field ends) and to fit the header; else it is given up with its first line alone, and reading goes on
//! with the next line. What the columns mean is not known here.

use csv::{ByteRecord, ReaderBuilder, Trim};

/// The most bytes of a row over several lines: far more than one of an export has, and what looking for the end of an open
/// quote costs at most.
const MAX_ROW: usize = 256 << 10;

/// The rows of a file that is in memory.
pub(super) struct Rows<'a> {
    rest: &'a [u8],
    line: u64,
}

/// One row as it stands in the file.
pub(super) struct RawRow {
    /// Its line, the header being line 1 of a file that begins with it.
    pub line: u64,
    /// Its fields.
    pub record: ByteRecord,
    /// True when a quote in it is not closed; then its fields end with its first line.
    pub open_quote: bool,
}

impl<'a> Rows<'a> {
    /// The rows of this file, the header among them.
    pub fn of(file: &'a [u8]) -> Self {
        Self {
            rest: file.strip_prefix("\u{feff}".as_bytes()).unwrap_or(file),
            line: 1,
        }
    }

    /// The next row; `columns` is how many fields it should have, where that is known.
    pub fn next(&mut self, columns: Option<usize>) -> csv::Result<Option<RawRow>> {
        loop {
            match line_break(self.rest) {
                0 => break,
                length => self.advance(length),
            }
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let first_line = self.rest.len() - after_line(self.rest).len();
        let window = &self.rest[..self.rest.len().min(MAX_ROW)];
        let ends = |length: &usize| *length < window.len() || window.len() == self.rest.len();
        let (mut length, mut open_quote) = match end_of_row(window).filter(ends) {
            Some(length) => (length, false),
            None => (first_line, end_of_row(&self.rest[..first_line]).is_none()),
        };
        let mut record = fields(&self.rest[..length])?;
        if length > first_line && columns.is_some_and(|columns| columns != record.len()) {
            (length, open_quote) = (first_line, true);
            record = fields(&self.rest[..length])?;
        }
        let line = self.line;
        self.advance(length);
        Ok(Some(RawRow {
            line,
            record,
            open_quote,
        }))
    }

    fn advance(&mut self, length: usize) {
        let (mut passed, rest) = self.rest.split_at(length);
        while !passed.is_empty() {
            let after = after_line(passed);
            // A last line without a line break is the last of the file.
            self.line += 1;
            passed = after;
        }
        self.rest = rest;
    }
}

/// The bytes of the line break that a text begins with; 0 when it does not.
fn line_break(text: &[u8]) -> usize {
    match text {
        [b'\r', b'\n', ..] => 2,
        [b'\r' | b'\n', ..] => 1,
        _ => 0,
    }
}

/// What follows the first line of a text and its line break.
fn after_line(text: &[u8]) -> &[u8] {
    let end = text
        .iter()
        .position(|byte| matches!(byte, b'\r' | b'\n'))
        .unwrap_or(text.len());
    &text[end + line_break(&text[end..])..]
}

/// Where the row that a text begins with ends, its line break included; nothing when a quote is not closed, or is closed
/// where no field ends.
fn end_of_row(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        if text.get(at) == Some(&b'"') {
            at = after_quoted(text, at + 1)?;
        } else {
            let plain = text[at..]
                .iter()
                .position(|byte| matches!(byte, b',' | b'\r' | b'\n'));
            at = plain.map_or(text.len(), |length| at + length);
        }
        match text.get(at) {
            None => return Some(at),
            Some(b',') => at += 1,
            Some(_) if line_break(&text[at..]) > 0 => return Some(at + line_break(&text[at..])),
            Some(_) => return None,
        }
    }
}

/// The place after the quote that closes a field which began here; a doubled quote is a letter of the field.
fn after_quoted(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += text.get(at..)?.iter().position(|byte| *byte == b'"')? + 1;
        if text.get(at) != Some(&b'"') {
            return Some(at);
        }
        at += 1;
    }
}

fn fields(row: &[u8]) -> csv::Result<ByteRecord> {
    let mut record = ByteRecord::new();
    let mut reader = ReaderBuilder::new();
    reader
        .has_headers(false)
        .flexible(true)
        .trim(Trim::Fields)
        .buffer_capacity(row.len().max(1));
    reader.from_reader(row).read_byte_record(&mut record)?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rows of a file of three columns: line, fields joined, whether a quote is open.
    fn rows(text: &str) -> Vec<(u64, String, bool)> {
        let mut rows = Rows::of(text.as_bytes());
        let header = rows.next(None).expect("rows in memory").expect("a header");
        let mut found = Vec::new();
        while let Some(row) = rows.next(Some(header.record.len())).expect("rows in memory") {
            let fields: Vec<_> = row
                .record
                .iter()
                .map(|field| String::from_utf8_lossy(field).replace('\n', "/"))
                .collect();
            found.push((row.line, fields.join("|"), row.open_quote));
        }
        found
    }

    fn row(line: u64, fields: &str, open_quote: bool) -> (u64, String, bool) {
        (line, fields.to_owned(), open_quote)
    }

    #[test]
    fn a_quote_that_is_never_closed_costs_its_own_row() {
        let found = rows("a,b,c\n1,x,y\n2,\"x,y\n3,x,y\n4,x,y\n");
        assert_eq!(
            found,
            [
                row(2, "1|x|y", false),
                row(3, "2|x,y", true),
                row(4, "3|x|y", false),
                row(5, "4|x|y", false)
            ]
        );
        // In the last column the row would have the right number of fields.
        let found = rows("a,b,c\n1,x,\"y\n2,x,y\n3,x,y");
        assert_eq!(
            found,
            [
                row(2, "1|x|y", true),
                row(3, "2|x|y", false),
                row(4, "3|x|y", false)
            ]
        );
    }

    #[test]
    fn two_open_quotes_do_not_close_each_other() {
        let found = rows("a,b,c\n1,\"x,y\n2,x,y\n3,\"x,y\n4,x,y\n");
        assert_eq!(
            found,
            [
                row(2, "1|x,y", true),
                row(3, "2|x|y", false),
                row(4, "3|x,y", true),
                row(5, "4|x|y", false)
            ]
        );
    }

    #[test]
    fn a_row_over_several_lines_fits_the_header_or_is_none() {
        let found = rows("a,b,c\n1,\"x\n2\",y,z\n3,x,y\n");
        assert_eq!(
            found,
            [
                row(2, "1|x", true),
                row(3, "2\"|y|z", false),
                row(4, "3|x|y", false)
            ]
        );
    }

    #[test]
    fn an_open_quote_is_not_followed_to_the_end_of_a_large_file() {
        let long = "y".repeat(1000);
        let sound = format!("1,\"\",{long}\n").repeat(MAX_ROW / 500);
        let found = rows(&format!("a,b,c\n0,\"x,y\n{sound}"));
        assert_eq!(found.len(), 1 + MAX_ROW / 500);
        let read = |(_, fields, open): &(u64, String, bool)| *fields == format!("1||{long}") && !open;
        assert!(found[0].2 && found[1..].iter().all(read));
    }

    #[test]
    fn line_breaks_in_quotes_and_quotes_in_texts_are_what_they_are() {
        let found = rows("a,b,c\r\n1,\"x\nx\",y\r\n\r\n2,4\" tall,\"say \"\"x\"\"\"\r\n3,x,y");
        assert_eq!(
            found,
            [
                row(2, "1|x/x|y", false),
                row(5, "2|4\" tall|say \"x\"", false),
                row(6, "3|x|y", false)
            ]
        );
    }

    proptest! {
        /// Whatever the bytes: reading ends, and every line is in exactly one row.
        #[test]
        fn reading_ends_and_lines_only_grow(text in "([a1,\"\n]|\r\n){0,60}") {
            let found = rows(&format!("a,b,c\n{text}"));
            prop_assert!(found.len() <= 1 + text.matches(['\n', '\r']).count());
            prop_assert!(found.windows(2).all(|two| two[0].0 < two[1].0), "{:?}", found);
        }

        /// A broken row between sound ones is the only one that is lost.
        #[test]
        fn sound_rows_around_a_broken_one_are_read(before in 0..5_usize, after in 0..5_usize, broken in "[a1,]{0,6}\"[a1,]{0,6}") {
            let sound = "1,\"x, x\",y\n";
            let text = format!("a,b,c\n{}{broken}\n{}", sound.repeat(before), sound.repeat(after));
            let found = rows(&text);
            let read = found.iter().filter(|(_, fields, _)| fields == "1|x, x|y").count();
            prop_assert!(read >= before + after, "{read} of {} in {found:?}", before + after);
        }
    }
}
