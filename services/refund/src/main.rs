//! The process `waybill-refund`.

use std::process::ExitCode;

use tokio::net::TcpListener;
use waybill_kernel::time::SystemClock;
use waybill_refund::{App, Config, Deps};
use waybill_runtime::process::run_service;
use waybill_service::StartError;

fn main() -> ExitCode {
    run_service(waybill_refund::NAME, |config: Config, shutdown| async move {
        let address = config.common.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| StartError::Listen { address, source })?;
        let providers = config.build_providers()?;
        let deps = Deps {
            clock: SystemClock::shared(),
            providers,
        };
        App::build(config, deps).await?.run(listener, shutdown).await
    })
}
