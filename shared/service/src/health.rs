//! The backbone's condition as the health of its gRPC service.
//!
//! A relay that waits for NATS is well: intake works and the log keeps everything. What a person has to mend is not: a
//! history that differs, a fenced log, a consumer that stopped. Then `waybill.events.v1.EventLogService` is NOT_SERVING,
//! while the service itself goes on answering.

use std::convert::Infallible;

use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use waybill_events::{Condition, Status};

const NAME: &str = "waybill.events.v1.EventLogService";

/// Reports until `stop`.
pub async fn report(
    status: Status,
    health: HealthReporter,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut changes = status.watch();
    let mut well = true;
    loop {
        let ill: Vec<String> = changes
            .borrow_and_update()
            .iter()
            .filter(|(_, condition)| Condition::needs_a_person(condition))
            .map(|(part, condition)| format!("{part}: {condition}"))
            .collect();
        if ill.is_empty() != well {
            well = ill.is_empty();
            let serving = if well {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            health.set_service_status(NAME, serving).await;
            if well {
                tracing::info!("the event backbone is well again");
            } else {
                tracing::error!(parts = ill.join("; "), "the event backbone needs a person");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = changes.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}
