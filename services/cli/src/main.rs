//! The launcher `waybill`. See `waybill --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    waybill_cli::main()
}
