//! The bytes of a file that have arrived and were not read yet, and where they stand in it.

use super::Place;

/// A window on a file that moves forward.
#[derive(Debug)]
pub(super) struct Pieces {
    buffer: Vec<u8>,
    /// What of the buffer was read.
    read: usize,
    at: Place,
    ended: bool,
}

impl Pieces {
    pub(super) fn at(place: Place) -> Pieces {
        Pieces {
            buffer: Vec::new(),
            read: 0,
            at: place,
            ended: false,
        }
    }

    pub(super) fn feed(&mut self, piece: &[u8], is_last: bool) {
        self.buffer.drain(..self.read);
        self.read = 0;
        self.buffer.extend_from_slice(piece);
        self.ended |= is_last;
    }

    /// What has arrived and was not read.
    pub(super) fn rest(&self) -> &[u8] {
        &self.buffer[self.read..]
    }

    /// Whether nothing more will arrive.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Where the rest begins.
    pub(super) fn place(&self) -> Place {
        self.at
    }

    /// Passes bytes that hold so many ends of lines.
    pub(super) fn advance(&mut self, bytes: usize, lines: u64) {
        self.read += bytes;
        self.at.byte += bytes as u64;
        self.at.line += lines;
    }

    /// Passes a mark of Unicode at the beginning of a file. False while it is not known whether there is one.
    pub(super) fn without_mark(&mut self) -> bool {
        const MARK: &[u8] = "\u{feff}".as_bytes();
        if self.at != Place::START {
            return true;
        }
        if self.rest().starts_with(MARK) {
            self.advance(MARK.len(), 0);
            return true;
        }
        self.ended || self.rest().len() >= MARK.len() || !MARK.starts_with(self.rest())
    }
}
