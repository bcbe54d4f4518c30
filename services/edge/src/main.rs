//! The process `waybill-edge`.

use std::process::ExitCode;

use tokio::net::TcpListener;
use waybill_edge::{App, Config, Deps, StartError};
use waybill_kernel::time::SystemClock;
use waybill_runtime::process::run_service;

fn main() -> ExitCode {
    run_service("edge", |config: Config, shutdown| async move {
        let listener = TcpListener::bind(config.http).await.map_err(StartError::Serve)?;
        App::build(
            config,
            Deps {
                clock: SystemClock::shared(),
            },
        )?
        .run(listener, shutdown)
        .await
    })
}
