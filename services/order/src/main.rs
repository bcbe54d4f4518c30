//! The process `waybill-order`.

use std::process::ExitCode;

use waybill_kernel::time::SystemClock;
use waybill_order::{App, Config, Deps, NAME};
use waybill_runtime::process::run_service;

fn main() -> ExitCode {
    run_service(NAME, |config: Config, shutdown| async move {
        let listener = waybill_service::listen(config.common.listen).await?;
        let clock = SystemClock::shared();
        App::build(config, Deps { clock })
            .await?
            .run(listener, shutdown)
            .await
    })
}
