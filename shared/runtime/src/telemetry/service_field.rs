//! Hands the field `waybill.service` down: a span without it belongs to the service of the span above it.
//!
//! What it refuses to do: guess. A root span without the field belongs to nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::trace::TraceContextExt as _;
use opentelemetry::{Context as OtelContext, KeyValue};
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The field that names the service a span belongs to.
pub const SERVICE_FIELD: &str = "waybill.service";

/// The service of a span, kept beside it.
pub(super) struct ServiceName {
    pub(super) name: Arc<str>,
    /// Inherited and not yet written to the exported span.
    pending: AtomicBool,
}

/// The layer. It stands outside the OpenTelemetry layer, so that a span's context is active when it is entered.
pub(super) struct ServiceField;

impl<S> Layer<S> for ServiceField
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut visitor = ServiceVisitor(None);
        attributes.record(&mut visitor);
        let service = match visitor.0 {
            Some(name) => Some(ServiceName {
                name: name.into(),
                pending: AtomicBool::new(false),
            }),
            None => span.parent().and_then(|parent| {
                let extensions = parent.extensions();
                let above = extensions.get::<ServiceName>()?;
                Some(ServiceName {
                    name: Arc::clone(&above.name),
                    pending: AtomicBool::new(true),
                })
            }),
        };
        if let Some(service) = service {
            span.extensions_mut().insert(service);
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let extensions = span.extensions();
        if let Some(service) = extensions.get::<ServiceName>()
            && service.pending.swap(false, Ordering::Relaxed)
        {
            let name = service.name.to_string();
            OtelContext::current()
                .span()
                .set_attribute(KeyValue::new(SERVICE_FIELD, name));
        }
    }
}

struct ServiceVisitor(Option<String>);

impl Visit for ServiceVisitor {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == SERVICE_FIELD {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == SERVICE_FIELD {
            self.0 = Some(format!("{value:?}"));
        }
    }
}
