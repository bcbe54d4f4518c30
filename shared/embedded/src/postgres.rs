//! One private Postgres: prepared, started on a free loopback port, stopped with us. It is guarded by a random
//! password, since others may share the machine. It makes no schema and no role: that is the store's work.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret as _, SecretString};

use crate::blocking::blocking;
use crate::folder::{self, Folder};
use crate::programs::{self, PostgresPrograms};
use crate::run_as::RunAs;
use crate::supervisor::{Duty, Supervisor};
use crate::{DataDir, Downtime, Error, Options, ports, secret, url};

const PROGRAM: &str = "postgres";
const ADMIN: &str = "waybill_admin";
/// Recovery of a kept folder after a crash may take a while.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// After a kill, backends that are still busy hold the old shared memory for a moment.
const RETRY_WITHIN: Duration = Duration::from_secs(30);

/// A Postgres to work with: our own, or one whose address was given.
#[derive(Clone)]
pub struct Postgres(Kind);

#[derive(Clone)]
enum Kind {
    Given(SecretString),
    Own(Arc<Mutex<Own>>, SecretString),
}

struct Own {
    // Dropped first: the supervisor stops the server before the folder's lock goes.
    supervisor: Supervisor,
    folder: Folder,
    tuning: Tuning,
    port: u16,
}

impl Postgres {
    /// Where a program of Postgres stands, e.g. `pg_dump`: of the version that an own server has.
    pub fn tool(&self, name: &str) -> Result<PathBuf, Error> {
        Ok(programs::postgres(RunAs::choose()?)?.bin.join(name))
    }

    /// Takes the given one, or starts our own.
    pub async fn start(options: &Options) -> Result<Self, Error> {
        if let Some(given) = &options.postgres_url {
            return Ok(Self(Kind::Given(given.clone())));
        }
        let data = options.data.clone();
        let tuning = Tuning {
            durable: options.durable,
            buffers_mib: options.postgres_buffers_mib.unwrap_or(DEFAULT_BUFFERS_MIB),
        };
        blocking(move || Self::launch(&data, tuning, None)).await
    }

    pub(crate) fn launch(data: &DataDir, tuning: Tuning, run_as: Option<RunAs>) -> Result<Self, Error> {
        // Finding the programs may take a download; only then is there something to clean up.
        let run_as = run_as.map_or_else(RunAs::choose, Ok)?;
        let programs = programs::postgres(run_as)?;
        let folder = Folder::open(data, PROGRAM)?;
        let log = folder.log();
        let data = folder.path.join("data");
        let server = run_as.command(&programs.bin.join(PROGRAM), &["-D".into(), data.clone().into()]);
        let mut duty = Duty {
            program: PROGRAM,
            log: &log,
            // Temporary data need no checkpoint at the end: an immediate stop is enough.
            stop_signal: if folder.temporary { "QUIT" } else { "INT" },
            remove: folder.temporary.then_some(folder.path.as_path()),
            command: &server,
            lock: &folder.lock,
        };
        let supervisor = Supervisor::spawn(&duty)?;
        if !data.exists() {
            // Under another name until it is whole, so that a kept folder is never taken half prepared.
            let preparing = folder.path.join("data.preparing");
            let prepare = initdb(&folder, &preparing, &programs, run_as, tuning.durable)?;
            duty.program = "initdb";
            duty.command = &prepare;
            let mut once = Supervisor::spawn(&duty)?;
            if !once.run()? {
                return Err(Error::DidNotStart {
                    program: "initdb",
                    log: folder.log_since(0),
                });
            }
            fs::rename(&preparing, &data).map_err(Error::io("rename", &preparing))?;
            once.keep_folder()?;
        }
        let password = fs::read_to_string(folder.path.join("password"))
            .map_err(Error::io("read the password beside", &data))?;

        let mut own = Own {
            supervisor,
            folder,
            tuning,
            port: 0,
        };
        own.start_on_any_port()?;
        let admin = url::postgres(ADMIN, password.trim(), own.port, "postgres");
        Ok(Self(Kind::Own(Arc::new(Mutex::new(own)), admin.into())))
    }

    /// The connection URL of a superuser. It holds a password: never log it.
    pub fn admin_url(&self) -> &str {
        match &self.0 {
            Kind::Given(url) | Kind::Own(_, url) => url.expose_secret(),
        }
    }

    /// Whether its address was given, so that it is not ours to stop.
    pub fn is_given(&self) -> bool {
        matches!(self.0, Kind::Given(_))
    }

    /// The connection URL of another user and database on the same server.
    pub fn url(&self, user: &str, password: &str, database: &str) -> String {
        url::with(self.admin_url(), user, password, database)
    }

    /// Ends the server as a power cut would (SIGKILL) and leaves it down.
    pub async fn kill(&self) -> Result<(), Error> {
        self.act("kill", |own| own.supervisor.kill()).await
    }

    /// Stops the server in order and leaves it down.
    pub async fn stop(&self) -> Result<(), Error> {
        self.act("stop", |own| own.supervisor.stop()).await
    }

    /// Brings the server back on the same port, after [`Postgres::kill`] or [`Postgres::stop`].
    pub async fn resume(&self) -> Result<(), Error> {
        self.act("start", Own::start_again).await
    }

    /// Ends the server, does something to its data folder, and brings it back on the same port; also when `work` fails,
    /// whose error is then told.
    pub async fn while_stopped(
        &self,
        what: &'static str,
        downtime: Downtime,
        work: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
    ) -> Result<(), Error> {
        self.act(what, move |own| {
            match downtime {
                Downtime::Kill => own.supervisor.kill()?,
                Downtime::Stop => own.supervisor.stop()?,
            }
            let data = own.folder.path.join("data");
            let worked = work(&data).map_err(Error::io(what, &data));
            own.start_again()?;
            worked
        })
        .await
    }

    /// Stops and starts the server; the data and the address stay.
    pub async fn restart(&self) -> Result<(), Error> {
        self.act("restart", |own| {
            own.supervisor.stop()?;
            own.start_again()
        })
        .await
    }

    async fn act(
        &self,
        what: &'static str,
        act: impl FnOnce(&mut Own) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let Kind::Own(own, _) = &self.0 else {
            return Err(Error::NotOurs {
                what,
                program: PROGRAM,
            });
        };
        let own = Arc::clone(own);
        blocking(move || act(&mut own.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Given(_) => "Postgres(given)",
            Kind::Own(..) => "Postgres(own)",
        })
    }
}

/// The command that makes an empty data folder, with the administrator's password in a file.
fn initdb(
    folder: &Folder,
    data: &Path,
    programs: &PostgresPrograms,
    run_as: RunAs,
    durable: bool,
) -> Result<Vec<OsString>, Error> {
    if data.exists() {
        fs::remove_dir_all(data).map_err(Error::io("remove", data))?;
    }
    let password = folder.write_private("password", &secret())?;
    folder::make_private(data)?;
    for path in [folder.path.as_path(), &password, data] {
        run_as.give(path)?;
    }
    let mut password_file = OsString::from("--pwfile=");
    password_file.push(&password);
    let mut arguments: Vec<OsString> = vec!["-D".into(), data.into(), password_file];
    arguments.extend([
        format!("--username={ADMIN}").into(),
        "--auth=scram-sha-256".into(),
    ]);
    arguments.extend(["--encoding=UTF8", "--no-instructions"].map(OsString::from));
    if !durable {
        arguments.push("--no-sync".into());
    }
    // The built-in provider knows Unicode on every system; older ones fall back to plain bytes.
    let locale: &[&str] = if programs.major >= 17 {
        &[
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        ]
    } else {
        &["--no-locale"]
    };
    arguments.extend(locale.iter().map(OsString::from));
    Ok(run_as.command(&programs.bin.join("initdb"), &arguments))
}

impl Own {
    fn start_on_any_port(&mut self) -> Result<(), Error> {
        loop {
            self.port = ports::free();
            match self.start_once() {
                Err(Error::DidNotStart { log, .. }) if log.contains("Address already in use") => {
                    tracing::debug!(port = self.port, "port was taken meanwhile, trying another");
                }
                other => return other,
            }
        }
    }

    fn start_again(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + RETRY_WITHIN;
        loop {
            match self.start_once() {
                Err(Error::DidNotStart { log, .. })
                    if Instant::now() < deadline
                        && (log.contains("still in use") || log.contains("Address already in use")) =>
                {
                    std::thread::sleep(Duration::from_millis(50));
                }
                other => return other,
            }
        }
    }

    fn start_once(&mut self) -> Result<(), Error> {
        let configuration = self.folder.path.join("data/postgresql.conf");
        fs::write(&configuration, settings(self.port, self.tuning))
            .map_err(Error::io("write", &configuration))?;
        let log_start = self.folder.log_length();
        let pid = self.supervisor.start()?;
        let deadline = Instant::now() + READY_WITHIN;
        while !self.ready(pid) {
            if !self.supervisor.is_alive()? {
                return Err(Error::DidNotStart {
                    program: PROGRAM,
                    log: self.folder.log_since(log_start),
                });
            }
            if Instant::now() > deadline {
                self.supervisor.kill()?;
                let log = self.folder.log_since(log_start);
                return Err(Error::NotReady {
                    program: PROGRAM,
                    after: READY_WITHIN,
                    log,
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Postgres writes its state to the last line of its pid file. Asking the port instead could reach a stranger
    /// who took it before us.
    fn ready(&self, pid: u32) -> bool {
        let text = fs::read_to_string(self.folder.path.join("data/postmaster.pid")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.first().is_some_and(|first| *first == pid.to_string()) && lines.get(7) == Some(&"ready")
    }
}

const DEFAULT_BUFFERS_MIB: u64 = 128;

/// What a caller decides about a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    durable: bool,
    buffers_mib: u64,
}

fn settings(port: u16, tuning: Tuning) -> String {
    let Tuning { durable, buffers_mib } = tuning;
    let durability = if durable {
        // Checkpoints so far apart that a page is logged whole once for many changes; what lies between two is read after a crash.
        format!(
            "fsync = on\nfull_page_writes = on\nmax_wal_size = {}MB\n",
            2048.max(2 * buffers_mib)
        )
    } else {
        "fsync = off\nfull_page_writes = off\nwal_level = minimal\nmax_wal_senders = 0\ncheckpoint_timeout = 30min\n"
            .to_owned()
    };
    format!(
        "# Written at every start. Changes made here are lost.\n\
         listen_addresses = '127.0.0.1'\n\
         port = {port}\n\
         unix_socket_directories = ''\n\
         password_encryption = 'scram-sha-256'\n\
         max_connections = 300\n\
         shared_buffers = {buffers_mib}MB\n\
         # In the data folder, so that nothing of a killed server stays in /dev/shm.\n\
         dynamic_shared_memory_type = 'mmap'\n\
         # The log's watermark is server-wide: a prepared transaction left behind would hold it for ever.\n\
         max_prepared_transactions = 0\n\
         timezone = 'UTC'\n\
         log_timezone = 'UTC'\n\
         # Statements may carry personal data; they stay out of the log.\n\
         log_min_error_statement = 'panic'\n\
         log_min_messages = 'warning'\n\
         log_error_verbosity = 'terse'\n\
         {durability}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn root_without_namespaces_steps_down_to_nobody() -> Result<(), Error> {
        if RunAs::choose()? == RunAs::Ourselves {
            // Only root can, and only root needs to.
            return Ok(());
        }
        let tuning = Tuning {
            durable: false,
            buffers_mib: DEFAULT_BUFFERS_MIB,
        };
        let postgres =
            blocking(move || Postgres::launch(&DataDir::Temp, tuning, Some(RunAs::Nobody))).await?;
        postgres.kill().await?;
        postgres.resume().await
    }
}
