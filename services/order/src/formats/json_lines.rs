//! JSON Lines: each line an order in protobuf JSON, as the contract of `ImportFormat` says.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage};
use serde::de::DeserializeOwned;
use waybill_proto::waybill::order::v1 as proto;

use super::pieces::Pieces;
use super::{Fault, ImportedOrder, ImportedPayment, MAX_ORDER_BYTES, Place, Unit, Unreadable};

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(waybill_proto::FILE_DESCRIPTOR_SET).ok());

/// Reads a file as it arrives.
#[derive(Debug)]
pub struct Reader {
    pieces: Pieces,
    /// Where a line began that is longer than an order may be; its end is looked for.
    too_long: Option<Place>,
    /// Bytes of the rest in which no line ends: not looked at again for each piece that arrives.
    searched: usize,
    /// Whether the file has a line that is not blank.
    any: bool,
}

impl Reader {
    pub(super) fn at(place: Place) -> Reader {
        Reader {
            pieces: Pieces::at(place),
            too_long: None,
            searched: 0,
            any: place != Place::START,
        }
    }

    pub(super) fn feed(&mut self, piece: &[u8], is_last: bool) {
        self.pieces.feed(piece, is_last);
    }

    pub(super) fn end(&self) -> Place {
        self.pieces.place()
    }

    pub(super) fn read(&mut self) -> Result<Option<Unit>, Unreadable> {
        if !self.pieces.without_mark() {
            return Ok(None);
        }
        loop {
            let rest = self.pieces.rest();
            let begin = self.pieces.place();
            let searched = self.searched.min(rest.len());
            let line_end = (rest[searched..].iter().position(|byte| *byte == b'\n')).map(|at| searched + at);
            self.searched = 0;
            let length = line_end.unwrap_or(rest.len());
            let whole = line_end.is_some() || self.pieces.ended();
            let lines = u64::from(line_end.is_some());
            let passed = length + usize::from(line_end.is_some());
            if self.too_long.is_some() || length > MAX_ORDER_BYTES {
                let began = *self.too_long.get_or_insert(begin);
                self.pieces.advance(passed, lines);
                if !whole {
                    return Ok(None);
                }
                self.too_long = None;
                self.any = true;
                return Ok(Some(self.unit(began, Err(too_long(began.line)))));
            }
            if !whole {
                self.searched = length;
                return Ok(None);
            }
            if rest.is_empty() {
                return if self.any {
                    Ok(None)
                } else {
                    Err(Unreadable::NoLines)
                };
            }
            let text = &rest[..length];
            let read = (!text.trim_ascii().is_empty()).then(|| order(begin.line, text));
            self.pieces.advance(passed, lines);
            if let Some(read) = read {
                self.any = true;
                return Ok(Some(self.unit(begin, read)));
            }
        }
    }

    fn unit(&self, begin: Place, read: Result<ImportedOrder, Fault>) -> Unit {
        Unit {
            line: begin.line,
            rows: 1,
            end: self.pieces.place(),
            number: (read.as_ref()).map_or_else(|_| String::new(), |imported| imported.order.number.clone()),
            read: read.map(Box::new),
        }
    }
}

fn too_long(line: u64) -> Fault {
    Fault::new(
        line,
        "",
        format!("the line has more than {MAX_ORDER_BYTES} bytes; split the order"),
    )
}

fn order(line: u64, text: &[u8]) -> Result<ImportedOrder, Fault> {
    let wrong = |description: String| Fault::new(line, "", description);
    let text = std::str::from_utf8(text).map_err(|error| {
        wrong(format!(
            "is not valid UTF-8 after {} bytes; write the file in UTF-8",
            error.valid_up_to()
        ))
    })?;
    let wraps: Wraps = json(text).map_err(wrong)?;
    let imported = if wraps.order.is_some() {
        message("waybill.order.v1.ImportedOrder", text).map_err(wrong)?
    } else {
        proto::ImportedOrder {
            order: Some(message("waybill.order.v1.NewOrder", text).map_err(wrong)?),
            payment: None,
        }
    };
    let payment = imported.payment.map(payment).transpose();
    Ok(ImportedOrder {
        line,
        lines: Vec::new(),
        order: imported.order.unwrap_or_default(),
        payment: payment.map_err(|description| Fault::new(line, "payment.paid_at", description))?,
    })
}

/// Tells an order with something around it from an order.
#[derive(serde::Deserialize)]
struct Wraps {
    order: Option<serde::de::IgnoredAny>,
}

fn json<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| told(&error))
}

/// Where in the line the fault is; a line of JSON knows no other lines.
fn told(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    format!(
        "is no order in protobuf JSON: {text}, at character {}",
        error.column()
    )
}

fn message<M: prost::Message + Default>(name: &str, text: &str) -> Result<M, String> {
    let descriptor = (POOL.as_ref())
        .and_then(|pool| pool.get_message_by_name(name))
        .ok_or_else(|| format!("{name} is not among the built-in contracts"))?;
    let mut json = serde_json::Deserializer::from_str(text);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let read = DynamicMessage::deserialize_with_options(descriptor, &mut json, &options);
    let read = read.map_err(|error| told(&error))?;
    json.end().map_err(|error| told(&error))?;
    read.transcode_to().map_err(|error| error.to_string())
}

fn payment(payment: proto::ImportedPayment) -> Result<ImportedPayment, String> {
    let paid_at = |time: prost_types::Timestamp| -> Result<DateTime<Utc>, String> {
        u32::try_from(time.nanos)
            .ok()
            .and_then(|nanos| DateTime::from_timestamp(time.seconds, nanos))
            .ok_or_else(|| "is no time between the years 1 and 9999".to_owned())
    };
    Ok(ImportedPayment {
        paid_at: payment.paid_at.map(paid_at).transpose()?,
        provider: payment.provider,
        provider_payment_id: payment.provider_payment_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line, rows, number or fault of everything in a file that arrives in pieces of this size.
    fn read(file: &[u8], piece: usize) -> Result<Vec<(u64, String)>, Unreadable> {
        let mut reader = Reader::at(Place::START);
        let mut found = Vec::new();
        let pieces: Vec<&[u8]> = file.chunks(piece).collect();
        for (at, bytes) in pieces.iter().enumerate() {
            reader.feed(bytes, at + 1 == pieces.len());
            while let Some(unit) = reader.read()? {
                let told = unit
                    .read
                    .map_or_else(|fault| fault.to_string(), |imported| imported.order.number);
                found.push((unit.line, told));
            }
        }
        assert_eq!(reader.end().byte, file.len() as u64);
        Ok(found)
    }

    #[test]
    fn both_shapes_are_read_however_the_file_is_cut() {
        let file = "\u{feff}{\"number\":\"1\",\"placedAt\":\"2026-03-01T10:15:00Z\"}\r\n\n\
                    {\"order\":{\"number\":\"2\",\"currency_code\":\"EUR\",\"totals\":{\"total\":{\"minorUnits\":\"995\"}}},\
                    \"payment\":{\"provider\":\"stripe\",\"providerPaymentId\":\"pi_2\",\"paidAt\":\"2026-03-01T10:15:00Z\"}}\n\
                    {\"number\":\"3\",\"colour\":\"red\"}\n{\"number\":\"4\"\n7\n{\"number\":\"5\"}";
        let whole = read(file.as_bytes(), file.len()).expect("a file");
        assert_eq!(whole.len(), 6, "{whole:?}");
        assert_eq!((whole[0].0, whole[0].1.as_str()), (1, "1"));
        assert_eq!((whole[1].0, whole[1].1.as_str()), (3, "2"));
        assert!(whole[2].1.contains("colour"), "{whole:?}");
        assert!(whole[3].1.contains("is no order in protobuf JSON"), "{whole:?}");
        assert!(whole[4].1.contains("is no order in protobuf JSON"), "{whole:?}");
        assert_eq!((whole[5].0, whole[5].1.as_str()), (7, "5"));
        for piece in [1, 2, 3, 7, 50] {
            assert_eq!(
                read(file.as_bytes(), piece).as_ref(),
                Ok(&whole),
                "pieces of {piece}"
            );
        }
    }

    #[test]
    fn what_is_no_text_or_too_long_costs_its_own_line() {
        let mut file = b"{\"number\":\"1\xff\"}\n".to_vec();
        file.extend(vec![b' '; MAX_ORDER_BYTES + 1]);
        file.extend(b"\n{\"number\":\"3\"}\n");
        let found = read(&file, 1 << 20).expect("a file");
        assert!(found[0].1.contains("not valid UTF-8 after 12 bytes"), "{found:?}");
        assert!(found[1].1.contains("split the order"), "{found:?}");
        assert_eq!((found[2].0, found[2].1.as_str()), (3, "3"));
    }

    #[test]
    fn a_file_without_lines_is_none() {
        let mut reader = Reader::at(Place::START);
        reader.feed(b" \n\r\n", false);
        assert!(matches!(reader.read(), Ok(None)));
        reader.feed(b"", true);
        assert_eq!(reader.read().err(), Some(Unreadable::NoLines));
    }

    #[test]
    fn a_payment_stands_beside_its_order() {
        let text = br#"{"order":{},"payment":{"provider":"stripe","providerPaymentId":"pi_2","paidAt":"2026-03-01T10:15:00Z"}}"#;
        let imported = order(1, text).expect("a line");
        let payment = imported.payment.expect("a payment");
        assert_eq!(payment.provider_payment_id, "pi_2");
        assert_eq!(
            payment.paid_at.map(|time| time.to_rfc3339()).as_deref(),
            Some("2026-03-01T10:15:00+00:00")
        );
    }
}
