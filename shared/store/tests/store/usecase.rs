//! Transactions are repeated when that helps, never when nobody knows what happened, and once per request key.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Executor};
use waybill_kernel::id::MerchantId;
use waybill_store::idempotency::{self, Claim};
use waybill_store::{Db, RequestKey, RetryCause, RetryClass, StoreError, Tx, UseCase};
use waybill_testkit::TestDb;

use crate::lost_commit::{Fate, LostCommit};
use crate::{SCHEMA, config, store};

/// Counts what was written, per test.
const EFFECTS: &str = "CREATE TABLE effects (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name  text NOT NULL CONSTRAINT effects_name_not_empty CHECK (name <> ''),
    of    bigint CONSTRAINT effects_of_known REFERENCES effects DEFERRABLE INITIALLY DEFERRED,
    span  int8range, CONSTRAINT effects_apart EXCLUDE USING gist (span WITH &&)
);
CREATE UNIQUE INDEX effects_name_once ON effects (name)";

async fn with_effects() -> anyhow::Result<(TestDb, Db)> {
    let (test, db) = store().await?;
    db.pool().execute(EFFECTS).await?;
    Ok((test, db))
}

async fn effects(db: &Db) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM effects")
        .fetch_one(db.pool())
        .await
}

/// Runs a statement, and counts how often it was asked to. The first `faults` times another statement goes before it.
#[derive(Default)]
struct Statement {
    sql: &'static str,
    fault: &'static str,
    faults: u32,
    runs: AtomicU32,
}

impl Statement {
    fn new(sql: &'static str) -> Statement {
        Statement {
            sql,
            ..Statement::default()
        }
    }

    /// Fails with this SQLSTATE in the first `faults` runs.
    fn failing(sql: &'static str, fault: &'static str, faults: u32) -> Statement {
        Statement {
            sql,
            fault,
            faults,
            ..Statement::default()
        }
    }

    fn runs(&self) -> u32 {
        self.runs.load(Ordering::SeqCst)
    }
}

impl UseCase for Statement {
    type Output = String;
    type Error = StoreError;

    async fn run(&self, tx: &mut Tx) -> Result<String, StoreError> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        if run <= self.faults {
            let raise = format!(
                "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{}'; END $$",
                self.fault
            );
            tx.conn().execute(AssertSqlSafe(raise)).await?;
        }
        tx.conn().execute(self.sql).await?;
        Ok(format!("run {run}"))
    }
}

const INSERT: &str = "INSERT INTO effects (name) VALUES (gen_random_uuid()::text)";

#[tokio::test]
async fn conflicts_are_repeated_in_a_new_transaction() -> anyhow::Result<()> {
    let (_test, db) = with_effects().await?;
    for state in ["40001", "40P01", "55P03", "WB001"] {
        let usecase = Statement::failing(INSERT, state, 2);
        assert_eq!(db.run(&usecase).await?, "run 3", "{state}");
    }
    assert_eq!(effects(&db).await?, 4);

    // Not for ever.
    let usecase = Statement::failing(INSERT, "WB001", u32::MAX);
    let error = db.run(&usecase).await.expect_err("it never succeeds");
    assert!(
        matches!(error, StoreError::Retry(RetryCause::LogOrder)),
        "{error}"
    );
    assert_eq!(usecase.runs(), 5);
    assert_eq!(effects(&db).await?, 4);
    Ok(())
}

#[tokio::test]
async fn refusals_are_named_and_final() -> anyhow::Result<()> {
    let (_test, db) = with_effects().await?;
    db.pool()
        .execute("INSERT INTO effects (name, span) VALUES ('taken', '[1,5)')")
        .await?;
    let cases = [
        ("INSERT INTO effects (name) VALUES ('taken')", "effects_name_once"),
        ("INSERT INTO effects (name) VALUES ('')", "effects_name_not_empty"),
        (
            "INSERT INTO effects (name, span) VALUES ('near', '[4,9)')",
            "effects_apart",
        ),
        // Deferred: COMMIT itself refuses, and says so; nothing is in doubt.
        (
            "INSERT INTO effects (name, of) VALUES ('orphan', 4711)",
            "effects_of_known",
        ),
    ];
    for (sql, constraint) in cases {
        let usecase = Statement::new(sql);
        let error = db.run(&usecase).await.expect_err(sql);
        assert_eq!(error.constraint(), Some(constraint), "{error:?}");
        assert!(error.is_certainly_aborted() && !error.is_retry());
        assert_eq!(usecase.runs(), 1, "{sql}");
    }
    let fenced = Statement::failing(INSERT, "WB002", 1);
    assert!(matches!(db.run(&fenced).await, Err(StoreError::Fenced)));
    let broken = Statement::new("SELECT nonsense");
    assert!(matches!(db.run(&broken).await, Err(StoreError::Other(_))));
    assert_eq!((fenced.runs(), broken.runs()), (1, 1));
    assert_eq!(effects(&db).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_swallowed_error_is_not_a_success() -> anyhow::Result<()> {
    struct Swallows;
    impl UseCase for Swallows {
        type Output = ();
        type Error = StoreError;
        async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
            tx.conn().execute(INSERT).await?;
            drop(tx.conn().execute("SELECT nonsense").await);
            Ok(())
        }
    }
    let (_test, db) = with_effects().await?;
    db.run(&Swallows)
        .await
        .expect_err("Postgres would roll back and call it committed");
    assert_eq!(effects(&db).await?, 0);
    Ok(())
}

/// Ends its own session in the first run, as a server that restarts does.
struct Killed {
    runs: AtomicU32,
}

impl UseCase for Killed {
    type Output = ();
    type Error = StoreError;
    async fn run(&self, tx: &mut Tx) -> Result<(), StoreError> {
        tx.conn().execute(INSERT).await?;
        if self.runs.fetch_add(1, Ordering::SeqCst) == 0 {
            tx.conn()
                .execute("SELECT pg_terminate_backend(pg_backend_pid())")
                .await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_connection_lost_before_commit_is_repeated_on_another() -> anyhow::Result<()> {
    let (_test, db) = with_effects().await?;
    let usecase = Killed {
        runs: AtomicU32::new(0),
    };
    db.run(&usecase).await?;
    assert_eq!(usecase.runs.load(Ordering::SeqCst), 2);
    assert_eq!(effects(&db).await?, 1);
    Ok(())
}

/// A handle that reaches the server through a proxy which loses the next commits.
async fn through(test: &TestDb, fate: Fate, times: u32) -> anyhow::Result<(LostCommit, Db)> {
    let url = test.url(SCHEMA);
    let upstream = url
        .split('@')
        .nth(1)
        .and_then(|rest| rest.split('/').next())
        .unwrap_or_default();
    let proxy = LostCommit::start(upstream.to_owned(), fate, times).await?;
    let url = url.replace(upstream, &proxy.address().to_string());
    let db = Db::connect(&config(&url, 4), SCHEMA).await?;
    Ok((proxy, db))
}

#[tokio::test]
async fn a_lost_commit_is_not_repeated_blindly() -> anyhow::Result<()> {
    let (test, db) = with_effects().await?;
    for (fate, written) in [(Fate::BeforeServer, 0), (Fate::AfterServer, 1)] {
        let (proxy, lossy) = through(&test, fate, 1).await?;
        let usecase = Statement::new(INSERT);
        let error = lossy.run(&usecase).await.expect_err("the answer was lost");
        assert!(
            matches!(
                error,
                StoreError::Unavailable {
                    certainly_aborted: false,
                    ..
                }
            ),
            "{fate:?}: {error:?}"
        );
        assert!(!error.is_certainly_aborted() && !error.is_retry());
        assert_eq!((usecase.runs(), proxy.left()), (1, 0));
        assert_eq!(effects(&db).await?, written, "{fate:?}");
        // The pool is not harmed.
        lossy.run(&Statement::new("SELECT 1")).await?;
    }
    Ok(())
}

fn key(request_id: &str) -> RequestKey {
    RequestKey {
        merchant: MerchantId::from(uuid::Uuid::from_u128(7)),
        caller: "tester".to_owned(),
        rpc: "waybill.test.v1.TestService/Do",
        request_id: request_id.to_owned(),
        hash: [1; 32],
    }
}

#[tokio::test]
async fn a_request_takes_effect_once_and_is_answered_alike() -> anyhow::Result<()> {
    let (_test, db) = with_effects().await?;
    let usecase = Statement::new(INSERT);
    assert_eq!(db.run_once(&key("a"), &usecase).await?, "run 1");
    assert_eq!(db.run_once(&key("a"), &usecase).await?, "run 1");
    assert_eq!(usecase.runs(), 1);

    let other_request = RequestKey {
        hash: [2; 32],
        ..key("a")
    };
    let error = db
        .run_once(&other_request, &usecase)
        .await
        .expect_err("another request");
    assert!(matches!(error, StoreError::RequestIdReused));

    // Another caller, RPC, merchant or id is another request.
    let others = [
        RequestKey {
            caller: "somebody else".to_owned(),
            ..key("a")
        },
        RequestKey {
            rpc: "waybill.test.v1.TestService/Undo",
            ..key("a")
        },
        RequestKey {
            merchant: MerchantId::generate(),
            ..key("a")
        },
        key("b"),
    ];
    for other in others {
        db.run_once(&other, &usecase).await?;
    }
    assert_eq!(usecase.runs(), 5);
    assert_eq!(effects(&db).await?, 5);
    Ok(())
}

#[tokio::test]
async fn a_refused_request_may_be_sent_again() -> anyhow::Result<()> {
    let (_test, db) = with_effects().await?;
    let refused = Statement::new("INSERT INTO effects (name) VALUES ('')");
    db.run_once(&key("a"), &refused)
        .await
        .expect_err("the name is empty");
    assert_eq!(db.run_once(&key("a"), &Statement::new(INSERT)).await?, "run 1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_callers_with_one_key_have_one_effect() -> anyhow::Result<()> {
    let (_test, db) = with_effects().await?;
    let usecase = std::sync::Arc::new(Statement::new(INSERT));
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (db, usecase) = (db.clone(), std::sync::Arc::clone(&usecase));
            tokio::spawn(async move { db.run_once(&key("a"), &*usecase).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await??, "run 1");
    }
    assert_eq!((usecase.runs(), effects(&db).await?), (1, 1));
    Ok(())
}

#[tokio::test]
async fn a_request_key_settles_a_lost_commit() -> anyhow::Result<()> {
    let (test, db) = with_effects().await?;
    for (fate, runs) in [(Fate::BeforeServer, 2), (Fate::AfterServer, 1)] {
        let (proxy, lossy) = through(&test, fate, 1).await?;
        let usecase = Statement::new(INSERT);
        let request = key(&format!("{fate:?}"));
        assert_eq!(
            lossy.run_once(&request, &usecase).await?,
            format!("run {runs}"),
            "{fate:?}"
        );
        assert_eq!((usecase.runs(), proxy.left()), (runs, 0));
    }
    assert_eq!(effects(&db).await?, 2);
    Ok(())
}

#[tokio::test]
async fn a_request_that_stays_in_doubt_says_so() -> anyhow::Result<()> {
    let (test, db) = with_effects().await?;
    let (_proxy, lossy) = through(&test, Fate::BeforeServer, u32::MAX).await?;
    let usecase = Statement::new(INSERT);
    let error = lossy
        .run_once(&key("a"), &usecase)
        .await
        .expect_err("no commit gets through");
    assert!(!error.is_certainly_aborted(), "{error:?}");
    assert_eq!(usecase.runs(), 5);
    assert_eq!(effects(&db).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_batch_claims_its_keys_together() -> anyhow::Result<()> {
    let (_test, db) = with_effects().await?;
    db.run_once(&key("old"), &Statement::new(INSERT)).await?;

    let changed = |id: &str| RequestKey {
        hash: [9; 32],
        ..key(id)
    };
    let batch = [
        key("z"),
        key("old"),
        key("z"),
        changed("z"),
        changed("old"),
        key("a"),
    ];
    let mut tx = db.begin().await?;
    let claims = idempotency::claim(tx.conn(), &batch).await?;
    assert_eq!(
        claims,
        [
            Claim::New,
            Claim::Replay("\"run 1\"".to_owned()),
            Claim::SameAs(0),
            Claim::Reused,
            Claim::Reused,
            Claim::New,
        ]
    );
    let answers = [(&batch[0], "1".to_owned()), (&batch[5], "2".to_owned())];
    idempotency::record(tx.conn(), &answers).await?;
    tx.commit().await?;

    let mut tx = db.begin().await?;
    let again = idempotency::claim(tx.conn(), &[key("a"), key("z")]).await?;
    assert_eq!(
        again,
        [Claim::Replay("2".to_owned()), Claim::Replay("1".to_owned())]
    );
    let unclaimed = idempotency::record(tx.conn(), &[(&key("nobody's"), "3".to_owned())]).await;
    assert!(matches!(unclaimed, Err(StoreError::Other(_))));
    Ok(())
}

#[tokio::test]
async fn answers_that_are_known_before_are_written_with_their_keys() -> anyhow::Result<()> {
    let (_test, db) = with_effects().await?;
    db.run_once(&key("old"), &Statement::new(INSERT)).await?;
    let batch = [key("z"), key("old"), key("z"), key("refused")];
    let answers = ["1", "2", "3", "4"].map(str::to_owned);
    let mut tx = db.begin().await?;
    let claims = idempotency::claim_answered(tx.conn(), &batch, &answers).await?;
    let old = Claim::Replay("\"run 1\"".to_owned());
    assert_eq!(claims, [Claim::New, old.clone(), Claim::SameAs(0), Claim::New]);
    // A key that was kept before has another answer: it is not given back.
    idempotency::release_answered(tx.conn(), &[(&batch[1], "2"), (&batch[3], "4")]).await?;
    tx.commit().await?;
    let mut tx = db.begin().await?;
    let claims = idempotency::claim(tx.conn(), &batch).await?;
    let kept = Claim::Replay("1".to_owned());
    assert_eq!(claims, [kept, old, Claim::SameAs(0), Claim::New]);
    Ok(())
}

#[tokio::test]
async fn a_refused_request_of_a_batch_may_be_sent_again() -> anyhow::Result<()> {
    let (_test, db) = with_effects().await?;
    let batch = [key("good"), key("refused")];
    let mut tx = db.begin().await?;
    idempotency::claim(tx.conn(), &batch).await?;
    idempotency::record(tx.conn(), &[(&batch[0], "1".to_owned())]).await?;
    // Somebody sends the refused one again before the batch is committed: he waits, then it is his.
    let again = tokio::spawn({
        let db = db.clone();
        async move { db.run_once(&key("refused"), &Statement::new(INSERT)).await }
    });
    // An answered key is not given back.
    idempotency::release(tx.conn(), &[&batch[0], &batch[1]]).await?;
    tx.commit().await?;
    assert_eq!(again.await??, "run 1");
    let mut tx = db.begin().await?;
    let claims = idempotency::claim(tx.conn(), &batch).await?;
    let answers = ["1", "\"run 1\""].map(|answer| Claim::Replay(answer.to_owned()));
    assert_eq!(claims, answers);
    Ok(())
}

#[tokio::test]
async fn old_keys_are_forgotten() -> anyhow::Result<()> {
    let (_test, db) = with_effects().await?;
    let usecase = Statement::new(INSERT);
    for id in ["a", "b", "c", "new"] {
        db.run_once(&key(id), &usecase).await?;
    }
    db.pool()
        .execute("UPDATE idempotency SET created_at = now() - interval '31 days' WHERE request_id <> 'new'")
        .await?;
    assert_eq!(idempotency::prune(&db, idempotency::KEEP, 2).await?, 2);
    assert_eq!(idempotency::prune(&db, idempotency::KEEP, 2).await?, 1);
    assert_eq!(db.run_once(&key("new"), &usecase).await?, "run 4");
    assert_eq!(
        db.run_once(&key("a"), &usecase).await?,
        "run 5",
        "a forgotten key is new"
    );
    Ok(())
}

#[tokio::test]
async fn bells_ring_after_the_commit_and_only_then() -> anyhow::Result<()> {
    use futures_util::FutureExt;
    let (_test, db) = with_effects().await?;
    let bell = db.bell("test");
    let rung = || db.bell("test").notified_owned().now_or_never().is_some();

    let mut tx = db.begin().await?;
    tx.after_commit(std::sync::Arc::clone(&bell));
    tx.ring("test");
    assert!(!rung());
    tx.commit().await?;
    assert!(rung() && !rung(), "once, although asked for twice");

    let mut tx = db.begin().await?;
    tx.ring("test");
    tx.rollback().await?;
    let mut tx = db.begin().await?;
    tx.ring("test");
    tx.conn()
        .execute("INSERT INTO effects (name, of) VALUES ('orphan', 4711)")
        .await?;
    tx.commit().await.expect_err("the deferred key refuses");
    assert!(!rung());
    Ok(())
}

#[tokio::test]
async fn nothing_survives_a_transaction_that_is_dropped() -> anyhow::Result<()> {
    let (_test, db) = with_effects().await?;
    let mut tx = db.begin().await?;
    tx.conn().execute(INSERT).await?;
    drop(tx);
    assert_eq!(effects(&db).await?, 0);
    Ok(())
}

/// A value of a composite type, which a session knows by the number that the type had when it asked.
#[derive(sqlx::Encode)]
struct Named<'a> {
    name: &'a str,
}

impl sqlx::Type<sqlx::Postgres> for Named<'_> {
    fn type_info() -> sqlx::postgres::PgTypeInfo {
        sqlx::postgres::PgTypeInfo::with_name("named")
    }
}

impl sqlx::postgres::PgHasArrayType for Named<'_> {
    fn array_type_info() -> sqlx::postgres::PgTypeInfo {
        sqlx::postgres::PgTypeInfo::array_of("named")
    }
}

/// Writes a name by a statement that its session has prepared before, or by one that it has not met.
struct Write {
    name: &'static str,
    statement: u32,
}

impl UseCase for Write {
    type Output = i32;
    type Error = StoreError;

    async fn run(&self, tx: &mut Tx) -> Result<i32, StoreError> {
        let sql = format!(
            "INSERT INTO effects (name) SELECT n.name FROM UNNEST($1::named[]) AS n WHERE {0} = {0} RETURNING pg_backend_pid()",
            self.statement
        );
        let names = vec![Named { name: self.name }];
        Ok(sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(names)
            .fetch_one(tx.conn())
            .await?)
    }
}

/// Somebody puts the schema back from a copy while its sessions live on: its types have other numbers then.
#[tokio::test]
async fn a_session_that_remembers_what_is_gone_is_ended() -> anyhow::Result<()> {
    let (test, _) = with_effects().await?;
    let db = Db::connect(&config(&test.url(SCHEMA), 1), SCHEMA).await?;
    db.pool().execute("CREATE TYPE named AS (name text)").await?;
    let write = |name, statement| {
        let write = Write { name, statement };
        let db = db.clone();
        async move { db.run(&write).await }
    };
    let first = write("first", 1).await?;
    assert_eq!(write("second", 1).await?, first, "the only session is used again");

    let mut session = first;
    for (name, statement) in [("known", 1), ("unknown", 2)] {
        let mut other = db.dedicated().await?;
        other
            .execute("DROP TYPE named; CREATE TYPE named AS (name text)")
            .await?;
        let next = write(name, statement).await?;
        assert_ne!(next, session, "{name}: another session");
        session = next;
    }
    assert_eq!(effects(&db).await?, 4);
    Ok(())
}
