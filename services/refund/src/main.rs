//! The process `waybill-refund`.

use std::process::ExitCode;

use waybill_runtime::process::run_service;

fn main() -> ExitCode {
    run_service(waybill_refund::NAME, waybill_refund::serve)
}
