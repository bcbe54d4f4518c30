//! Who and what a change comes from: known where a request comes in, and needed where its facts are written.
//!
//! [`Db::run_once`](crate::Db::run_once) knows both from the request's key and makes them known to everything that its use case
//! does, as a span makes its trace known. Whoever works for several requests at once, or for none, names the origin of each
//! fact by itself.

use std::future::Future;

use crate::idempotency::RequestKey;

tokio::task_local! {
    static ORIGIN: Origin;
}

/// Who and what a change comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Who caused it: the subject of the caller's token, or `service:` and a service's name where it followed from another
    /// fact. Empty when that is not known.
    pub actor: String,
    /// What it follows from: the id of an event, or the caller's `request_id`. Empty when that is not known.
    pub cause: String,
}

impl Origin {
    /// The origin of what a request changes.
    #[must_use]
    pub fn of(key: &RequestKey) -> Origin {
        Origin {
            actor: key.caller.clone(),
            cause: key.request_id.clone(),
        }
    }

    /// The origin of what a service does by itself, because of something or other.
    #[must_use]
    pub fn service(name: &str, cause: impl ToString) -> Origin {
        Origin {
            actor: format!("service:{name}"),
            cause: cause.to_string(),
        }
    }

    /// The origin of what is being done, where it is known.
    #[must_use]
    pub fn current() -> Option<Origin> {
        ORIGIN.try_with(Clone::clone).ok()
    }

    /// Does something on behalf of this origin.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        ORIGIN.scope(self, work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_origin_is_known_to_what_is_done_for_it_and_to_nothing_else() {
        assert_eq!(Origin::current(), None);
        let origin = Origin::service("order", 7);
        assert_eq!(
            (origin.actor.as_str(), origin.cause.as_str()),
            ("service:order", "7")
        );
        let seen = origin.clone().scope(async { Origin::current() }).await;
        assert_eq!(seen, Some(origin));
        assert_eq!(Origin::current(), None);
    }
}
