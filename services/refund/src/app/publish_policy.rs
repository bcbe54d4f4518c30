//! Publishes the next version of a store's policy.

use waybill_store::{Tx, UseCase};

use super::{Aftermath, Core};
use crate::domain::book::Tenant;
use crate::domain::policy::Policy;
use crate::error::Error;
use crate::events;
use crate::store::policies::{self, Published};

/// The wish to publish a policy; its version is assigned.
#[derive(Debug)]
pub struct PublishPolicy<'a> {
    /// What use cases share.
    pub core: &'a Core,
    /// Whose policy.
    pub tenant: Tenant,
    /// The rules.
    pub policy: Policy,
    /// Who publishes it.
    pub caller: String,
}

impl UseCase for PublishPolicy<'_> {
    type Output = Policy;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Policy, Error> {
        let valid_from = self.policy.valid_from;
        let policy = match policies::next_version(tx.conn(), self.tenant, valid_from).await? {
            Published::As(version) => Policy {
                version,
                ..self.policy.clone()
            },
            Published::NotLater {
                version,
                valid_from: previous,
            } => {
                return Err(Error::ValidFromNotLater {
                    valid_from,
                    version,
                    previous,
                });
            }
        };
        policies::insert(tx.conn(), self.tenant, &policy, &self.caller).await?;
        let event = events::policy_published(self.tenant, &policy, self.core.now());
        self.core
            .finish(
                tx,
                Aftermath {
                    events: vec![event],
                    jobs: Vec::new(),
                },
            )
            .await?;
        Ok(policy)
    }
}
