//! Runs the private Postgres and NATS by themselves, for a look around or for a test that kills its parent: prints
//! one JSON line with their addresses and waits. It stops nothing itself. Ctrl-C, SIGTERM or SIGKILL end it, and
//! that end is what stops the servers.
//!
//! `waybill-infra [FOLDER]` keeps the data in FOLDER; without one they are temporary.

use std::process::ExitCode;

use waybill_embedded::{DataDir, Embedded, Error, Options};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Error> {
    let mut options = Options::from_environment();
    if let Some(folder) = std::env::args_os().nth(1) {
        options.data = DataDir::Kept(folder.into());
        options.durable = true;
    }
    let embedded = Embedded::start(options).await?;
    let addresses = serde_json::json!({
        "postgres": embedded.postgres().admin_url(),
        "nats": embedded.nats().url(),
    });
    #[expect(clippy::print_stdout, reason = "the addresses are this program's result")]
    {
        println!("{addresses}");
    }
    std::future::pending::<()>().await;
    Ok(())
}
