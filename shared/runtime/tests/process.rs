//! A service as a process: exit codes, signals, what is said when it cannot start.
//!
//! Without the variable `PROBE_MODE` this is the test; with it, the service that the test starts.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use waybill_kernel::check::Violations;
use waybill_runtime::config::Validate;
use waybill_runtime::process::{ServiceConfig, run_service};
use waybill_runtime::service::CommonConfig;

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    #[serde(flatten)]
    common: CommonConfig,
}

impl Validate for Config {
    fn validate(&self, violations: &mut Violations) {
        self.common.validate(violations);
    }
}

impl ServiceConfig for Config {
    fn common(&self) -> &CommonConfig {
        &self.common
    }
}

async fn serve(_: Config, shutdown: CancellationToken) -> Result<(), std::io::Error> {
    writeln!(std::io::stdout(), "ready")?;
    match std::env::var("PROBE_MODE").as_deref() {
        Ok("fails") => Err(std::io::Error::other("the database is away")),
        Ok("deaf") => std::future::pending().await,
        _ => {
            shutdown.cancelled().await;
            Ok(())
        }
    }
}

type Test = fn() -> anyhow::Result<()>;

fn main() -> ExitCode {
    if std::env::var_os("PROBE_MODE").is_some() {
        return run_service("probe", serve);
    }
    let tests: [(&str, Test); 5] = [
        ("a_signal_ends_it_well", a_signal_ends_it_well),
        ("a_second_signal_ends_it_at_once", a_second_signal_ends_it_at_once),
        ("a_failure_is_told", a_failure_is_told),
        ("faults_of_settings_are_told", faults_of_settings_are_told),
        ("help_teaches", help_teaches),
    ];
    let mut failed = 0;
    for (name, test) in tests {
        let outcome = test();
        failed += usize::from(outcome.is_err());
        let line = outcome.map_or_else(|error| format!("FAILED: {error:?}"), |()| "ok".to_owned());
        // Nothing to do when the output is closed.
        let _ = writeln!(std::io::stdout(), "test {name} ... {line}");
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    let passed = tests.len() - failed;
    let _ = writeln!(
        std::io::stdout(),
        "\ntest result: {word}. {passed} passed; {failed} failed"
    );
    ExitCode::from(u8::from(failed > 0))
}

/// The service, with all settings it needs.
fn probe(mode: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .env("PROBE_MODE", mode)
        .env("WAYBILL_PROBE_DATABASE__URL", "postgres://u:p@h:1/d")
        .env("WAYBILL_PROBE_AUTH__JWKS", r#"{"keys":[]}"#)
        .env("WAYBILL_PROBE_SHUTDOWN_GRACE", "30")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

/// Starts the service and waits until it runs.
fn started(mode: &str) -> anyhow::Result<Child> {
    let mut child = probe(mode)?.spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("it is piped")).read_line(&mut line)?;
    anyhow::ensure!(line == "ready\n", "it said {line:?}");
    Ok(child)
}

fn signal(child: &Child, signal: &str) -> anyhow::Result<()> {
    let sent = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status()?;
    anyhow::ensure!(sent.success(), "kill failed");
    Ok(())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn a_signal_ends_it_well() -> anyhow::Result<()> {
    for name in ["-TERM", "-INT"] {
        let child = started("polite")?;
        signal(&child, name)?;
        let output = child.wait_with_output()?;
        anyhow::ensure!(
            output.status.success(),
            "{name}: {:?} {}",
            output.status,
            text(&output)
        );
        anyhow::ensure!(
            text(&output).contains("asked to stop, draining"),
            "{}",
            text(&output)
        );
    }
    Ok(())
}

fn a_second_signal_ends_it_at_once() -> anyhow::Result<()> {
    let mut child = started("deaf")?;
    signal(&child, "-TERM")?;
    // The second one counts only when the first was seen, which is told.
    let mut said = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut line = String::new();
    while !line.contains("asked to stop") {
        line.clear();
        anyhow::ensure!(
            said.read_line(&mut line)? > 0,
            "it ended before the second signal"
        );
    }
    let asked = Instant::now();
    signal(&child, "-TERM")?;
    let status = child.wait()?;
    anyhow::ensure!(status.code() == Some(1), "{status:?}");
    anyhow::ensure!(
        asked.elapsed() < Duration::from_secs(20),
        "it took {:?}",
        asked.elapsed()
    );
    Ok(())
}

fn a_failure_is_told() -> anyhow::Result<()> {
    let output = probe("fails")?.output()?;
    anyhow::ensure!(output.status.code() == Some(1), "{:?}", output.status);
    anyhow::ensure!(
        text(&output).contains("waybill-probe: the database is away"),
        "{}",
        text(&output)
    );
    Ok(())
}

fn faults_of_settings_are_told() -> anyhow::Result<()> {
    let output = probe("polite")?
        .env_remove("WAYBILL_PROBE_DATABASE__URL")
        .env("WAYBILL_PROBE_LISTEM", "127.0.0.1:1")
        .output()?;
    anyhow::ensure!(output.status.code() == Some(1), "{:?}", output.status);
    let said = text(&output);
    for part in [
        "2 fault(s)",
        "database.url: is required",
        "listem: there is no such setting",
    ] {
        anyhow::ensure!(said.contains(part), "{part:?} is not in {said}");
    }
    let missing = probe("polite")?
        .args(["--config", "/nowhere/probe.toml"])
        .output()?;
    anyhow::ensure!(missing.status.code() == Some(1) && text(&missing).contains("/nowhere/probe.toml"));
    let unknown = probe("polite")?.arg("--verbose").output()?;
    anyhow::ensure!(unknown.status.code() == Some(1) && text(&unknown).contains("try --help"));
    Ok(())
}

fn help_teaches() -> anyhow::Result<()> {
    let output = probe("polite")?.arg("--help").output()?;
    let said = String::from_utf8(output.stdout)?;
    anyhow::ensure!(
        output.status.success() && said.contains("WAYBILL_PROBE_DATABASE__URL__FILE"),
        "{said}"
    );
    Ok(())
}
