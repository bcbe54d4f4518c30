//! Background loops of a service as one group: they start together, one that fails ends all, and none outlives the group.
//!
//! What it refuses to do: restart a task. A loop that can go on after an error handles the error itself; one that returns
//! it asks for the process to end, and whoever runs the process starts it again.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A group of background tasks. Clones are handles of the same group.
#[derive(Clone)]
pub struct TaskGroup {
    inner: Arc<Inner>,
}

struct Inner {
    token: CancellationToken,
    tracker: TaskTracker,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    running: BTreeMap<u64, (Cow<'static, str>, AbortHandle)>,
    failures: Vec<Failure>,
}

/// A task that did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The task.
    pub task: String,
    /// What it said.
    pub reason: String,
    /// Whether it panicked.
    pub panicked: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.panicked { "panicked" } else { "failed" };
        write!(f, "task {} {how}: {}", self.task, self.reason)
    }
}

/// How a group ended, when it did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupError {
    /// The tasks that failed or panicked, in the order they did.
    pub failed: Vec<Failure>,
    /// The tasks that did not end in time and were aborted.
    pub hung: Vec<String>,
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.failed.iter().map(Failure::to_string).collect();
        if !self.hung.is_empty() {
            parts.push(format!(
                "aborted because they did not end in time: {}",
                self.hung.join(", ")
            ));
        }
        f.write_str(&parts.join("; "))
    }
}

impl std::error::Error for GroupError {}

impl TaskGroup {
    /// A group that is asked to stop when `parent` is cancelled. A failure inside does not reach the parent by itself: the
    /// owner of the group waits for [`TaskGroup::stopping`] and decides.
    pub fn new(parent: &CancellationToken) -> TaskGroup {
        TaskGroup {
            inner: Arc::new(Inner {
                token: parent.child_token(),
                tracker: TaskTracker::new(),
                state: Mutex::default(),
            }),
        }
    }

    /// The token that tells the tasks to stop.
    pub fn token(&self) -> CancellationToken {
        self.inner.token.clone()
    }

    /// Starts a task. A failure or a panic is logged once and asks the whole group to stop; a task that ends with `Ok` has
    /// simply done its work.
    pub fn spawn<F, E>(&self, name: impl Into<Cow<'static, str>>, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display + Send + 'static,
    {
        let name = name.into();
        // The lock is held until the task is entered in the list, so that a task that ends at once finds itself there.
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        let group = self.clone();
        let handle = self.inner.tracker.spawn(async move {
            let ended = AssertUnwindSafe(future).catch_unwind().await;
            group.ended(id, ended);
        });
        state.running.insert(id, (name, handle.abort_handle()));
    }

    fn ended<E: fmt::Display>(&self, id: u64, ended: Result<Result<(), E>, Box<dyn Any + Send>>) {
        let mut state = self.state();
        let Some((name, _)) = state.running.remove(&id) else {
            return;
        };
        let (reason, panicked) = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => (error.to_string(), false),
            Err(panic) => (panic_text(panic.as_ref()), true),
        };
        tracing::error!(task = %name, reason, panicked, "background task ended, the group stops");
        state.failures.push(Failure {
            task: name.into_owned(),
            reason,
            panicked,
        });
        drop(state);
        self.inner.token.cancel();
    }

    /// Waits until the group is asked to stop, by its parent or by a task that failed.
    pub async fn stopping(&self) {
        self.inner.token.cancelled().await;
    }

    /// Asks all tasks to stop, waits up to `grace`, aborts those that are left.
    ///
    /// # Errors
    ///
    /// When a task failed, now or earlier, or had to be aborted; the error names them all.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), GroupError> {
        self.inner.token.cancel();
        self.inner.tracker.close();
        let ended = tokio::time::timeout(grace, self.inner.tracker.wait()).await;
        let hung: Vec<String> = if ended.is_ok() {
            Vec::new()
        } else {
            let running = std::mem::take(&mut self.state().running);
            running
                .into_values()
                .map(|(name, handle)| {
                    handle.abort();
                    name.into_owned()
                })
                .collect()
        };
        if !hung.is_empty() {
            tracing::error!(
                tasks = hung.join(", "),
                "background tasks did not end in time and were aborted"
            );
        }
        let failed = std::mem::take(&mut self.state().failures);
        if failed.is_empty() && hung.is_empty() {
            Ok(())
        } else {
            Err(GroupError { failed, hung })
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TaskGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        let running: Vec<&str> = state.running.values().map(|(name, _)| name.as_ref()).collect();
        f.debug_struct("TaskGroup")
            .field("running", &running)
            .field("failures", &state.failures)
            .finish()
    }
}

/// What a panic said, when it said it as text.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}
