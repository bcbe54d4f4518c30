//! How the parts of the backbone are: what health answers and operators read.
//!
//! A part reports a change once; the change is logged here and nowhere else, so that a fault that lasts for an hour is
//! one line and not ten thousand.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// The name under which the health service answers for the backbone.
pub const HEALTH_NAME: &str = "waybill.backbone";

/// How a part of the backbone is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// It has not begun yet.
    Starting,
    /// It does its work.
    Working,
    /// Another process does the work; this one stands by.
    Standby,
    /// Something it needs is away. It tries again by itself.
    Retrying(String),
    /// The stream's configuration differs and the server refuses to change it. Needs a person.
    StreamRefused(String),
    /// What others were told is not what the log holds: the log, the stream or a consumer was put back to an older copy.
    /// Needs a person.
    HistoryDiffers(String),
    /// The log's identity changed. Nothing is written until its generation is raised. Needs a person.
    Fenced(String),
    /// The consumer was stopped, by itself or by a person. Needs a person.
    Stopped(String),
}

impl Condition {
    /// Whether all is as it should be.
    #[must_use]
    pub fn is_well(&self) -> bool {
        matches!(
            self,
            Condition::Starting | Condition::Working | Condition::Standby
        )
    }

    /// Whether it stays like this until a person does something.
    #[must_use]
    pub fn needs_a_person(&self) -> bool {
        matches!(
            self,
            Condition::StreamRefused(_)
                | Condition::HistoryDiffers(_)
                | Condition::Fenced(_)
                | Condition::Stopped(_)
        )
    }

    /// One word for programs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Condition::Starting => "starting",
            Condition::Working => "working",
            Condition::Standby => "standby",
            Condition::Retrying(_) => "retrying",
            Condition::StreamRefused(_) => "stream_refused",
            Condition::HistoryDiffers(_) => "history_differs",
            Condition::Fenced(_) => "fenced",
            Condition::Stopped(_) => "stopped",
        }
    }

    /// What is wrong, in words.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Condition::Starting | Condition::Working | Condition::Standby => None,
            Condition::Retrying(reason)
            | Condition::StreamRefused(reason)
            | Condition::HistoryDiffers(reason)
            | Condition::Fenced(reason)
            | Condition::Stopped(reason) => Some(reason),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason() {
            Some(reason) => write!(f, "{}: {reason}", self.label()),
            None => f.write_str(self.label()),
        }
    }
}

/// The conditions of all parts of one backbone, by name (`relay`, `fold fulfillment/0 order`). Clones show the same.
#[derive(Debug, Clone)]
pub struct Status {
    service: Arc<str>,
    conditions: watch::Sender<BTreeMap<String, Condition>>,
}

impl Status {
    pub(crate) fn new(service: Arc<str>) -> Status {
        Status {
            service,
            conditions: watch::Sender::new(BTreeMap::new()),
        }
    }

    /// All parts and how they are.
    #[must_use]
    pub fn parts(&self) -> BTreeMap<String, Condition> {
        self.conditions.borrow().clone()
    }

    /// The parts that are not well.
    #[must_use]
    pub fn troubles(&self) -> BTreeMap<String, Condition> {
        self.conditions
            .borrow()
            .iter()
            .filter(|(_, condition)| !condition.is_well())
            .map(|(part, condition)| (part.clone(), condition.clone()))
            .collect()
    }

    /// Is told whenever a part changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<BTreeMap<String, Condition>> {
        self.conditions.subscribe()
    }

    /// Tells the health service, under [`HEALTH_NAME`], until `stop`: not serving while any part needs a person. The
    /// health of the service itself is left alone: it can take calls while its backbone stands still.
    ///
    /// # Errors
    ///
    /// None; the type is what a task group wants.
    pub async fn report(self, health: HealthReporter, stop: CancellationToken) -> Result<(), Infallible> {
        let mut watch = self.watch();
        loop {
            let stuck = watch.borrow_and_update().values().any(Condition::needs_a_person);
            let serving = if stuck {
                ServingStatus::NotServing
            } else {
                ServingStatus::Serving
            };
            health.set_service_status(HEALTH_NAME, serving).await;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                // `self` holds the sender, so this cannot fail.
                _ = watch.changed() => {}
            }
        }
    }

    /// One part, to report for it.
    pub(crate) fn part(&self, name: impl Into<String>) -> Part {
        let part = Part {
            status: self.clone(),
            name: name.into(),
        };
        part.set(Condition::Starting);
        part
    }
}

/// Reports for one part.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    status: Status,
    name: String,
}

impl Part {
    /// Reports a condition; logs it when it is another kind than before.
    pub fn set(&self, condition: Condition) {
        let service = &*self.status.service;
        self.status.conditions.send_if_modified(|all| {
            let before = all.get(&self.name);
            if before == Some(&condition) {
                return false;
            }
            let (part, state) = (self.name.as_str(), condition.label());
            let reason = condition.reason().unwrap_or_default();
            if before.is_none_or(|before| before.label() != state) {
                if condition.needs_a_person() {
                    tracing::error!(service, part, state, reason, "backbone needs a person");
                } else if condition.is_well() {
                    tracing::info!(service, part, state, "backbone");
                } else {
                    tracing::warn!(service, part, state, reason, "backbone");
                }
            }
            all.insert(self.name.clone(), condition);
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_are_shown_until_they_are_over() {
        let status = Status::new(Arc::from("order"));
        let relay = status.part("relay");
        let fold = status.part("fold order/0");
        assert!(status.troubles().is_empty());
        fold.set(Condition::Working);
        relay.set(Condition::HistoryDiffers(
            "event 1.2.3 is not in the log".to_owned(),
        ));
        assert_eq!(status.troubles().len(), 1);
        assert!(status.troubles()["relay"].needs_a_person());
        assert_eq!(status.parts().len(), 2);
        relay.set(Condition::Working);
        assert!(status.troubles().is_empty());
    }

    #[test]
    fn watchers_hear_of_changes_only() {
        let status = Status::new(Arc::from("order"));
        let relay = status.part("relay");
        let mut watch = status.watch();
        watch.mark_unchanged();
        relay.set(Condition::Starting);
        assert!(!watch.has_changed().expect("the sender lives"));
        relay.set(Condition::Working);
        assert!(watch.has_changed().expect("the sender lives"));
    }
}
