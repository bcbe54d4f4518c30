//! Whether the server keeps what it acknowledges, asked once at start.
//!
//! Others act on a commit as soon as it is acknowledged: mails go out, money goes back. A server that writes late, or
//! whose standby may lag behind it, can forget such a commit. Nothing here makes a server durable; it only refuses to
//! begin on one that is not, unless that was accepted.

use crate::db::Db;
use crate::error::StoreError;

/// What the server is set to, as this role sees it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
struct Settings {
    fsync: String,
    full_page_writes: String,
    synchronous_commit: String,
    synchronous_standby_names: String,
}

/// The server may lose what it acknowledges, or could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum DurabilityError {
    /// It may lose commits.
    #[error(
        "the database may lose commits that others already act on: {0}. Set up a synchronous standby and leave fsync, \
         full_page_writes and synchronous_commit on; or accept the loss with database.accept_loss = true \
         (docs: deploy/runbooks/lost-commits.md)"
    )]
    MayLose(String),
    /// It could not be asked.
    #[error("the database could not be asked whether it keeps what it acknowledges")]
    Store(#[from] StoreError),
}

/// Refuses a server that may lose what it acknowledged: by a crash, or by a failover to a standby that lags. Where that is
/// accepted it is said once, in the log.
///
/// # Errors
///
/// [`DurabilityError`], which names every setting that is at fault and the ways out.
pub async fn require_durable(db: &Db, accept_loss: bool) -> Result<(), DurabilityError> {
    let mut conn = db.dedicated().await?;
    let settings: Settings = sqlx::query_as(
        "SELECT current_setting('fsync') AS fsync,
                current_setting('full_page_writes') AS full_page_writes,
                current_setting('synchronous_commit') AS synchronous_commit,
                current_setting('synchronous_standby_names') AS synchronous_standby_names",
    )
    .fetch_one(&mut conn)
    .await
    .map_err(StoreError::from)?;
    let faults = faults(&settings);
    if faults.is_empty() {
        return Ok(());
    }
    let faults = faults.join(", ");
    if accept_loss {
        tracing::info!(
            schema = db.schema(),
            faults,
            "the database may lose commits, which database.accept_loss accepts"
        );
        return Ok(());
    }
    Err(DurabilityError::MayLose(faults))
}

fn faults(settings: &Settings) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, value) in [
        ("fsync", &settings.fsync),
        ("full_page_writes", &settings.full_page_writes),
    ] {
        if value != "on" {
            faults.push(format!("{name} is {value}"));
        }
    }
    // `local` waits for no standby, `off` not even for the own disk.
    if matches!(settings.synchronous_commit.as_str(), "off" | "local") {
        faults.push(format!("synchronous_commit is {}", settings.synchronous_commit));
    }
    if settings.synchronous_standby_names.trim().is_empty() {
        faults.push("there is no synchronous standby (synchronous_standby_names is empty)".to_owned());
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn durable() -> Settings {
        Settings {
            fsync: "on".to_owned(),
            full_page_writes: "on".to_owned(),
            synchronous_commit: "on".to_owned(),
            synchronous_standby_names: "ANY 1 (a, b)".to_owned(),
        }
    }

    #[test]
    fn all_faults_are_named_at_once() {
        assert!(faults(&durable()).is_empty());
        for level in ["on", "remote_write", "remote_apply"] {
            let settings = Settings {
                synchronous_commit: level.to_owned(),
                ..durable()
            };
            assert!(faults(&settings).is_empty(), "{level}");
        }
        let none = Settings {
            fsync: "off".to_owned(),
            full_page_writes: "off".to_owned(),
            synchronous_commit: "local".to_owned(),
            synchronous_standby_names: " ".to_owned(),
        };
        let text = DurabilityError::MayLose(faults(&none).join(", ")).to_string();
        for word in [
            "fsync is off",
            "full_page_writes is off",
            "synchronous_commit is local",
            "synchronous_standby_names is empty",
            "database.accept_loss = true",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}
