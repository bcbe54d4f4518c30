//! The bytes of an object in the archive: length-delimited `LoggedEvent`s, gzip. Pure.

use std::io::Write as _;

use bytes::{Buf as _, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::{GzDecoder, GzEncoder};
use prost::Message as _;
use prost::encoding::decode_varint;
use sha2::{Digest as _, Sha256};
use waybill_proto::waybill::events::v1::LoggedEvent;

use super::Stored;
use crate::event::MAX_PAYLOAD_BYTES;

/// The longest message: the largest payload with all that surrounds it.
const MAX_MESSAGE: usize = MAX_PAYLOAD_BYTES + 64 * 1024;

/// The longest length of a message.
const MAX_LENGTH: usize = 10;

/// Makes the bytes.
pub(crate) struct Encoder {
    gzip: GzEncoder<Vec<u8>>,
    digest: Sha256,
    bytes: u64,
}

impl Encoder {
    pub fn new() -> Self {
        Encoder {
            gzip: GzEncoder::new(Vec::new(), Compression::fast()),
            digest: Sha256::new(),
            bytes: 0,
        }
    }

    pub fn push(&mut self, event: &LoggedEvent) {
        self.gzip
            .write_all(&event.encode_length_delimited_to_vec())
            .expect("memory takes all that is written to it");
    }

    /// What is ready.
    pub fn take(&mut self) -> Bytes {
        let made = std::mem::take(self.gzip.get_mut());
        self.digest.update(&made);
        self.bytes += made.len() as u64;
        made.into()
    }

    /// The last bytes, and what all of them are.
    pub fn finish(mut self) -> (Bytes, Stored) {
        self.gzip
            .try_finish()
            .expect("memory takes all that is written to it");
        let made = self.take();
        let stored = Stored {
            bytes: self.bytes,
            sha256: self.digest.finalize().into(),
        };
        (made, stored)
    }
}

/// The bytes are not what an [`Encoder`] makes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("it is not compressed as it should be: {0}")]
    Gzip(std::io::Error),
    #[error("it ends in the middle of an event")]
    Short,
    #[error("an event of {0} bytes is longer than any can be")]
    Long(u64),
    #[error("an event does not decode: {0}")]
    Event(#[from] prost::DecodeError),
}

/// Reads the bytes.
pub(crate) struct Decoder {
    gzip: GzDecoder<Vec<u8>>,
    plain: BytesMut,
}

impl Decoder {
    pub fn new() -> Self {
        Decoder {
            gzip: GzDecoder::new(Vec::new()),
            plain: BytesMut::new(),
        }
    }

    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.gzip.write_all(bytes).map_err(Malformed::Gzip)?;
        self.collect();
        Ok(())
    }

    /// There is no more to feed.
    pub fn finish(&mut self) -> Result<(), Malformed> {
        self.gzip.try_finish().map_err(Malformed::Gzip)?;
        self.collect();
        // All whole events may still be there; what is left after them is none.
        let mut rest = Decoder {
            gzip: GzDecoder::new(Vec::new()),
            plain: self.plain.clone(),
        };
        while rest.next()?.is_some() {}
        if rest.plain.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Short)
        }
    }

    fn collect(&mut self) {
        let made = self.gzip.get_mut();
        self.plain.extend_from_slice(made);
        made.clear();
    }

    /// The next event that is complete.
    pub fn next(&mut self) -> Result<Option<LoggedEvent>, Malformed> {
        let mut ahead: &[u8] = &self.plain;
        let before = ahead.len();
        if !ahead.iter().take(MAX_LENGTH).any(|byte| *byte < 0x80) && before < MAX_LENGTH {
            return Ok(None);
        }
        let length = decode_varint(&mut ahead)?;
        if length > MAX_MESSAGE as u64 {
            return Err(Malformed::Long(length));
        }
        let length = length as usize;
        if ahead.len() < length {
            return Ok(None);
        }
        self.plain.advance(before - ahead.len());
        let message = self.plain.split_to(length).freeze();
        Ok(Some(LoggedEvent::decode(message)?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::Event;
    use crate::event::tests::any_event;

    fn encoded(events: &[Event]) -> (Vec<u8>, Stored) {
        let mut encoder = Encoder::new();
        let mut all = Vec::new();
        for event in events {
            encoder.push(&event.to_logged());
            all.extend_from_slice(&encoder.take());
        }
        let (rest, stored) = encoder.finish();
        all.extend_from_slice(&rest);
        (all, stored)
    }

    fn decoded(bytes: &[u8], cut: usize) -> Result<Vec<LoggedEvent>, Malformed> {
        let mut decoder = Decoder::new();
        let mut events = Vec::new();
        for part in bytes.chunks(cut) {
            decoder.feed(part)?;
            while let Some(event) = decoder.next()? {
                events.push(event);
            }
        }
        decoder.finish()?;
        while let Some(event) = decoder.next()? {
            events.push(event);
        }
        Ok(events)
    }

    proptest! {
        /// However the bytes are cut, the events come back, and the digest is that of the bytes.
        #[test]
        fn events_round_trip(events in prop::collection::vec(any_event(), 0..20), cut in 1usize..4000) {
            let (bytes, stored) = encoded(&events);
            prop_assert_eq!(stored.bytes, bytes.len() as u64);
            let digest: [u8; 32] = Sha256::digest(&bytes).into();
            prop_assert_eq!(stored.sha256, digest);
            let expected: Vec<LoggedEvent> = events.iter().map(Event::to_logged).collect();
            prop_assert_eq!(decoded(&bytes, cut).expect("whole"), expected);
        }

        /// What is missing at the end or changed in the middle is noticed, or the events are the same.
        #[test]
        fn damage_is_noticed(
            events in prop::collection::vec(any_event(), 1..10), at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let (bytes, _) = encoded(&events);
            let expected: Vec<LoggedEvent> = events.iter().map(Event::to_logged).collect();
            let at = at.index(bytes.len());
            prop_assert!(decoded(&bytes[..at], 512).is_err(), "cut off");
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            if let Ok(events) = decoded(&changed, 512) {
                // Bits of the header that mean nothing.
                prop_assert_eq!(events, expected);
            }
        }
    }
}
