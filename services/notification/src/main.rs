//! The process `waybill-notification`.

use std::process::ExitCode;

use waybill_runtime::process::run_service;

fn main() -> ExitCode {
    run_service(waybill_notification::NAME, waybill_notification::serve)
}
