//! The process `waybill-analytics`.

use std::process::ExitCode;

use tokio::net::TcpListener;
use waybill_analytics::{App, Config, Deps, StartError};
use waybill_kernel::time::SystemClock;
use waybill_runtime::process::run_service;

fn main() -> ExitCode {
    run_service("analytics", |config: Config, shutdown| async move {
        let address = config.common.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| StartError::Listen { address, source })?;
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
