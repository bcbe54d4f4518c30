//! `waybill serve SERVICE`: one service in this process, exactly as its own binary runs it.

use std::io::Read as _;
use std::process::ExitCode;

use waybill_runtime::process::run_service_with;

use crate::args::{ServeArgs, Service};

/// Runs the service until the process is asked to stop.
#[must_use]
pub fn run(args: ServeArgs) -> ExitCode {
    if args.with_parent {
        end_with_parent();
    }
    let config = args.config;
    match args.service {
        Service::Order => run_service_with(waybill_order::NAME, config, waybill_order::serve),
        Service::Fulfillment => {
            run_service_with(waybill_fulfillment::NAME, config, waybill_fulfillment::serve)
        }
        Service::Refund => run_service_with(waybill_refund::NAME, config, waybill_refund::serve),
        Service::Notification => {
            run_service_with(waybill_notification::NAME, config, waybill_notification::serve)
        }
        Service::Analytics => run_service_with(waybill_analytics::NAME, config, waybill_analytics::serve),
        Service::Edge => run_service_with("edge", config, waybill_edge::serve),
    }
}

/// Ends this process when the one that holds the other end of standard input is gone, by whatever death. At once: there
/// is nobody left to drain for.
fn end_with_parent() {
    std::thread::spawn(|| {
        let mut byte = [0];
        let mut parent = std::io::stdin().lock();
        loop {
            match parent.read(&mut byte) {
                Ok(0) => std::process::exit(1),
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => std::process::exit(1),
                _ => {}
            }
        }
    });
}
