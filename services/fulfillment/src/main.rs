//! The process `waybill-fulfillment`.

use std::process::ExitCode;

use tokio::net::TcpListener;
use waybill_fulfillment::{App, Config, Deps, StartError};
use waybill_kernel::time::SystemClock;
use waybill_runtime::process::run_service;

fn main() -> ExitCode {
    run_service("fulfillment", |config: Config, shutdown| async move {
        let listener = TcpListener::bind(config.common.listen)
            .await
            .map_err(StartError::Listen)?;
        let app = App::build(
            config,
            Deps {
                clock: SystemClock::shared(),
            },
        )
        .await?;
        app.run(listener, shutdown).await
    })
}
