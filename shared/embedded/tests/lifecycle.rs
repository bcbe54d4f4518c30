//! The servers never outlive the process that started them, whatever ends it, and start for whoever starts it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tempfile::TempDir;
use waybill_embedded::{Nats, Options};

const PROGRAM: &str = env!("CARGO_BIN_EXE_waybill-infra");

/// A place for one test: everything the servers write is below it. Its name has a space.
struct Place {
    _parent: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> anyhow::Result<Self> {
        let parent = tempfile::Builder::new().prefix("waybill test ").tempdir()?;
        // Another user has to get through.
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755))?;
        let path = parent.path().join("a place");
        fs::create_dir_all(path.join("tmp"))?;
        fs::set_permissions(path.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        Ok(Self {
            _parent: parent,
            path,
        })
    }

    /// Prepares the program. In a process group of its own, so that a signal to the group reaches it as Ctrl-C would.
    fn prepare(&self, command: &mut Command) {
        command
            .env("TMPDIR", self.path.join("tmp"))
            .env_remove("WAYBILL_INFRA_POSTGRES_URL")
            .env_remove("WAYBILL_INFRA_NATS_URL")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
    }

    /// The program, as a terminal starts it. A shell lets what it runs in the background ignore SIGINT, and that is
    /// handed down to whatever the tests start.
    fn program(&self) -> Command {
        let mut command = Command::new("env");
        command.arg("--default-signal").arg(PROGRAM);
        self.prepare(&mut command);
        command
    }

    fn start(&self) -> anyhow::Result<Running> {
        let mut command = self.program();
        Running::spawn(&mut command)
    }

    /// Waits until no process and no file is left of what ran here.
    fn assert_nothing_left(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let files: Vec<_> = fs::read_dir(self.path.join("tmp"))?
                .map(|e| e.map(|e| e.file_name()))
                .collect();
            let processes = processes_below(&self.path)?;
            if files.is_empty() && processes.is_empty() {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "left behind: {files:?} {processes:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

struct Running {
    child: Child,
    postgres: String,
    nats: String,
}

impl Running {
    fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("standard output is piped")?).read_line(&mut line)?;
        if line.is_empty() {
            let mut said = String::new();
            child
                .stderr
                .take()
                .context("standard error is piped")?
                .read_to_string(&mut said)?;
            anyhow::bail!("it did not start: {said}");
        }
        let addresses: serde_json::Value = serde_json::from_str(&line)?;
        let address = |name: &str| addresses[name].as_str().map(str::to_owned).context("an address");
        Ok(Self {
            postgres: address("postgres")?,
            nats: address("nats")?,
            child,
        })
    }

    async fn query(&self, sql: &'static str) -> anyhow::Result<()> {
        sqlx::raw_sql(sql)
            .execute(&mut PgConnection::connect(&self.postgres).await?)
            .await?;
        Ok(())
    }

    /// Sends a signal to the whole process group, as a terminal does.
    fn signal(&mut self, signal: &str) -> anyhow::Result<()> {
        let group = format!("-{}", self.child.id());
        let sent = Command::new("sh")
            .args(["-c", "kill -s \"$1\" -- \"$2\"", "sh", signal, &group])
            .status()?;
        anyhow::ensure!(sent.success(), "cannot send {signal} to {group}");
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone, unless the test failed before it ended it.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The command lines of all processes that name this path.
fn processes_below(path: &Path) -> anyhow::Result<Vec<String>> {
    let path = path.to_string_lossy();
    let lines: Vec<String> = if Path::new("/proc/self/cmdline").exists() {
        let entries = fs::read_dir("/proc")?.flatten();
        // A process may end between listing and reading.
        let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        lines
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .collect()
    } else {
        let output = Command::new("ps").args(["-axww", "-o", "args="]).output()?;
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect()
    };
    Ok(lines.into_iter().filter(|line| line.contains(&*path)).collect())
}

fn reachable(url: &str) -> bool {
    let address = url
        .rsplit('@')
        .next()
        .and_then(|rest| rest.split('/').next())
        .unwrap_or_default();
    TcpStream::connect(address).is_ok()
}

#[tokio::test]
async fn nothing_is_left_after_sigkill_ctrl_c_or_sigterm() -> anyhow::Result<()> {
    for signal in ["KILL", "INT", "TERM"] {
        let place = Place::new()?;
        let mut running = place.start()?;
        running
            .query("CREATE TABLE t AS SELECT generate_series(1, 1000)")
            .await?;
        assert!(
            !processes_below(&place.path)?.is_empty(),
            "the test looks for the wrong processes"
        );

        running.signal(signal)?;
        place
            .assert_nothing_left()
            .with_context(|| format!("after SIG{signal}"))?;
        assert!(
            !reachable(&running.postgres) && !reachable(&running.nats),
            "after SIG{signal}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_busy_backend_does_not_survive_either() -> anyhow::Result<()> {
    let place = Place::new()?;
    let mut running = place.start()?;
    let url = running.postgres.clone();
    let busy = tokio::spawn(async move {
        let mut conn = PgConnection::connect(&url).await?;
        sqlx::raw_sql("SELECT count(*) FROM generate_series(1, 100000000000)")
            .execute(&mut conn)
            .await
    });
    let mut watcher = PgConnection::connect(&running.postgres).await?;
    let working = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%generate_series(1%'
                   AND pid <> pg_backend_pid())";
    while !sqlx::query_scalar::<_, bool>(working)
        .fetch_one(&mut watcher)
        .await?
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.signal("KILL")?;
    place.assert_nothing_left()?;
    busy.await?.expect_err("the query was answered by a dead server");
    Ok(())
}

#[tokio::test]
async fn a_kept_folder_can_be_opened_right_after_a_sigkill_and_by_one_only() -> anyhow::Result<()> {
    let place = Place::new()?;
    let folder = place.path.join("kept");
    let command = || {
        let mut command = place.program();
        command.arg(&folder);
        command
    };
    let mut first = Running::spawn(&mut command())?;
    first.query("CREATE TABLE kept ()").await?;
    first.signal("KILL")?;

    // The supervisor of the first may still be stopping its server: the second waits for it.
    let mut second = Running::spawn(&mut command())?;
    second.query("SELECT * FROM kept").await?;

    let refused = Running::spawn(&mut command())
        .err()
        .context("two processes work on one folder")?;
    assert!(
        refused.to_string().contains("in use by another process"),
        "{refused}"
    );
    second.query("SELECT * FROM kept").await?;
    second.signal("INT")?;
    place.assert_nothing_left()
}

#[tokio::test]
async fn a_panic_stops_the_server() -> anyhow::Result<()> {
    let (urls, url) = std::sync::mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
        runtime.block_on(async {
            let nats = Nats::start(&Options::default()).await.expect("nats starts");
            urls.send(nats.url().to_owned()).expect("the test listens");
            assert!(!reachable(nats.url()), "on purpose: {nats:?} is up");
        });
    })
    .join();
    assert!(panicked.is_err());
    assert!(!reachable(&url.recv()?), "it outlived the panic");
    Ok(())
}

#[tokio::test]
async fn an_ordinary_user_can_run_them() -> anyhow::Result<()> {
    let place = Place::new()?;
    if fs::metadata(&place.path)?.uid() != 0 {
        // We are one.
        place.start()?.signal("KILL")?;
        return place.assert_nothing_left();
    }
    // The user `nobody` cannot look into root's home: program and cache are put where it can. The cache is filled
    // first, by starting the program as ourselves.
    place.start()?.signal("INT")?;
    let program = place.path.join("waybill-infra");
    fs::copy(PROGRAM, &program)?;
    let home = place.path.join("home");
    fs::create_dir_all(home.join(".cache/waybill"))?;
    for cached in fs::read_dir(own_cache()?.join("waybill"))? {
        let cached = cached?;
        if cached.file_name().to_string_lossy().starts_with("infra-") {
            // Hard links where possible, since it is 200 MB.
            let copy = "cp -al -- \"$1\" \"$2\" 2>/dev/null || cp -a -- \"$1\" \"$2\"";
            let (from, to) = (cached.path(), home.join(".cache/waybill"));
            let copied = Command::new("sh")
                .args(["-c", copy, "sh"])
                .args([&from, &to])
                .status()?;
            anyhow::ensure!(copied.success(), "cannot copy {}", from.display());
        }
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--no-new-privs",
        ])
        .arg(&program);
    place.prepare(&mut command);
    command.env("HOME", &home).env_remove("XDG_CACHE_HOME");
    let mut running = Running::spawn(&mut command)?;
    running.query("SELECT 1").await?;
    let folders: Vec<_> = fs::read_dir(place.path.join("tmp"))?.collect::<Result<_, _>>()?;
    assert!(!folders.is_empty());
    for folder in folders {
        assert_eq!(folder.metadata()?.uid(), 65_534, "{:?}", folder.path());
    }
    running.signal("KILL")?;
    place.assert_nothing_left()
}

#[tokio::test]
async fn many_first_starts_at_once_fetch_the_programs_once() -> anyhow::Result<()> {
    let place = Place::new()?;
    let cache = place.path.join("cache");
    // The downloads themselves may come from pip's own cache.
    let downloads = own_cache()?.join("pip");
    let start = || {
        let mut command = Command::new(PROGRAM);
        place.prepare(&mut command);
        command
            .env("XDG_CACHE_HOME", &cache)
            .env("PIP_CACHE_DIR", &downloads);
        Running::spawn(&mut command)
    };
    let started: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    for running in started {
        running
            .map_err(|_| anyhow::anyhow!("a thread panicked"))??
            .signal("KILL")?;
    }
    let mut folders = Vec::new();
    for entry in fs::read_dir(cache.join("waybill"))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    assert!(
        matches!(folders.as_slice(), [one] if one.starts_with("infra-")),
        "{folders:?}"
    );
    place.assert_nothing_left()
}

#[test]
fn without_any_program_one_error_lists_every_way() -> anyhow::Result<()> {
    let place = Place::new()?;
    let mut command = Command::new(PROGRAM);
    place.prepare(&mut command);
    let output = command
        .env("WAYBILL_INFRA_POSTGRES_URL", "postgres://given.example/postgres")
        .env("XDG_CACHE_HOME", place.path.join("cache"))
        .env("PATH", place.path.join("empty"))
        .env("PIP_NO_INDEX", "1")
        .env("PIP_FIND_LINKS", "")
        .env("PIP_CACHE_DIR", place.path.join("pip"))
        .output()?;
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr)?;
    for part in [
        "no usable nats-server",
        "pinned wheels: ",
        "WAYBILL_INFRA_NATS_URL",
        "pip",
        "apt install",
        "2.10",
    ] {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
    place.assert_nothing_left()
}

/// Where this process keeps its cache.
fn own_cache() -> anyhow::Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(home)
        .context("HOME is set")
}
