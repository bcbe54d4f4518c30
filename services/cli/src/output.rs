//! Answers on standard output: tables for people, canonical protobuf JSON for programs.

use std::io::{ErrorKind, Write as _};
use std::sync::LazyLock;

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions,
};
use waybill_proto::waybill::r#type::v1::Money;

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(waybill_proto::FILE_DESCRIPTOR_SET).ok());

/// Prints one line. A reader that has seen enough (`waybill orders list | head`) is no error; output that is lost otherwise
/// ends the process, for a program must not take a part for the whole.
pub fn line(text: impl AsRef<str>) {
    match writeln!(std::io::stdout(), "{}", text.as_ref()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        Err(error) => {
            fail(&anyhow::Error::new(error).context("standard output cannot be written"));
            std::process::exit(1);
        }
    }
}

/// Prints a message as canonical protobuf JSON, every field included.
pub fn json<M: prost::Message + prost::Name>(message: &M) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(&to_json(message)?)?);
    Ok(())
}

/// A message as canonical protobuf JSON, every field included.
pub fn to_json<M: prost::Message + prost::Name>(message: &M) -> anyhow::Result<serde_json::Value> {
    let mut dynamic = DynamicMessage::new(descriptor(&M::full_name())?);
    dynamic.transcode_from(message)?;
    in_json(&dynamic)
}

/// The same of a message that is known by the name of its type and its bytes.
pub fn bytes_to_json(type_name: &str, bytes: &[u8]) -> anyhow::Result<serde_json::Value> {
    in_json(&DynamicMessage::decode(descriptor(type_name)?, bytes)?)
}

/// Reads a message from protobuf JSON. A field that is not known is an error, not passed over.
pub fn from_json<M: prost::Message + prost::Name + Default>(text: &str) -> anyhow::Result<M> {
    let mut json = serde_json::Deserializer::from_str(text);
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let message =
        DynamicMessage::deserialize_with_options(descriptor(&M::full_name())?, &mut json, &options)?;
    json.end()?;
    Ok(message.transcode_to()?)
}

/// The types and services of the contracts that this program was built with.
pub fn descriptors() -> anyhow::Result<&'static DescriptorPool> {
    POOL.as_ref()
        .ok_or_else(|| anyhow::anyhow!("the built-in descriptors cannot be read"))
}

fn descriptor(name: &str) -> anyhow::Result<MessageDescriptor> {
    descriptors()?
        .get_message_by_name(name)
        .ok_or_else(|| anyhow::anyhow!("{name} is not among the built-in descriptors"))
}

fn in_json(message: &DynamicMessage) -> anyhow::Result<serde_json::Value> {
    let options = SerializeOptions::new()
        .skip_default_fields(false)
        .stringify_64_bit_integers(true);
    Ok(message.serialize_with_options(serde_json::value::Serializer, &options)?)
}

/// A table with a header; columns named with a leading `>` are aligned right.
pub fn table<R, C>(header: &[&str], rows: R) -> Table
where
    R: IntoIterator<Item = C>,
    C: IntoIterator<Item = String>,
{
    let mut table = Table::new();
    table
        .load_style(presets::ASCII_MARKDOWN)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(
        header
            .iter()
            .map(|name| Cell::new(name.trim_start_matches('>')).add_attribute(Attribute::Bold)),
    );
    for row in rows {
        table.add_row(row.into_iter().zip(header).map(|(text, name)| {
            let cell = Cell::new(text);
            if name.starts_with('>') {
                cell.set_alignment(CellAlignment::Right)
            } else {
                cell
            }
        }));
    }
    table
}

/// An amount for people, e.g. "34.90 GBP"; empty when it is not set.
#[must_use]
pub fn money(money: Option<&Money>) -> String {
    let Some(money) = money else { return String::new() };
    waybill_kernel::money::Currency::parse(&money.currency_code)
        .map(|currency| waybill_kernel::money::Money::new(currency, money.minor_units).to_string())
        .unwrap_or_else(|_| format!("{} minor units of {}", money.minor_units, money.currency_code))
}

/// A time for people, in UTC to the second; empty when it is not set.
#[must_use]
pub fn time(time: Option<&prost_types::Timestamp>) -> String {
    time.and_then(|time| chrono::DateTime::from_timestamp(time.seconds, 0))
        .map(|time| time.format("%Y-%m-%d %H:%M:%S").to_string())
        .unwrap_or_default()
}

/// The word of an enum value for people: "ORDER_STATUS_ON_HOLD" becomes "on hold".
#[must_use]
pub fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix)
        .unwrap_or(name)
        .trim_start_matches('_')
        .replace('_', " ")
        .to_lowercase()
}

/// Tells what went wrong on standard error: an RPC's error with its reason and every bad field, anything else with its
/// causes.
#[expect(clippy::print_stderr, reason = "this is what the launcher is for")]
pub fn fail(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
    let Some(status) = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<tonic::Status>())
    else {
        return;
    };
    if let Some(reason) = waybill_rpc::fault::reason(status) {
        eprintln!("  reason: {reason}");
    }
    for (field, description) in waybill_rpc::fault::bad_fields(status) {
        eprintln!("  {field}: {description}");
    }
}
