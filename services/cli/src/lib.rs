//! The launcher `waybill`: the whole stack in one process, a demo, operator commands.
//!
//! - [`stack`] starts everything: private Postgres and NATS, a mail sink, a sandbox payment provider, the services.
//! - [`demo`] runs a file of orders through it and checks what happened.
//! - [`verify`] runs the services as processes, breaks everything, and proves that nothing was lost or done twice;
//!   [`serve`] is what those processes run.
//! - [`bench`] measures, beside the floor of this machine.
//! - [`load`] drives whole lives of orders through a stack; `verify` and `bench lives` stand on it.
//! - [`commands`] talk to a running stack over gRPC, with the addresses and the token of a [`session`].
//! - [`import`] sends a file of orders to the order service; [`intake`] hands the orders of a demo to the order service.
//!
//! It holds no business rule: what an order, a return or a refund may do is decided by the services.

pub mod args;
pub mod bench;
pub mod commands;
pub mod demo;
mod files;
pub mod import;
pub mod intake;
pub mod load;
pub mod output;
pub mod serve;
pub mod session;
mod setup;
pub mod stack;
pub mod verify;
pub mod wait;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use futures_util::future::LocalBoxFuture;

use crate::args::{Cli, Command};
use crate::session::{Session, StackContext};
use crate::stack::{Options, Stack};

/// The program `waybill`, whatever binary it is in.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Serve(args) = cli.command {
        // A service sets up its process by itself.
        return serve::run(args);
    }
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(cli)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::fail(&error);
            ExitCode::FAILURE
        }
    }
}

/// Does what the command line asks for.
pub fn run(cli: Cli) -> LocalBoxFuture<'static, anyhow::Result<()>> {
    Box::pin(dispatch(cli))
}

async fn dispatch(cli: Cli) -> anyhow::Result<()> {
    let json = cli.json;
    let context_file = cli.context.clone().unwrap_or_else(StackContext::default_path);
    let session = || Session::connect(&StackContext::load(cli.context.as_deref())?);
    match cli.command {
        Command::Demo(args) => demo::run(args, json, &context_file).await,
        Command::Up(args) => up(args, json, &context_file).await,
        Command::Verify(args) => verify::run(args, json).await,
        Command::Serve(_) => anyhow::bail!("a service runs in a process of its own: it is started by `main`"),
        Command::Import(args) => commands::import::run(&session()?, &args, json).await,
        Command::Orders(command) => commands::orders::run(&session()?, command, json).await,
        Command::Drafts(command) => commands::drafts::run(&session()?, command, json).await,
        Command::Customers(command) => commands::customers::run(&session()?, command, json).await,
        Command::Payments(command) => commands::payments::run(&session()?, command, json).await,
        Command::Shipments(command) => commands::shipments::run(&session()?, command, json).await,
        Command::Returns(command) => commands::returns::run(&session()?, command, json).await,
        Command::Refunds(command) => commands::refunds::run(&session()?, command, json).await,
        Command::Notifications(command) => commands::notifications::run(&session()?, command, json).await,
        Command::Analytics(command) => commands::analytics::run(&session()?, command, json).await,
        Command::Consumers(command) => commands::consumers::run(&session()?, command, json).await,
        Command::Letters(command) => commands::letters::run(&session()?, command, json).await,
        Command::Events(command) => commands::events::run(&session()?, command, json).await,
        Command::Jobs(command) => commands::jobs::run(&session()?, command, json).await,
        Command::Log(command) => commands::log::run(&session()?, command, json).await,
        Command::Trace { trace_id, spans } => {
            let file = match spans {
                Some(file) => file,
                None => StackContext::load(cli.context.as_deref())?.spans.ok_or_else(|| {
                    anyhow::anyhow!("the running stack writes no spans; name a file with --spans")
                })?,
            };
            commands::trace::run(&file, &trace_id)
        }
        Command::Bench(command) => bench::run(command, json).await,
        Command::MailSink { listen } => commands::mail_sink(listen).await,
        Command::Health { url } => commands::health(&url).await,
        Command::Setup(command) => commands::setup::run(command).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "waybill", &mut script);
            output::line(String::from_utf8_lossy(&script));
            Ok(())
        }
    }
}

async fn up(args: args::UpArgs, json: bool, context_file: &std::path::Path) -> anyhow::Result<()> {
    let telemetry = stack::telemetry("up")?;
    let stack = Stack::start(Options {
        data: args.data,
        port: args.port,
        spans: Some(telemetry.spans.clone()),
        ..Options::default()
    })
    .await?;
    stack.context().save(context_file)?;
    if json {
        let mut shown = serde_json::to_value(stack.context())?;
        // The tokens stay in the file, which only its owner can read.
        if let Some(shown) = shown.as_object_mut() {
            shown.remove("token");
            shown.remove("system_token");
            shown.insert("context".to_owned(), context_file.display().to_string().into());
        }
        output::line(serde_json::to_string(&shown)?);
    } else {
        output::line(format!("Waybill is up.\n{}\n", stack.addresses()));
        output::line(format!("The operator's token is in {}.", context_file.display()));
        output::line("Try `waybill import services/cli/demo/orders.csv`. Ctrl-C stops everything.");
    }
    stack.wait().await;
    stack.stop().await
}
