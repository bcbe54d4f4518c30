//! The binary as a person or a program meets it: help, errors, the stack it starts and leaves nothing of.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use clap::CommandFactory as _;
use serde_json::Value;
use tempfile::TempDir;
use waybill_cli::args::Cli;

const WAYBILL: &str = env!("CARGO_BIN_EXE_waybill");

/// The sample of the demo.
const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/orders.csv");

/// How long the stack may take to start or to stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A place for one test: everything that is written is below it.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("waybill-cli-").tempdir()?;
        // Postgres may run as another user, who has to get through.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        fs::create_dir(folder.path().join("tmp"))?;
        fs::set_permissions(folder.path().join("tmp"), fs::Permissions::from_mode(0o1777))?;
        Ok(Self { folder })
    }

    fn tmp(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    fn context(&self) -> PathBuf {
        self.folder.path().join("state/context.json")
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(WAYBILL);
        command
            .args(arguments)
            .env("TMPDIR", self.tmp())
            .env("WAYBILL_CONTEXT", self.context())
            .env_remove("WAYBILL_INFRA_POSTGRES_URL")
            .env_remove("WAYBILL_INFRA_NATS_URL")
            .env_remove("WAYBILL_LOG")
            .stdin(Stdio::null());
        command
    }

    fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> anyhow::Result<Output> {
        Ok(self.command(arguments).output()?)
    }

    /// What a command says that must succeed.
    fn said(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.run(arguments)?;
        ensure!(
            output.status.success(),
            "{arguments:?} ended with {}: {}",
            output.status,
            errors(&output)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The same as JSON.
    fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let arguments: Vec<&str> = [&["--json"], arguments].concat();
        let said = self.said(&arguments)?;
        serde_json::from_str(&said).with_context(|| format!("{arguments:?} said {said}"))
    }

    /// What a command says that must fail with this exit code.
    fn complaint(&self, arguments: &[&str], code: i32) -> anyhow::Result<String> {
        let output = self.run(arguments)?;
        ensure!(
            output.status.code() == Some(code),
            "{arguments:?} ended with {}",
            output.status
        );
        Ok(errors(&output))
    }

    /// Waits until no process and no file is left of what ran here.
    fn assert_nothing_left(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // The file of spans outlives the stack: it is what `waybill trace` reads.
            let names = fs::read_dir(self.tmp())?
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned());
            let files: Vec<String> = names.filter(|name| !name.starts_with("waybill-spans-")).collect();
            let processes = processes_below(self.folder.path())?;
            if files.is_empty() && processes.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "left behind: {files:?} {processes:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A running `waybill up`. In a process group of its own, so that a signal to the group reaches it as Ctrl-C would.
struct Up {
    child: Child,
    addresses: Value,
}

impl Up {
    fn start(place: &Place, arguments: &[&str]) -> anyhow::Result<Self> {
        let errors = fs::File::create(place.folder.path().join("errors"))?;
        let mut command = place.command([&["--json", "up"], arguments].concat());
        let mut child = command
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("standard output is piped")?).read_line(&mut line)?;
        let said = || fs::read_to_string(place.folder.path().join("errors")).unwrap_or_default();
        let addresses =
            serde_json::from_str(&line).with_context(|| format!("it said {line:?} and {}", said()));
        match addresses {
            Ok(addresses) => Ok(Self { child, addresses }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// Sends Ctrl-C and waits for the end.
    fn interrupt(mut self) -> anyhow::Result<std::process::ExitStatus> {
        let group = format!("-{}", self.child.id());
        let sent = Command::new("sh")
            .args(["-c", "kill -s INT -- \"$1\"", "sh", &group])
            .status()?;
        ensure!(sent.success(), "the signal could not be sent");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "it did not end within {} s of Ctrl-C",
                PATIENCE.as_secs()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Already gone, unless the test failed before it ended it.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The command lines of all processes that name this path.
fn processes_below(path: &Path) -> anyhow::Result<Vec<String>> {
    let output = Command::new("ps")
        .args(["-axww", "-o", "args="])
        .output()
        .context("ps cannot be run")?;
    let path = path.to_string_lossy();
    let lines = String::from_utf8_lossy(&output.stdout);
    Ok(lines
        .lines()
        .filter(|line| line.contains(&*path))
        .map(str::to_owned)
        .collect())
}

#[test]
fn help_teaches_every_command_and_argument() -> anyhow::Result<()> {
    fn untaught(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let path = format!("{path} {}", command.get_name());
        if command.get_about().is_none() {
            found.push(path.clone());
        }
        for argument in command.get_arguments() {
            if argument.get_help().is_none() && !matches!(argument.get_id().as_str(), "help" | "version") {
                found.push(format!("{path} {}", argument.get_id()));
            }
        }
        for command in command
            .get_subcommands()
            .filter(|command| command.get_name() != "help")
        {
            untaught(command, &path, found);
        }
    }
    let mut found = Vec::new();
    Cli::command().debug_assert();
    untaught(&Cli::command(), "", &mut found);
    assert!(found.is_empty(), "without help: {found:?}");

    let place = Place::new()?;
    let help = place.said(&["--help"])?;
    for word in [
        "demo",
        "up",
        "orders",
        "returns",
        "refunds",
        "analytics",
        "--json",
        "WAYBILL_CONTEXT",
    ] {
        assert!(help.contains(word), "--help does not name {word}: {help}");
    }
    assert!(place.said(&["orders", "import", "--help"])?.contains("Shopify"));
    assert!(place.said(&["--version"])?.starts_with("waybill "));
    Ok(())
}

#[test]
fn completions_are_scripts_of_their_shell() -> anyhow::Result<()> {
    let place = Place::new()?;
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.said(&["completions", shell])?;
        for word in ["analytics", "without-payments"] {
            assert!(
                script.contains(word),
                "the script for {shell} does not complete {word}"
            );
        }
        if shell == "bash" {
            let file = place.folder.path().join("completions");
            fs::write(&file, &script)?;
            let checked = Command::new("bash").arg("-n").arg(&file).output()?;
            assert!(checked.status.success(), "bash: {}", errors(&checked));
        }
    }
    Ok(())
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() -> anyhow::Result<()> {
    let place = Place::new()?;
    let mut command = place.command(["completions", "bash"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // More is written than a pipe holds, so that the other end is gone when the rest is.
    let mut stdout = child.stdout.take().context("standard output is piped")?;
    stdout.read_exact(&mut [0; 100])?;
    drop(stdout);
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success() && output.stderr.is_empty(),
        "{}: {}",
        output.status,
        errors(&output)
    );
    Ok(())
}

#[test]
fn errors_name_the_way_out() -> anyhow::Result<()> {
    let place = Place::new()?;
    let no_stack = place.complaint(&["orders", "list"], 1)?;
    assert!(
        no_stack.contains("waybill up") && no_stack.contains("--context"),
        "{no_stack}"
    );
    assert!(
        no_stack.contains(&*place.context().to_string_lossy()),
        "{no_stack}"
    );

    let broken = place.folder.path().join("broken.json");
    fs::write(&broken, "{}")?;
    let broken = place.complaint(&["--context", &broken.to_string_lossy(), "orders", "list"], 1)?;
    assert!(
        broken.contains("broken.json") && broken.contains("context file"),
        "{broken}"
    );

    let letter = place.complaint(&["letters", "show", "17"], 2)?;
    assert!(letter.contains("SERVICE/NUMBER"), "{letter}");
    let typo = place.complaint(&["order", "list"], 2)?;
    assert!(typo.contains("orders"), "{typo}");
    let port = place.complaint(&["up", "--port", "70000"], 2)?;
    assert!(port.contains("70000"), "{port}");
    let file = place.complaint(&["demo", "--orders", "/nowhere/orders.csv"], 1)?;
    assert!(file.contains("/nowhere/orders.csv"), "{file}");
    Ok(())
}

/// The edge serves HTTP: a path asks for a page of it.
#[test]
fn a_page_is_healthy_when_it_is_there() -> anyhow::Result<()> {
    let place = Place::new()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/healthz", listener.local_addr()?);
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 503 Service Unavailable\r\n\r\n",
        // Nothing, for as long as it is waited for.
        "",
    ];
    let server = std::thread::spawn(move || -> std::io::Result<Vec<String>> {
        let mut asked = Vec::new();
        for answer in answers {
            let mut stream = BufReader::new(listener.accept()?.0);
            let (mut request, mut line) = (String::new(), String::new());
            while stream.read_line(&mut line)? > 2 {
                request.push_str(&std::mem::take(&mut line));
            }
            stream.get_mut().write_all(answer.as_bytes())?;
            if answer.is_empty() {
                stream.read_to_end(&mut Vec::new())?;
            }
            asked.push(request);
        }
        Ok(asked)
    });
    place.said(&["health", &url])?;
    let away = place.complaint(&["health", &url], 1)?;
    ensure!(away.contains("503"), "{away}");
    let silent = place.complaint(&["health", &url], 1)?;
    ensure!(silent.contains("did not answer within 3 s"), "{silent}");
    let asked = server.join().map_err(|_| anyhow!("the server panicked"))??;
    ensure!(
        asked
            .iter()
            .all(|request| request.starts_with("GET /healthz HTTP/1.1\r\n")),
        "{asked:?}"
    );

    let gone = place.complaint(&["health", "http://127.0.0.1:1/healthz"], 1)?;
    ensure!(gone.contains("cannot be reached"), "{gone}");
    let secure = place.complaint(&["health", "https://127.0.0.1/healthz"], 1)?;
    ensure!(secure.contains("is not an address like"), "{secure}");
    Ok(())
}

#[test]
fn a_stack_is_used_and_leaves_nothing_behind() -> anyhow::Result<()> {
    let place = Place::new()?;
    let up = Up::start(&place, &[])?;
    let told = |field: &str| up.addresses[field].as_str().map(str::to_owned);
    ensure!(
        up.addresses.get("token").is_none() && up.addresses.get("system_token").is_none(),
        "a token is on standard output"
    );
    ensure!(
        told("context").as_deref() == place.context().to_str(),
        "{:?}",
        up.addresses
    );
    let mode = fs::metadata(place.context())?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "others may read the context: {mode:o}");
    ensure!(
        !processes_below(&place.tmp())?.is_empty(),
        "the test looks for the wrong processes"
    );

    let order = up.addresses["endpoints"]["order"]
        .as_str()
        .context("the address of the order service")?;
    place.said(&["health", order])?;
    let edge = told("edge").context("the address of the edge")?;
    place.said(&["health", &format!("{edge}/healthz")])?;
    let imported = place.json(&["orders", "import", SAMPLE])?;
    ensure!(
        imported["placed"] == 32 && imported["payments"] == 32,
        "{imported}"
    );
    let again = place.json(&["orders", "import", SAMPLE])?;
    ensure!(again["placed"] == 0 && again["duplicates"] == 32, "{again}");
    // Under the key of an import that has reached its end nothing is read again.
    let first = place.json(&["import", SAMPLE, "--import-id", "third"])?;
    ensure!(first["duplicates"] == 32, "{first}");
    ensure!(
        place.json(&["import", SAMPLE, "--import-id", "third"])? == first,
        "{first}"
    );
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let other = place.complaint(&["import", manifest, "--import-id", "third"], 1)?;
    ensure!(other.contains("IMPORT_DIFFERS"), "{other}");
    let table = place.said(&["import", SAMPLE, "--format", "csv"])?;
    ensure!(table.contains("there already"), "{table}");
    let other = place.complaint(&["import", SAMPLE, "--format", "jsonl"], 1)?;
    ensure!(other.contains("orders and 0 payments were refused"), "{other}");

    let list = place.json(&["orders", "list", "--limit", "100"])?;
    ensure!(
        list["orders"].as_array().is_some_and(|orders| orders.len() == 32),
        "{list}"
    );
    let table = place.said(&["orders", "list", "--limit", "5"])?;
    ensure!(
        table.contains("number") && table.matches("#10").count() == 5,
        "{table}"
    );
    let found = place.json(&["orders", "search", "farah.1@"])?;
    ensure!(found["orders"][0]["number"] == "#1001", "{found}");
    let count = place.json(&[
        "orders",
        "count",
        "--currency",
        "KWD",
        "--total-from",
        "34.540",
        "--sku",
        "BRD-OAK-S",
    ])?;
    ensure!(count["count"] == "1" && count["isMore"] == false, "{count}");
    let exported = place.said(&["orders", "export", "--placed-from", "2020-01-01"])?;
    ensure!(exported.lines().count() == 32, "{exported}");
    let dearest = place.json(&["orders", "list", "--sort", "total-asc"]);
    ensure!(dearest.is_err_and(|error| error.to_string().contains("currency_code")));
    let one = place.json(&["orders", "get", "#1004"])?;
    ensure!(one["order"]["totals"]["total"]["minorUnits"] == "9913", "{one}");
    let verified = place.json(&["orders", "timeline", "#1004", "--verify"])?;
    let verification = &verified["verification"];
    ensure!(
        verification["condition"] == "TIMELINE_CONDITION_WHOLE",
        "{verified}"
    );
    let end = |key: &str| verification[key].as_str().unwrap_or_default().to_owned();
    let noted = format!("{}:{}", end("sequence"), end("hash"));
    let whole = place.said(&["orders", "timeline", "#1004", "--verify", "--noted", &noted])?;
    ensure!(
        whole.contains("whole: ") && whole.contains("because of"),
        "{whole}"
    );
    let rebuilt = place.said(&["orders", "rebuild", "#1004"])?;
    ensure!(rebuilt.contains("the tables say the same"), "{rebuilt}");
    let first = place.json(&["orders", "rebuild", "#1004", "--version", "1"])?;
    ensure!(first["order"]["captured"]["minorUnits"] == "0", "{first}");
    place.complaint(&["orders", "rebuild", "#1004", "--version", "1000"], 1)?;
    let missing = place.complaint(&["orders", "get", "#4711"], 1)?;
    ensure!(missing.contains("ORDER_NOT_FOUND"), "{missing}");
    let balance = place.json(&["refunds", "balance"])?;
    ensure!(balance["balanced"] == true, "{balance}");
    let consumers = place.json(&["consumers", "list"])?;
    let states: Vec<_> = consumers["consumers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| (one["service"].as_str(), one["state"].as_str()))
        .collect();
    ensure!(
        states.len() == 5
            && states
                .iter()
                .all(|(_, state)| *state == Some("CONSUMER_STATE_RUNNING")),
        "{consumers}"
    );
    let letters = place.json(&["letters", "list", "--parked"])?;
    ensure!(
        letters["letters"].as_array().is_some_and(Vec::is_empty),
        "{letters}"
    );
    let missing = place.complaint(&["letters", "retry", "refund/1"], 1)?;
    ensure!(missing.contains("LETTER_NOT_FOUND"), "{missing}");
    let nobody = place.complaint(&["consumers", "pause", "nobody", "--reason", "why not"], 1)?;
    ensure!(nobody.contains("analytics"), "{nobody}");
    events_are_read(&place)?;
    followers_are_listed(&place)?;

    let status = up.interrupt()?;
    ensure!(status.success(), "it ended with {status}");
    place.assert_nothing_left()
}

/// What `--json` prints line by line; the last one says where to go on.
fn lines(place: &Place, arguments: &[&str]) -> anyhow::Result<(Vec<Value>, String)> {
    let said = place.said(&[&["--json"], arguments].concat())?;
    let mut lines: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let last = lines.pop().context("nothing was printed")?;
    let resume = last["resume"]
        .as_str()
        .context("the last line says where to go on")?;
    Ok((lines, resume.to_owned()))
}

fn events_are_read(place: &Place) -> anyhow::Result<()> {
    // A few at a time: every order is there once.
    let mut orders = BTreeSet::new();
    let mut resume = "0.0.0".to_owned();
    loop {
        let read = [
            "events",
            "read",
            "order",
            "--type",
            "OrderPlaced",
            "--limit",
            "10",
            "--resume",
            &resume,
        ];
        let (events, next) = lines(place, &read)?;
        ensure!(events.len() <= 10, "{} events", events.len());
        if events.is_empty() {
            break;
        }
        for event in &events {
            ensure!(event["type"] == "waybill.order.v1.OrderPlaced", "{event}");
            let order = event["payload"]["orderId"]
                .as_str()
                .context("a payload as JSON")?;
            ensure!(
                event["partitionKey"] == order && event["service"] == "order",
                "{event}"
            );
            ensure!(orders.insert(order.to_owned()), "{order} comes twice");
        }
        resume = next;
    }
    ensure!(orders.len() == 32, "{} orders were placed", orders.len());

    let table = place.said(&["events", "read", "order", "--order", "#1004"])?;
    ensure!(
        table.contains("OrderPlaced") && table.contains("about") && table.contains("--resume"),
        "{table}"
    );
    let (future, _) = lines(place, &["events", "read", "order", "--from", "2999-01-01"])?;
    ensure!(future.is_empty(), "{future:?}");
    let (tail, _) = lines(
        place,
        &["events", "tail", "order", "--from", "2000-01-01", "--limit", "5"],
    )?;
    ensure!(tail.len() == 5, "{tail:?}");
    let unknown = place.complaint(&["events", "read", "order", "--type", "OrderLost"], 1)?;
    ensure!(unknown.contains("OrderPlaced"), "{unknown}");
    let refused = place.complaint(&["events", "read", "order", "--merchant", "mine"], 1)?;
    ensure!(
        refused.contains("INVALID_FILTER") && refused.contains("filter.merchant_id"),
        "{refused}"
    );
    Ok(())
}

fn followers_are_listed(place: &Place) -> anyhow::Result<()> {
    // A consumer reports for the first time soon after it has begun.
    let deadline = Instant::now() + PATIENCE;
    let table = loop {
        let table = place.said(&["log", "consumers", "order"])?;
        let followers = ["analytics/", "fulfillment/", "notification/", "refund/"];
        if followers.iter().all(|service| table.contains(service)) {
            break table;
        }
        ensure!(
            Instant::now() < deadline,
            "not all followers have reported: {table}"
        );
        std::thread::sleep(Duration::from_millis(200));
    };
    ensure!(table.contains("behind"), "{table}");
    let all = place.json(&["log", "consumers"])?;
    ensure!(
        all["logs"].as_array().is_some_and(|logs| logs.len() == 5),
        "{all}"
    );
    let of_order = all["logs"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|log| log["log"] == "order");
    let first = &of_order.context("the log of order")?["consumers"][0];
    ensure!(
        first["behind"]["events"].is_string() && first["seenAt"].is_string(),
        "{first}"
    );
    let follower = format!(
        "{}/{}",
        first["service"].as_str().unwrap_or_default(),
        first["consumer"].as_str().unwrap_or_default()
    );
    let alive = place.complaint(&["log", "forget", "order", &follower], 1)?;
    ensure!(alive.contains("CONSUMER_ALIVE"), "{alive}");
    let nobody = place.complaint(&["log", "forget", "order", "nobody/nothing"], 1)?;
    ensure!(nobody.contains("CONSUMER_NOT_FOUND"), "{nobody}");
    Ok(())
}

#[test]
fn a_kept_folder_remembers_orders_and_goes_on() -> anyhow::Result<()> {
    let place = Place::new()?;
    let data = place.folder.path().join("data");
    let arguments = ["--data", data.to_str().context("a path in UTF-8")?];
    let first = Up::start(&place, &arguments)?;
    let imported = place.json(&["orders", "import", SAMPLE])?;
    ensure!(imported["placed"] == 32, "{imported}");
    let tenant = first.addresses["merchant_id"].clone();
    let before = place.json(&["orders", "get", "#1002"])?;
    ensure!(first.interrupt()?.success(), "it did not end well");
    place.assert_nothing_left()?;

    let second = Up::start(&place, &arguments)?;
    ensure!(
        second.addresses["merchant_id"] == tenant,
        "another merchant: {}",
        second.addresses
    );
    let after = place.json(&["orders", "get", "#1002"])?;
    ensure!(after["order"]["orderId"] == before["order"]["orderId"], "{after}");
    // Placed, cancelled, told: the log, the streams and the jobs go on where they were.
    let again = place.json(&["orders", "import", SAMPLE])?;
    ensure!(again["placed"] == 0 && again["duplicates"] == 32, "{again}");
    place.json(&["orders", "cancel", "#1002", "--reason", "ordered twice"])?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let refunds = place.json(&["refunds", "list", "--order", "#1002"])?;
        if refunds["refunds"]
            .as_array()
            .is_some_and(|refunds| refunds.len() == 1)
        {
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "the cancelled order has no refund: {refunds}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    ensure!(second.interrupt()?.success(), "it did not end well");
    place.assert_nothing_left()
}
