//! The process `waybill-refund`.

use std::process::ExitCode;

use waybill_kernel::time::SystemClock;
use waybill_refund::{App, Config, Deps};
use waybill_runtime::process::run_service;

fn main() -> ExitCode {
    run_service(waybill_refund::NAME, |config: Config, shutdown| async move {
        let listener = waybill_service::listen(config.common.listen).await?;
        let providers = config.build_providers()?;
        let deps = Deps {
            clock: SystemClock::shared(),
            providers,
        };
        App::build(config, deps).await?.run(listener, shutdown).await
    })
}
