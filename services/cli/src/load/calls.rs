//! Calls that are repeated until they are answered.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use tokio::time::sleep;
use tonic::{Code, Response, Status};
use waybill_rpc::{client, fault};

use crate::session::Session;

/// Between two calls.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What services answered when they could not do what was asked, counted. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Answers(Arc<Mutex<BTreeMap<String, u64>>>);

impl Answers {
    fn note(&self, status: &Status) {
        let code = format!("{:?}", status.code());
        let name = fault::reason(status).map_or_else(|| code.clone(), |reason| format!("{code} {reason}"));
        *self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(name)
            .or_default() += 1;
    }

    /// By code and reason.
    #[must_use]
    pub fn counted(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counted().values().sum()
    }
}

/// Calls the services for a store, patiently.
#[derive(Clone)]
pub struct Caller {
    /// The clients.
    pub session: Session,
    answers: Answers,
}

impl Caller {
    /// A caller over these clients.
    #[must_use]
    pub fn new(session: Session, answers: Answers) -> Self {
        Self { session, answers }
    }

    /// Calls until the answer is neither "not now" nor lost. `not_yet` names reason codes that only mean that what was told
    /// to another service has not arrived yet.
    pub async fn call<T, F, Fut>(&self, what: &str, not_yet: &[&str], mut call: F) -> anyhow::Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut pause = FIRST_PAUSE;
        loop {
            match call().await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => {
                    self.answers.note(&status);
                    let waits =
                        fault::reason(&status).is_some_and(|reason| not_yet.contains(&reason.as_str()));
                    if !waits && !is_passing(&status) {
                        return Err(anyhow!(status).context(what.to_owned()));
                    }
                }
            }
            sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks until there is what is waited for.
    pub async fn until<T, F, Fut>(&self, mut ask: F) -> anyhow::Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = anyhow::Result<Option<T>>>,
    {
        let mut pause = Duration::from_millis(100);
        loop {
            if let Some(found) = ask().await? {
                return Ok(found);
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        }
    }
}

/// Whether the same call may be answered later. An INTERNAL is repeated, too, and counted apart: it is a fault of ours, but
/// only its effects tell how bad.
fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::ResourceExhausted
            | Code::Internal
    ) || client::is_retryable(status)
}

/// Calls until it is answered; the request is the same each time. An impatient caller does it twice at once.
macro_rules! ask {
    ($self:ident, $what:literal, $not_yet:expr, $client:expr, $method:ident, $request:expr) => {{
        let (client, request) = ($client?, $request);
        let call = || {
            Box::pin($self.caller().call($what, $not_yet, || {
                let (mut client, request) = (client.clone(), request.clone());
                async move { client.$method(request).await }
            }))
        };
        if $self.draft.impatient {
            // Two callers with one request id get one answer.
            let (one, two) = tokio::try_join!(call(), call())?;
            (one, Some(two))
        } else {
            (call().await?, None)
        }
    }};
}

pub(super) use ask;
