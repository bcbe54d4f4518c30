//! The supervisor of one server: a small shell process that outlives us by exactly as long as it takes to stop the
//! server and to remove its data. We hold the writing end of its standard input; when we end, by whatever death,
//! the kernel closes it. Everything here blocks: callers use blocking threads.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::Error;

const SCRIPT: &str = include_str!("supervisor.sh");

/// What a supervisor has to know.
pub(crate) struct Duty<'a> {
    /// Its server's name, for messages.
    pub program: &'static str,
    /// Where the server's output goes.
    pub log: &'a Path,
    /// The name of the signal that stops the server.
    pub stop_signal: &'static str,
    /// Removed at the end.
    pub remove: Option<&'a Path>,
    /// The server's command line.
    pub command: &'a [OsString],
    /// The locked file of the data folder. The supervisor holds it open as its standard error, so that the lock
    /// lasts until the server is really gone, also when we are killed.
    pub lock: &'a File,
}

pub(crate) struct Supervisor {
    program: &'static str,
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Supervisor {
    pub(crate) fn spawn(duty: &Duty<'_>) -> Result<Self, Error> {
        let lock = duty
            .lock
            .try_clone()
            .map_err(Error::doing("duplicate a folder's lock"))?;
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT, "waybill-supervisor"])
            .arg(duty.log)
            .arg(duty.stop_signal)
            .arg(duty.remove.unwrap_or(Path::new("")))
            .args(duty.command)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(lock))
            .current_dir("/")
            .process_group(0)
            .spawn()
            .map_err(Error::doing("start sh"))?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("standard output was asked for above"));
        Ok(Self {
            program: duty.program,
            child,
            orders,
            answers,
        })
    }

    /// Runs the command to its end. True when it reported success.
    pub(crate) fn run(&mut self) -> Result<bool, Error> {
        Ok(self.order("run")? == "ended 0")
    }

    /// Starts the server and returns its process id.
    pub(crate) fn start(&mut self) -> Result<u32, Error> {
        let answer = self.order("start")?;
        answer
            .strip_prefix("started ")
            .and_then(|pid| pid.parse().ok())
            .ok_or_else(|| self.lost(format!("it answered {answer:?} to start")))
    }

    pub(crate) fn is_alive(&mut self) -> Result<bool, Error> {
        Ok(self.order("status")? == "alive")
    }

    pub(crate) fn stop(&mut self) -> Result<(), Error> {
        self.order("stop").map(drop)
    }

    pub(crate) fn kill(&mut self) -> Result<(), Error> {
        self.order("kill").map(drop)
    }

    /// Gives up the duty to remove the folder.
    pub(crate) fn keep_folder(&mut self) -> Result<(), Error> {
        self.order("keep").map(drop)
    }

    fn order(&mut self, word: &str) -> Result<String, Error> {
        let mut answer = String::new();
        let mut talk = || -> std::io::Result<()> {
            let orders = self.orders.as_mut().ok_or(std::io::ErrorKind::BrokenPipe)?;
            writeln!(orders, "{word}")?;
            if self.answers.read_line(&mut answer)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            Ok(())
        };
        match talk() {
            Ok(()) => Ok(answer.trim_end().to_owned()),
            Err(e) => Err(self.lost(format!("{word}: {e}"))),
        }
    }

    fn lost(&self, detail: String) -> Error {
        Error::SupervisorLost {
            program: self.program,
            detail,
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // The same end as when we are killed: the pipe closes, the script cleans up.
        self.orders.take();
        if let Err(e) = self.child.wait() {
            tracing::warn!(program = self.program, error = %e, "cannot wait for a supervisor");
        }
    }
}
