//! The `main` of a service: settings, telemetry, signals, exit code.
//!
//! What it refuses to do: run two services. The launcher's `up` and `demo`, which do, set up telemetry themselves and call
//! the services' libraries.

use std::error::Error;
use std::future::Future;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{self, Validate};
use crate::service::CommonConfig;
use crate::telemetry;

/// The settings of a service: its own, and those all share.
pub trait ServiceConfig: DeserializeOwned + Default + Serialize + Validate {
    /// The shared part.
    fn common(&self) -> &CommonConfig;
}

/// The signals that ask a process to stop: SIGINT (Ctrl-C) and SIGTERM.
///
/// One of these hears all signals from [`StopSignals::listen`] on, also those that come while nobody waits. What comes
/// between two of these is heard by neither.
struct StopSignals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
}

impl StopSignals {
    /// Listens from now on. Call it in a runtime.
    fn listen() -> StopSignals {
        // A signal whose handler cannot be set keeps its meaning, to end the process; the other may still be heard.
        StopSignals {
            interrupt: signal(SignalKind::interrupt()).ok(),
            terminate: signal(SignalKind::terminate()).ok(),
        }
    }

    /// Completes at the next signal and tells which it is. Several of one kind that nobody waited for count as one.
    async fn next(&mut self) -> SignalKind {
        async fn one(signal: Option<&mut Signal>) {
            let heard = match signal {
                Some(signal) => signal.recv().await,
                None => None,
            };
            if heard.is_none() {
                std::future::pending().await
            }
        }
        tokio::select! {
            () = one(self.interrupt.as_mut()) => SignalKind::interrupt(),
            () = one(self.terminate.as_mut()) => SignalKind::terminate(),
        }
    }

    /// Completes at the first signal of a kind that came before. One request may come in both kinds: a terminal interrupts
    /// all of its processes, and a supervisor among them asks its children to terminate.
    async fn repeated(&mut self, first: SignalKind) {
        let mut heard = vec![first];
        loop {
            let kind = self.next().await;
            if heard.contains(&kind) {
                return;
            }
            heard.push(kind);
        }
    }
}

/// Completes when the process is asked to stop: SIGINT (Ctrl-C) or SIGTERM.
pub async fn shutdown_signal() {
    StopSignals::listen().next().await;
}

/// Runs one service until it is asked to stop.
///
/// Reads `--config FILE` (or `WAYBILL_<NAME>_CONFIG`) and `WAYBILL_<NAME>_…`, sets up telemetry, calls `serve` with the
/// settings and a token that is cancelled by SIGINT or SIGTERM, and sends what telemetry is left. The same signal again, or a
/// service that needs longer than its grace period and five seconds, ends the process at once with code 1.
pub fn run_service<C, F, Fut, E>(name: &'static str, serve: F) -> ExitCode
where
    C: ServiceConfig,
    F: FnOnce(C, CancellationToken) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Error + 'static,
{
    match arguments(std::env::args().skip(1)) {
        Ok(Arguments::Run { config }) => run_service_with(name, config, serve),
        Ok(Arguments::Help) => {
            let told = writeln!(std::io::stdout(), "{}", help(name, &prefix(name)));
            told.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
        }
        Err(error) => {
            report(name, &error);
            ExitCode::FAILURE
        }
    }
}

/// As [`run_service`], for a program whose arguments are its own: `config` is the file of settings it was given.
pub fn run_service_with<C, F, Fut, E>(name: &'static str, config: Option<PathBuf>, serve: F) -> ExitCode
where
    C: ServiceConfig,
    F: FnOnce(C, CancellationToken) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Error + 'static,
{
    match start(name, config, serve) {
        Ok(code) => code,
        Err(error) => {
            report(name, error.as_ref());
            ExitCode::FAILURE
        }
    }
}

fn prefix(name: &str) -> String {
    format!("WAYBILL_{}_", name.to_uppercase().replace('-', "_"))
}

fn start<C, F, Fut, E>(
    name: &'static str,
    config: Option<PathBuf>,
    serve: F,
) -> Result<ExitCode, Box<dyn Error>>
where
    C: ServiceConfig,
    F: FnOnce(C, CancellationToken) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Error + 'static,
{
    let prefix = prefix(name);
    let file = config.or_else(|| std::env::var_os(format!("{prefix}CONFIG")).map(PathBuf::from));
    let settings: C = config::load(file.as_deref(), &prefix)?;
    let grace = settings.common().shutdown_grace;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let guard = telemetry::init(&settings.common().telemetry, name)?;

    let shutdown = CancellationToken::new();
    let ended = runtime.block_on(async {
        tokio::select! {
            // Looked at first: signals are listened to before anybody can see the service, and stop it well.
            biased;
            () = give_up(shutdown.clone(), grace) => None,
            ended = serve(settings, shutdown.clone()) => Some(ended),
        }
    });
    let code = match ended {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            report(name, &error);
            ExitCode::FAILURE
        }
        None => {
            tracing::error!("the service did not end in time and was stopped");
            ExitCode::FAILURE
        }
    };
    // A blocking task that hangs must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    guard.shutdown();
    Ok(code)
}

/// Passes the first signal on and completes when the service should no longer be waited for.
async fn give_up(shutdown: CancellationToken, grace: Duration) {
    let mut signals = StopSignals::listen();
    let first = signals.next().await;
    tracing::info!(grace_seconds = grace.as_secs(), "asked to stop, draining");
    shutdown.cancel();
    tokio::select! {
        () = signals.repeated(first) => {}
        () = tokio::time::sleep(grace + Duration::from_secs(5)) => {}
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Arguments {
    Run { config: Option<PathBuf> },
    Help,
}

/// An argument that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}; try --help")]
struct ArgumentError(String);

fn arguments(given: impl Iterator<Item = String>) -> Result<Arguments, ArgumentError> {
    let mut config = None;
    let mut given = given;
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--help" | "-h" => return Ok(Arguments::Help),
            "--config" => {
                let path = given
                    .next()
                    .ok_or_else(|| ArgumentError("--config needs a file".to_owned()))?;
                config = Some(PathBuf::from(path));
            }
            other => match other.strip_prefix("--config=") {
                Some(path) => config = Some(PathBuf::from(path)),
                None => return Err(ArgumentError(format!("there is no argument \"{other}\""))),
            },
        }
    }
    Ok(Arguments::Run { config })
}

fn help(name: &str, prefix: &str) -> String {
    format!(
        "The {name} service of Waybill.\n\n\
         Usage: waybill-{name} [--config FILE]\n\n\
         Settings come from FILE (TOML, also named by {prefix}CONFIG) and from the environment:\n\
         {prefix}DATABASE__URL sets database.url, two underscores go one level down.\n\
         Secrets also take a file: {prefix}DATABASE__URL__FILE.\n\
         The service's README lists all settings and their defaults."
    )
}

/// An error and its causes, for the person who started the process.
fn report(name: &str, error: &dyn Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error.to_string();
        // Many errors already quote their source.
        if !text.contains(&inner) {
            text.push_str(": ");
            text.push_str(&inner);
        }
        cause = error.source();
    }
    let _ = writeln!(std::io::stderr(), "waybill-{name}: {text}");
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn parse(given: &[&str]) -> Result<Arguments, String> {
        arguments(given.iter().map(|text| (*text).to_owned())).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn signals_are_heard_while_nobody_waits_and_one_of_each_kind_is_one_request() {
        let send = |name: &str| {
            let sent = std::process::Command::new("kill")
                .args([name, &std::process::id().to_string()])
                .status();
            assert!(sent.is_ok_and(|status| status.success()));
        };
        let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
        let (mut signals, mut witness) = (StopSignals::listen(), StopSignals::listen());
        let hearing = async {
            send("-INT");
            assert_eq!(signals.next().await, interrupt);
            assert_eq!(witness.next().await, interrupt);
            send("-TERM");
            assert_eq!(witness.next().await, terminate);
            let mut again = pin!(signals.repeated(interrupt));
            assert!(
                futures_util::poll!(&mut again).is_pending(),
                "it is the same request"
            );
            send("-INT");
            again.await;
        };
        let heard = tokio::time::timeout(Duration::from_secs(60), hearing).await;
        assert!(heard.is_ok(), "a signal was not heard");
    }

    #[test]
    fn arguments_are_few_and_checked() {
        let file = Some(PathBuf::from("order.toml"));
        assert_eq!(parse(&[]), Ok(Arguments::Run { config: None }));
        assert_eq!(
            parse(&["--config", "order.toml"]),
            Ok(Arguments::Run { config: file.clone() })
        );
        assert_eq!(
            parse(&["--config=order.toml"]),
            Ok(Arguments::Run { config: file })
        );
        assert_eq!(parse(&["--config", "x", "--help"]), Ok(Arguments::Help));
        assert_eq!(
            parse(&["--config"]),
            Err("--config needs a file; try --help".to_owned())
        );
        assert_eq!(
            parse(&["serve"]),
            Err("there is no argument \"serve\"; try --help".to_owned())
        );
    }
}
