//! A private Postgres, NATS and mail sink for one machine, and a proxy that breaks connections: the launcher, the demo
//! and the tests stand on it.
//!
//! [`Embedded::start`] takes addresses from configuration, else programs pinned by hash (Python wheels in a cache
//! folder), else programs of this machine, in this order. Servers listen on loopback only, behind random passwords,
//! on free ports, and never outlive the process: each is looked after by a small shell script that stops it and
//! removes its temporary data when our end of a pipe closes, which the kernel does also after SIGKILL.
//!
//! What this crate refuses to do: know anything of Waybill's schemas, roles, streams or services; run a server for
//! production; listen beyond loopback. Unix only.

mod blocking;
mod error;
mod folder;
pub mod mail;
mod nats;
mod ports;
mod postgres;
mod programs;
mod run_as;
mod supervisor;
mod url;
mod wheels;
mod wire;

use std::env;
use std::path::PathBuf;

use secrecy::SecretString;

pub use error::Error;
pub use mail::{Fault, Mail, MailSink};
pub use nats::Nats;
pub use ports::free as free_port;
pub use postgres::Postgres;
pub use wire::Wire;

/// Where the servers keep their data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DataDir {
    /// In a temporary folder of their own, removed at the end.
    #[default]
    Temp,
    /// In this folder, made when it is missing, kept at the end. One process at a time.
    Kept(PathBuf),
}

/// How a server ends before something is done to its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Downtime {
    /// As by a power cut (SIGKILL).
    Kill,
    /// In order, with everything written.
    Stop,
}

/// How to start.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where the data live.
    pub data: DataDir,
    /// Whether a commit survives a power cut. Tests do without.
    pub durable: bool,
    /// Memory that Postgres keeps pages in, in MiB. By default 128, enough for a demo and for tests.
    pub postgres_buffers_mib: Option<u64>,
    /// An administrator's URL of a Postgres to use instead of starting one.
    pub postgres_url: Option<SecretString>,
    /// The URL of a NATS with JetStream to use instead of starting one.
    pub nats_url: Option<SecretString>,
}

impl Options {
    /// The defaults, with addresses from `WAYBILL_INFRA_POSTGRES_URL` and `WAYBILL_INFRA_NATS_URL` where set.
    pub fn from_environment() -> Self {
        let read = |name| {
            env::var(name)
                .ok()
                .filter(|url| !url.is_empty())
                .map(SecretString::from)
        };
        Self {
            postgres_url: read("WAYBILL_INFRA_POSTGRES_URL"),
            nats_url: read("WAYBILL_INFRA_NATS_URL"),
            ..Self::default()
        }
    }
}

/// Postgres and NATS, ready for use. They stop when the last handle is dropped, or when the process ends.
#[derive(Clone, Debug)]
pub struct Embedded {
    postgres: Postgres,
    nats: Nats,
}

impl Embedded {
    /// Starts both, at the same time.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let (postgres, nats) = tokio::try_join!(Postgres::start(&options), Nats::start(&options))?;
        Ok(Self { postgres, nats })
    }

    /// The Postgres.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The NATS.
    pub fn nats(&self) -> &Nats {
        &self.nats
    }

    /// Stops what is ours and waits until it is gone. Given servers are left alone.
    pub async fn stop(self) -> Result<(), Error> {
        blocking::blocking(move || {
            drop(self);
            Ok(())
        })
        .await
    }
}

/// 128 random bits as text.
fn secret() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}
