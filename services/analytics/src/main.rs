//! The process `waybill-analytics`.

use std::process::ExitCode;

use waybill_runtime::process::run_service;

fn main() -> ExitCode {
    run_service(waybill_analytics::NAME, waybill_analytics::serve)
}
