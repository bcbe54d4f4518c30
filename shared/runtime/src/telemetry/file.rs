//! Spans in a file: one JSON object per span per line. `waybill trace` and the demo read it.
//!
//! What it refuses to do: rotate or trim. The file is for one machine and one sitting; a collector is for everything else.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{SpanId, SpanKind, Status};
use opentelemetry::{Array, Value};
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use serde::{Deserialize, Serialize};

use super::service_field::SERVICE_FIELD;

/// A span as the file holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpanRecord {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// The span above, or nothing for the first of a trace.
    pub parent_span_id: Option<String>,
    /// What was done.
    pub name: String,
    /// `server`, `client`, `producer`, `consumer` or `internal`.
    pub kind: String,
    /// The service it was done by, when known.
    pub service: Option<String>,
    /// When it began, in nanoseconds since 1970.
    pub start_unix_nanos: u64,
    /// When it ended, in nanoseconds since 1970.
    pub end_unix_nanos: u64,
    /// Its fields.
    pub attributes: BTreeMap<String, serde_json::Value>,
    /// `unset`, `ok` or `error`.
    pub status: String,
    /// What an error said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_message: Option<String>,
}

impl From<&SpanData> for SpanRecord {
    fn from(span: &SpanData) -> Self {
        let mut attributes: BTreeMap<String, serde_json::Value> = span
            .attributes
            .iter()
            .map(|pair| (pair.key.to_string(), json(&pair.value)))
            .collect();
        let service = attributes
            .remove(SERVICE_FIELD)
            .and_then(|name| name.as_str().map(str::to_owned));
        let (status, status_message) = match &span.status {
            Status::Unset => ("unset", None),
            Status::Ok => ("ok", None),
            Status::Error { description } => (
                "error",
                Some(description.to_string()).filter(|text| !text.is_empty()),
            ),
        };
        SpanRecord {
            trace_id: span.span_context.trace_id().to_string(),
            span_id: span.span_context.span_id().to_string(),
            parent_span_id: (span.parent_span_id != SpanId::INVALID).then(|| span.parent_span_id.to_string()),
            name: span.name.to_string(),
            kind: kind(&span.span_kind).to_owned(),
            service,
            start_unix_nanos: nanos(span.start_time),
            end_unix_nanos: nanos(span.end_time),
            attributes,
            status: status.to_owned(),
            status_message,
        }
    }
}

fn kind(kind: &SpanKind) -> &'static str {
    match kind {
        SpanKind::Client => "client",
        SpanKind::Server => "server",
        SpanKind::Producer => "producer",
        SpanKind::Consumer => "consumer",
        SpanKind::Internal => "internal",
    }
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .unwrap_or_default()
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::I64(value) => (*value).into(),
        Value::F64(value) => (*value).into(),
        Value::String(value) => value.as_str().into(),
        Value::Array(Array::Bool(values)) => values.clone().into(),
        Value::Array(Array::I64(values)) => values.clone().into(),
        Value::Array(Array::F64(values)) => values.clone().into(),
        Value::Array(Array::String(values)) => values.iter().map(|value| value.as_str()).collect(),
        other => other.to_string().into(),
    }
}

/// Appends every span to a file.
#[derive(Debug)]
pub struct FileSpanExporter {
    file: Mutex<File>,
}

impl FileSpanExporter {
    /// Appends to `path`; the file is made when it is not there.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn append(path: &Path) -> std::io::Result<FileSpanExporter> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(FileSpanExporter {
            file: Mutex::new(file),
        })
    }

    fn write(&self, batch: &[SpanData]) -> std::io::Result<()> {
        let mut lines = Vec::with_capacity(batch.len() * 512);
        for span in batch {
            serde_json::to_writer(&mut lines, &SpanRecord::from(span))?;
            lines.push(b'\n');
        }
        // One write per batch: a reader sees whole lines, also while another process appends to the same file.
        self.file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(&lines)
    }
}

impl SpanExporter for FileSpanExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.write(&batch)
            .map_err(|error| OTelSdkError::InternalFailure(error.to_string()))
    }
}

/// Reads a span file. A last line without its end is left out: it is still being written.
///
/// # Errors
///
/// When the file cannot be read, or a whole line is not a span; the message names the line.
pub fn read_span_file(path: &Path) -> std::io::Result<Vec<SpanRecord>> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut spans = Vec::new();
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        if reader.read_line(&mut line)? == 0 || !line.ends_with('\n') {
            break;
        }
        let span = serde_json::from_str(&line).map_err(|error| {
            std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("line {number} of {} is no span: {error}", path.display()),
            )
        })?;
        spans.push(span);
    }
    Ok(spans)
}
