//! The process `waybill-fulfillment`.

use std::process::ExitCode;

use waybill_runtime::process::run_service;

fn main() -> ExitCode {
    run_service(waybill_fulfillment::NAME, waybill_fulfillment::serve)
}
