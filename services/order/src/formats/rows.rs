//! The rows of a CSV file (RFC 4180), so that a broken one costs itself and no other.
//!
//! A text in quotes may hold line breaks, so a quote that is never closed would swallow the rows below it, up to the next
//! quote or the end of the file. So where a row ends is found here: one that goes over several lines has to be sound (its
//! quotes close where a field ends) and to fit the header; else it is given up with its first line alone, and reading goes on
//! with the next line. What the columns mean is not known here.

use csv::{ByteRecord, ReaderBuilder, Trim};

use super::Place;
use super::pieces::Pieces;

/// The most bytes of a row: far more than one of an export has, and what looking for the end of an open quote costs at most.
pub(super) const MAX_ROW: usize = 256 << 10;

/// The rows of a file that arrives in pieces. They are the same however it is cut.
#[derive(Debug)]
pub(super) struct Rows {
    pieces: Pieces,
    /// Where a row began whose first line has no end within [`MAX_ROW`]; that end is looked for.
    too_long: Option<Place>,
    /// How much must have arrived before looking for the end of a row again: a file that comes in tiny pieces is not read
    /// from the beginning of the row for each of them.
    worthwhile: usize,
}

/// One row as it stands in the file.
#[derive(Debug)]
pub(super) struct RawRow {
    /// Where it begins.
    pub begin: Place,
    /// Where it ends.
    pub end: Place,
    /// Its fields.
    pub record: ByteRecord,
    /// Why it is none.
    pub broken: Option<Broken>,
}

/// Why a row is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// A quote in it is not closed; its fields end with its first line.
    OpenQuote,
    /// Its first line has more than [`MAX_ROW`] bytes; it has no fields.
    TooLong,
}

/// What reading on has led to.
#[derive(Debug)]
pub(super) enum Step {
    /// A row.
    Row(RawRow),
    /// More of the file has to arrive.
    More,
    /// The end of the file.
    End,
}

impl Rows {
    /// The rows of a file from this place on; at its beginning the header is among them.
    pub(super) fn at(place: Place) -> Rows {
        Rows {
            pieces: Pieces::at(place),
            too_long: None,
            worthwhile: 0,
        }
    }

    pub(super) fn feed(&mut self, piece: &[u8], is_last: bool) {
        self.pieces.feed(piece, is_last);
    }

    /// Where reading goes on.
    pub(super) fn place(&self) -> Place {
        self.pieces.place()
    }

    /// The next row; `columns` is how many fields it should have, where that is known.
    pub(super) fn next(&mut self, columns: Option<usize>) -> csv::Result<Step> {
        if !self.pieces.without_mark() {
            return Ok(Step::More);
        }
        if let Some(begin) = self.too_long {
            return Ok(self.pass_line(begin));
        }
        let ended = self.pieces.ended();
        loop {
            match self.pieces.rest() {
                [] => return Ok(if ended { Step::End } else { Step::More }),
                // Perhaps the other half of the line break follows.
                [b'\r'] if !ended => return Ok(Step::More),
                rest => match line_break(rest) {
                    0 => break,
                    length => self.pieces.advance(length, 1),
                },
            }
        }
        let (begin, rest) = (self.pieces.place(), self.pieces.rest());
        if !ended && rest.len() < self.worthwhile {
            return Ok(Step::More);
        }
        self.worthwhile = 0;
        let window = &rest[..rest.len().min(MAX_ROW)];
        // What ends where the window does may go on behind it.
        let ends = |length: &usize| *length < window.len() || (ended && window.len() == rest.len());
        let end = end_of_row(window).filter(ends);
        if end.is_none() && !ended && rest.len() <= MAX_ROW {
            self.worthwhile = rest.len() + rest.len() / 4 + 1;
            return Ok(Step::More);
        }
        let first_line = rest.len() - after_line(rest).len();
        if first_line > MAX_ROW {
            return Ok(self.pass_line(begin));
        }
        let (mut length, mut open_quote) = match end {
            Some(length) => (length, false),
            None => (first_line, end_of_row(&rest[..first_line]).is_none()),
        };
        let mut record = fields(&rest[..length])?;
        if length > first_line && columns.is_some_and(|columns| columns != record.len()) {
            (length, open_quote) = (first_line, true);
            record = fields(&rest[..length])?;
        }
        let lines = line_breaks(&rest[..length]);
        self.pieces.advance(length, lines);
        Ok(Step::Row(RawRow {
            begin,
            end: self.pieces.place(),
            record,
            broken: open_quote.then_some(Broken::OpenQuote),
        }))
    }

    /// Passes the rest of a line that is too long, without keeping it.
    fn pass_line(&mut self, begin: Place) -> Step {
        let (rest, ended) = (self.pieces.rest(), self.pieces.ended());
        let break_at = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        self.too_long = Some(begin);
        match break_at {
            None => {
                let length = rest.len();
                self.pieces.advance(length, 0);
                if !ended {
                    return Step::More;
                }
            }
            Some(at) if !ended && rest[at..] == *b"\r" => {
                self.pieces.advance(at, 0);
                return Step::More;
            }
            Some(at) => {
                let length = at + line_break(&rest[at..]);
                self.pieces.advance(length, 1);
            }
        }
        self.too_long = None;
        Step::Row(RawRow {
            begin,
            end: self.pieces.place(),
            record: ByteRecord::new(),
            broken: Some(Broken::TooLong),
        })
    }
}

/// How many lines end in a text.
fn line_breaks(text: &[u8]) -> u64 {
    let mut lines = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let after = after_line(rest);
        // A last line without a line break is the last of the file.
        let line = &rest[..rest.len() - after.len()];
        lines += u64::from(matches!(line.last(), Some(b'\r' | b'\n')));
        rest = after;
    }
    lines
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

/// The fields of a row.
pub(super) fn fields(row: &[u8]) -> csv::Result<ByteRecord> {
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

    /// The rows of a file of three columns that arrives in pieces of this size: line, fields joined, whether a quote is open.
    fn cut(text: &str, piece: usize) -> Vec<(u64, String, bool)> {
        let mut rows = Rows::at(Place::START);
        let mut found = Vec::new();
        let mut columns = None;
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(piece).collect();
        for (at, bytes) in pieces.iter().enumerate() {
            rows.feed(bytes, at + 1 == pieces.len());
            loop {
                match rows.next(columns).expect("rows in memory") {
                    Step::More => break,
                    Step::End => {
                        assert_eq!((at + 1, rows.place().byte), (pieces.len(), text.len() as u64));
                        return found;
                    }
                    Step::Row(row) if columns.is_none() => columns = Some(row.record.len()),
                    Step::Row(row) => {
                        let fields = (row.record.iter())
                            .map(|field| String::from_utf8_lossy(field).replace('\n', "/"));
                        let fields = fields.collect::<Vec<_>>().join("|");
                        found.push((row.begin.line, fields, row.broken == Some(Broken::OpenQuote)));
                    }
                }
            }
        }
        panic!("no end after the last piece");
    }

    fn rows(text: &str) -> Vec<(u64, String, bool)> {
        cut(text, text.len())
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

    #[test]
    fn a_line_that_is_too_long_costs_itself() {
        let long = "y".repeat(2 * MAX_ROW);
        let found = rows(&format!("a,b,c\n1,x,{long}\r\n2,x,y\n"));
        assert_eq!(found, [row(2, "", false), row(3, "2|x|y", false)]);
        assert_eq!(cut(&format!("a,b,c\n1,x,{long}\r\n2,x,y\n"), 1000), found);
    }

    proptest! {
        /// The same rows come out of a file however it is cut.
        #[test]
        fn rows_do_not_depend_on_pieces(text in "([a1,\"\r\n]|\r\n){0,60}", piece in 1..20_usize) {
            let text = format!("a,b,c\n{text}");
            prop_assert_eq!(cut(&text, piece), rows(&text));
        }

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
