//! The service processes: started, killed, paused, started again, and never left behind.
//!
//! Each is kept by a task of its own, which alone knows the child: a signal can so never reach a stranger who got the
//! process id of a child that has ended.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Before a process that ended by itself is started again, as an orchestrator would.
const PAUSE: Duration = Duration::from_millis(500);
/// Where Debian and others put the library that shifts the clock of a process.
const FAKETIME: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
];

/// The library that shifts clocks, where this machine has it.
#[must_use]
pub fn faketime() -> Option<&'static Path> {
    FAKETIME.iter().map(Path::new).find(|path| path.exists())
}

/// How a process is started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The program that knows `serve`.
    pub program: PathBuf,
    /// Its name, e.g. "order-2".
    pub name: String,
    /// The service it runs.
    pub service: &'static str,
    /// Its settings.
    pub config: PathBuf,
    /// Where it writes its log.
    pub log: PathBuf,
    /// The file that shifts its clock, where there is the library for it.
    pub clock: PathBuf,
}

enum Order {
    /// SIGKILL, and up again after a while.
    Kill(Duration),
    /// SIGTERM, and up again after a while.
    Terminate(Duration),
    /// SIGSTOP or SIGCONT.
    Signal(&'static str),
    /// The end.
    Stop,
}

#[derive(Debug, Default)]
struct State {
    /// There is a child.
    up: AtomicBool,
    /// How often it ended by itself.
    ends: AtomicU64,
}

/// A process that is kept running.
#[derive(Debug)]
pub struct Process {
    launch: Launch,
    orders: mpsc::Sender<Order>,
    state: Arc<State>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

impl Process {
    /// Starts it, and starts it again whenever it ends.
    pub fn start(launch: Launch) -> anyhow::Result<Self> {
        let (orders, queue) = mpsc::channel(64);
        let state = Arc::<State>::default();
        set_clock(&launch, 0)?;
        let first = spawn(&launch)?;
        let keeper = tokio::spawn(keep(launch.clone(), first, queue, Arc::clone(&state)));
        Ok(Self {
            launch,
            orders,
            state,
            keeper: Mutex::new(Some(keeper)),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.launch.name
    }

    /// How often it ended without having been told to.
    #[must_use]
    pub fn ended_by_itself(&self) -> u64 {
        self.state.ends.load(Ordering::Relaxed)
    }

    /// The last line that it wrote for people, or logged.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.launch.log).unwrap_or_default();
        let mut lines = log.lines().rev();
        let said = lines.clone().find(|line| !line.starts_with('{'));
        said.or_else(|| lines.next())
            .unwrap_or("it wrote nothing")
            .to_owned()
    }

    /// Kills it; it comes back after `down`.
    pub async fn kill(&self, down: Duration) -> anyhow::Result<()> {
        self.fault(Order::Kill(down)).await
    }

    /// Asks it to stop; it comes back after `down`.
    pub async fn terminate(&self, down: Duration) -> anyhow::Result<()> {
        self.fault(Order::Terminate(down)).await
    }

    /// Makes it stand still.
    pub async fn pause(&self) -> anyhow::Result<()> {
        self.fault(Order::Signal("STOP")).await
    }

    /// Lets it go on.
    pub async fn resume(&self) -> anyhow::Result<()> {
        self.order(Order::Signal("CONT")).await
    }

    /// Shifts its clock by seconds, without restarting it.
    pub fn shift_clock(&self, seconds: i64) -> anyhow::Result<()> {
        if faketime().is_none() {
            bail!("libfaketime is not installed");
        }
        set_clock(&self.launch, seconds)
    }

    /// To a process that is down, nothing can be done.
    async fn fault(&self, order: Order) -> anyhow::Result<()> {
        if !self.state.up.load(Ordering::Relaxed) {
            bail!("{} is down", self.name());
        }
        self.order(order).await
    }

    async fn order(&self, order: Order) -> anyhow::Result<()> {
        self.orders
            .send(order)
            .await
            .map_err(|_| anyhow::anyhow!("{} is not kept any more", self.name()))
    }

    /// Ends it for good.
    pub async fn stop(&self) {
        // When the keeper has gone, so has the child.
        let _gone = self.orders.send(Order::Stop).await;
        if let Some(keeper) = self.keeper.lock().await.take() {
            let _ended = keeper.await;
        }
    }
}

fn set_clock(launch: &Launch, seconds: i64) -> anyhow::Result<()> {
    // Renamed into place: a process reads the file at any moment.
    let fresh = launch.clock.with_extension("fresh");
    std::fs::write(&fresh, format!("{seconds:+}\n"))
        .and_then(|()| std::fs::rename(&fresh, &launch.clock))
        .with_context(|| format!("cannot write {}", launch.clock.display()))
}

fn spawn(launch: &Launch) -> anyhow::Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&launch.log)
        .with_context(|| format!("cannot open {}", launch.log.display()))?;
    let mut command = Command::new(&launch.program);
    command
        .args(["serve", launch.service, "--with-parent", "--config"])
        .arg(&launch.config)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        // Ctrl-C is for us; we end them.
        .process_group(0)
        .kill_on_drop(true);
    if let Some(library) = faketime() {
        command
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", &launch.clock)
            .env("FAKETIME_CACHE_DURATION", "1")
            // Only the clock on the wall jumps, as on a real machine.
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
    command
        .spawn()
        .with_context(|| format!("cannot start {}", launch.name))
}

enum Ended {
    Told(Duration),
    ByItself,
    ForGood,
}

async fn keep(launch: Launch, first: Child, mut orders: mpsc::Receiver<Order>, state: Arc<State>) {
    let mut child = Some(first);
    loop {
        state.up.store(true, Ordering::Relaxed);
        let ended = match child.take() {
            Some(child) => watch(child, &mut orders).await,
            None => match spawn(&launch) {
                Ok(child) => watch(child, &mut orders).await,
                Err(error) => {
                    tracing::error!(
                        process = launch.name,
                        error = format!("{error:#}"),
                        "cannot be started"
                    );
                    Ended::ByItself
                }
            },
        };
        state.up.store(false, Ordering::Relaxed);
        let pause = match ended {
            Ended::ForGood => return,
            Ended::Told(down) => down,
            Ended::ByItself => {
                state.ends.fetch_add(1, Ordering::Relaxed);
                PAUSE
            }
        };
        // What is not there can be neither killed nor paused.
        let up = sleep(pause);
        tokio::pin!(up);
        loop {
            tokio::select! {
                () = &mut up => break,
                order = orders.recv() => match order {
                    None | Some(Order::Stop) => return,
                    Some(_) => {}
                },
            }
        }
    }
}

async fn watch(mut child: Child, orders: &mut mpsc::Receiver<Order>) -> Ended {
    // Held as long as the child: it ends when this does.
    let _lifeline = child.stdin.take();
    let mut told = None;
    loop {
        tokio::select! {
            _ = child.wait() => return told.map_or(Ended::ByItself, Ended::Told),
            order = orders.recv() => match order {
                None | Some(Order::Stop) => {
                    end(&mut child).await;
                    return Ended::ForGood;
                }
                Some(Order::Kill(down)) => {
                    end(&mut child).await;
                    return Ended::Told(down);
                }
                Some(Order::Terminate(down)) => {
                    told = Some(down);
                    signal(&child, "TERM").await;
                }
                Some(Order::Signal(name)) => signal(&child, name).await,
            },
        }
    }
}

async fn end(child: &mut Child) {
    // Fails only when it has ended already.
    let _ended = child.kill().await;
}

/// Sends a signal to a child that was not waited for yet, so that its id is still its own.
async fn signal(child: &Child, name: &'static str) {
    let Some(id) = child.id() else { return };
    if let Err(error) = send_signal(id, name).await {
        tracing::warn!(
            signal = name,
            error = format!("{error:#}"),
            "a signal was not sent"
        );
    }
}

/// Sends a signal to a process.
pub(super) async fn send_signal(id: u32, name: &str) -> anyhow::Result<()> {
    let sent = Command::new("sh")
        .args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &id.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .context("cannot run sh")?;
    if !sent.success() {
        bail!("process {id} did not take SIG{name}");
    }
    Ok(())
}
