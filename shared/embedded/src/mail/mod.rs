//! A mail server that keeps what it gets: real SMTP in, messages in memory, nothing sent on. Used where a person or
//! a test wants to see exactly what would have been delivered, and what a sender does when delivery goes wrong.
//!
//! The protocol side (`session`) is ours: the embeddable SMTP servers among the crates either block a thread pool
//! that cannot be stopped again (mailin-embedded) or bring a whole mail system; none can break off at a chosen
//! point, which is what half of our tests need. Messages are parsed by `mailparse`.

mod message;
mod session;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::Error;
pub use message::Mail;

/// More sessions than this at once wait in the listen queue.
const MAX_SESSIONS: usize = 64;
/// More mails than this are refused with 452, so that a runaway sender cannot eat the memory.
const MAX_MAILS: usize = 100_000;

/// Something that goes wrong on purpose. Each fault happens once; inject it several times for several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refuses the next RCPT of this address with this code (5xx for good, 4xx for now).
    RejectRecipient {
        /// The address, compared without case.
        address: String,
        /// The reply code, 400 to 599.
        code: u16,
    },
    /// Refuses the next message, after its text, with this code.
    RejectMessage {
        /// The reply code, 400 to 599.
        code: u16,
    },
    /// Takes the next message's text and closes the connection without an answer: the sender cannot know.
    DropAfterData {
        /// Whether the message was in fact taken.
        kept: bool,
    },
}

/// A running mail sink. It ends when dropped.
#[derive(Debug)]
pub struct MailSink {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// What all sessions share.
#[derive(Debug)]
struct Shared {
    mails: Mutex<Vec<Mail>>,
    faults: Mutex<VecDeque<Fault>>,
    count: watch::Sender<usize>,
}

impl MailSink {
    /// Listens on a free loopback port.
    pub async fn start() -> Result<Self, Error> {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Listens on this address.
    pub async fn start_on(address: SocketAddr) -> Result<Self, Error> {
        let listen = || Error::doing(format!("listen on {address} for mail"));
        let listener = TcpListener::bind(address).await.map_err(listen())?;
        let address = listener.local_addr().map_err(listen())?;
        let shared = Arc::new(Shared {
            mails: Mutex::default(),
            faults: Mutex::default(),
            count: watch::Sender::new(0),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            task,
        })
    }

    /// Where to send mail to.
    pub fn smtp_addr(&self) -> SocketAddr {
        self.address
    }

    /// Everything taken so far, in the order of arrival.
    pub fn messages(&self) -> Vec<Mail> {
        self.shared.mails().clone()
    }

    /// Forgets everything taken so far.
    pub fn clear(&self) {
        self.shared.mails().clear();
        self.shared.count.send_replace(0);
    }

    /// Makes something go wrong, once. Faults happen in the order of injection, as far as they fit.
    pub fn inject(&self, fault: Fault) {
        lock(&self.shared.faults).push_back(fault);
    }

    /// Faults that have not happened yet.
    pub fn faults(&self) -> Vec<Fault> {
        lock(&self.shared.faults).iter().cloned().collect()
    }

    /// Waits until `find` finds what it looks for among all mails taken so far. `what` names it in the error.
    pub async fn wait<T>(
        &self,
        what: &str,
        within: Duration,
        mut find: impl FnMut(&[Mail]) -> Option<T>,
    ) -> Result<T, Error> {
        let mut count = self.shared.count.subscribe();
        let search = async {
            loop {
                count.mark_unchanged();
                if let Some(found) = find(&self.shared.mails()) {
                    return found;
                }
                if count.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(within, search)
            .await
            .map_err(|_| Error::NoMail {
                what: what.to_owned(),
                after: within,
                seen: self.shared.mails().len(),
            })
    }
}

impl Drop for MailSink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn mails(&self) -> MutexGuard<'_, Vec<Mail>> {
        lock(&self.mails)
    }

    /// False when the sink is full.
    fn keep(&self, mail: Mail) -> bool {
        let mut mails = self.mails();
        if mails.len() >= MAX_MAILS {
            return false;
        }
        mails.push(mail);
        self.count.send_replace(mails.len());
        true
    }

    /// Takes the first fault that fits.
    fn take_fault(&self, fits: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut faults = lock(&self.faults);
        let place = faults.iter().position(fits)?;
        faults.remove(place)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done in these lists by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(MAX_SESSIONS));
    let mut sessions = tokio::task::JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        while sessions.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                sessions.spawn(async move {
                    if let Err(e) = session::serve(stream, &shared).await {
                        tracing::debug!(error = %e, "a mail session broke off");
                    }
                    drop(slot);
                });
            }
            Err(e) => {
                // Out of file handles, most likely: let others finish first.
                tracing::warn!(error = %e, "cannot accept a mail connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
