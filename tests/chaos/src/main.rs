//! The launcher once more: the tests start it, and the services as processes of it.

use std::process::ExitCode;

fn main() -> ExitCode {
    waybill_cli::main()
}
