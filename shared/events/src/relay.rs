//! The relay: publishes the log to the stream, in order, each event once per stream.
//!
//! One relay publishes at a time. The stream itself enforces it: every message names the sequence it expects to follow,
//! so a relay with a stale idea of the end is refused. A lock in Postgres merely keeps the others from trying. What the
//! stream lost is published again; what it holds of a history that the log does not have stops the relay. Consumers rely
//! on none of it: they follow `prev` and read the log.

mod proof;
pub(crate) mod resume;
mod window;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Span;
use waybill_kernel::time::Shared as Clock;
use waybill_runtime::telemetry;
use waybill_store::Backoff;
use waybill_store::error::StoreError;

use crate::envelope;
use crate::event::Event;
use crate::log::Log;
use crate::metrics::RelayMeters;
use crate::nats::{EnsureError, Link, NO_LINK, Nats, NatsFault, StreamSpec};
use crate::position::Position;
use crate::status::{Condition, Part};
use crate::store;
use crate::store::log::Predecessors;

use crate::witness::Witness;
pub(crate) use proof::prove;
use resume::Resume;
use window::{Acknowledged, Window};

/// How the relay works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayOptions {
    /// The size that the stream is limited to; older events are discarded beyond it. Default 1 GiB.
    pub max_bytes: i64,
    /// Copies of the stream in a cluster, when it is created. Default 1.
    pub replicas: usize,
    /// The most events that are read at once. Default 500.
    pub page_events: usize,
    /// The most publishes that are not acknowledged yet. Default 1024.
    pub in_flight: usize,
    /// How often the log is looked at when nobody calls. Default 1 s.
    pub idle_poll: Duration,
    /// How often the end of the stream is looked at while nothing is published. Default 30 s.
    pub check_stream: Duration,
    /// How often a relay that stands by tries to take over. Default 2 s.
    pub standby_poll: Duration,
}

impl Default for RelayOptions {
    fn default() -> Self {
        RelayOptions {
            max_bytes: 1 << 30,
            replicas: 1,
            page_events: 500,
            in_flight: 1024,
            idle_poll: Duration::from_secs(1),
            check_stream: Duration::from_secs(30),
            standby_poll: Duration::from_secs(2),
        }
    }
}

/// The most bytes of the log in memory at once, and the most that are not acknowledged yet.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Where publishing begins in an empty stream: this many events before the head. Consumers that were listening before
/// the relay came then get them at once, not at their next comparison with the heads. Repeated ones are skipped.
const RUN_UP: i64 = 1000;

/// While rows wait for the watermark the log is looked at after 1 ms, then twice as long, up to this.
const WATERMARK_POLL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// How often it is tried again when a person has to act first.
const HALTED_POLL: Duration = Duration::from_secs(2);

/// Why publishing stopped.
#[derive(Debug)]
enum Stop {
    /// The end of the stream is not what it was thought to be, or an acknowledgement is missing: read it again.
    Again(String),
    /// A person has to act.
    Halt(Condition),
    /// The lock is gone with its connection.
    LostLead,
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Again(in_words(&error))
    }
}

impl From<NatsFault> for Stop {
    fn from(error: NatsFault) -> Self {
        Stop::Again(error.to_string())
    }
}

/// An error with its causes.
pub(crate) fn in_words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The relay of one service in one process.
pub(crate) struct Relay {
    log: Log,
    nats: Nats,
    options: RelayOptions,
    part: Part,
    meters: RelayMeters,
    clock: Clock,
    witness: Witness,
    /// The last event that the stream acknowledged to this relay.
    acknowledged: Option<Position>,
}

impl Relay {
    pub fn new(
        log: Log,
        nats: Nats,
        options: RelayOptions,
        part: Part,
        clock: Clock,
        witness: Witness,
    ) -> Relay {
        let meters = RelayMeters::new(log.source());
        Relay {
            log,
            nats,
            options,
            part,
            meters,
            clock,
            witness,
            acknowledged: None,
        }
    }

    /// Publishes until `shutdown`. What is not acknowledged by then is published again by whoever comes next.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
        let log = self.log.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.lead_for_ever() => {}
        }
        log.set_relay_is_here(false);
        Ok(())
    }

    async fn lead_for_ever(&mut self) {
        let backoff = Backoff {
            base: Duration::from_millis(100),
            cap: Duration::from_secs(5),
        };
        let mut failures = 0;
        loop {
            match self.take_lead().await {
                Ok(lead) => {
                    failures = 0;
                    self.log.set_relay_is_here(true);
                    self.publish_for_ever(&lead).await;
                    self.log.set_relay_is_here(false);
                }
                Err(error) => {
                    failures += 1;
                    self.part.set(Condition::Retrying(in_words(&error)));
                    tokio::time::sleep(backoff.delay(failures)).await;
                }
            }
        }
    }

    /// Waits until no other relay of this service has the lock. The connection that holds it also hears the NOTIFY of
    /// writers elsewhere.
    async fn take_lead(&self) -> Result<Lead, StoreError> {
        let mut listener = self.log.db().listen(&[self.log.channel()]).await?;
        while !store::log::try_lead(&mut listener).await? {
            self.part.set(Condition::Standby);
            tokio::time::sleep(self.options.standby_poll).await;
        }
        let lost = CancellationToken::new();
        let ended = CancellationToken::new();
        let (bell, signal, end) = (Arc::clone(self.log.bell()), lost.clone(), ended.clone());
        tokio::spawn(async move {
            let hear = async {
                while let Ok(Some(_)) = listener.try_recv().await {
                    bell.notify_one();
                }
            };
            tokio::select! {
                () = hear => signal.cancel(),
                () = end.cancelled() => {}
            }
        });
        Ok(Lead {
            lost,
            _ended: ended.drop_guard(),
        })
    }

    async fn publish_for_ever(&mut self, lead: &Lead) {
        let backoff = Backoff {
            base: Duration::from_millis(20),
            cap: Duration::from_secs(2),
        };
        let mut failures = 0;
        loop {
            let mut link = self.nats.link();
            let before = self.acknowledged;
            let wait = match self.publish(lead).await {
                Stop::LostLead => return,
                Stop::Again(reason) => {
                    failures = if self.acknowledged == before {
                        failures + 1
                    } else {
                        1
                    };
                    tracing::debug!(
                        source = &**self.log.source(),
                        reason,
                        "the relay reads the end of the stream again"
                    );
                    if failures > 1 {
                        self.part.set(Condition::Retrying(reason));
                    }
                    backoff.delay(failures)
                }
                Stop::Halt(condition) => {
                    failures = 0;
                    self.part.set(condition);
                    HALTED_POLL
                }
            };
            tokio::select! {
                () = lead.lost.cancelled() => return,
                Ok(()) = link.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn publish(&mut self, lead: &Lead) -> Stop {
        match self.try_publish(lead).await {
            Ok(never) => match never {},
            Err(stop) => stop,
        }
    }

    async fn try_publish(&mut self, lead: &Lead) -> Result<std::convert::Infallible, Stop> {
        let mut link = self.nats.link();
        if !link.borrow().up {
            return Err(Stop::Again(NO_LINK.to_owned()));
        }
        let Resume {
            mut after,
            last_sequence,
        } = self.resume().await?;
        let pool = self.log.db().pool().clone();
        // What has left the database every consumer has taken, or reads from the archive.
        after = after.max(store::log::dropped(&pool).await?);
        let mut predecessors: Predecessors = store::log::predecessors(&pool, after).await?;
        let mut window = Window::new(last_sequence, self.options.in_flight, MAX_BYTES);
        let mut pace = Pace::new(&self.options);
        loop {
            if lead.lost.is_cancelled() {
                return Err(Stop::LostLead);
            }
            let page = store::log::page(
                &pool,
                self.log.source(),
                after,
                &mut predecessors,
                self.options.page_events,
                MAX_BYTES,
            )
            .await?;
            if let Some(reason) = page.fenced {
                store::identity::fence(&pool, &reason, page.generation).await?;
                return Err(Stop::Halt(Condition::Fenced(reason)));
            }
            if page.gone {
                return Err(Stop::Again(
                    "events behind the relay have left the database".to_owned(),
                ));
            }
            self.part.set(Condition::Working);
            let last = page
                .events
                .last()
                .map(|(event, _)| (event.position, event.event_id.uuid()));
            self.witness.saw(page.generation, page.wal, last);
            self.meters.page(page.events.len());
            for (event, payload_bytes) in page.events {
                while window.is_full() {
                    let acknowledged = window.next().await?;
                    self.note(&acknowledged);
                }
                after = event.position;
                self.send(&mut window, &event, payload_bytes).await?;
            }
            while let Some(acknowledged) = window.ready()? {
                self.note(&acknowledged);
            }
            if page.more {
                continue;
            }
            self.meters.watermark_age(pace.watermark(page.unsettled));
            self.wait(lead, &mut link, &mut window, &mut pace).await?;
        }
    }

    /// Where to go on. Makes sure that the stream is there and that its end belongs to this history.
    async fn resume(&self) -> Result<Resume, Stop> {
        let pool = self.log.db().pool();
        let service = &**self.log.source();
        // Read before the stream can come into being: whoever subscribes to it later reads the log later, and finds
        // there what is not published.
        let run_up = store::log::place_before_head(pool, RUN_UP).await?;
        let spec = StreamSpec {
            service: service.to_owned(),
            max_bytes: self.options.max_bytes,
            replicas: self.options.replicas,
        };
        match self.nats.ensure(&spec).await {
            Ok(created) => {
                if created {
                    tracing::info!(service, "the stream was created");
                }
            }
            Err(refused @ EnsureError::Refused { .. }) => {
                return Err(Stop::Halt(Condition::StreamRefused(refused.to_string())));
            }
            Err(EnsureError::Fault(fault)) => return Err(fault.into()),
        }
        match proof::compare(&self.log, &self.nats, self.acknowledged, run_up).await? {
            Ok(resume) => Ok(resume),
            Err(differs) => Err(Stop::Halt(Condition::HistoryDiffers(differs.reason))),
        }
    }

    /// Publishes one event; does not wait for the acknowledgement.
    async fn send(&self, window: &mut Window, event: &Event, payload_bytes: usize) -> Result<(), Stop> {
        let mut outgoing = envelope::pack(event, payload_bytes);
        if let Some(traceparent) = publish_span(event, &outgoing.subject) {
            envelope::set_traceparent(&mut outgoing, &traceparent);
        }
        let bytes = outgoing.body.len() + 512;
        let message = PublishMessage::build()
            .payload(outgoing.body)
            .headers(outgoing.headers)
            .expected_last_sequence(window.last_sequence());
        let ack = self
            .nats
            .context()
            .send_publish(outgoing.subject, message)
            .await
            .map_err(|error| Stop::Again(format!("publishing: {error}")))?;
        window.push(ack, event, bytes);
        Ok(())
    }

    fn note(&mut self, acknowledged: &Acknowledged) {
        self.acknowledged = Some(acknowledged.position);
        let lag = self.clock.now() - acknowledged.occurred_at;
        self.meters.published(1, lag.as_seconds_f64().max(0.0));
    }

    /// Waits until there may be something to do, and takes acknowledgements meanwhile.
    async fn wait(
        &mut self,
        lead: &Lead,
        link: &mut watch::Receiver<Link>,
        window: &mut Window,
        pace: &mut Pace,
    ) -> Result<(), Stop> {
        let bell = Arc::clone(self.log.bell());
        let look = Instant::now() + pace.next();
        loop {
            tokio::select! {
                biased;
                acknowledged = window.next(), if !window.is_empty() => self.note(&acknowledged?),
                () = lead.lost.cancelled() => return Err(Stop::LostLead),
                _ = link.changed() => return Err(Stop::Again("the connection to NATS changed".to_owned())),
                () = bell.notified() => return Ok(()),
                () = tokio::time::sleep_until(look) => break,
            }
        }
        // An operator may have deleted the stream, or put an older copy in its place, while nothing was published.
        if window.is_empty() && pace.is_time_to_check() {
            let expected = window.last_sequence();
            let found = self.nats.last_sequence(self.log.source()).await?;
            if found != Some(expected) {
                return Err(Stop::Again(format!(
                    "the stream ends at {found:?}, not at {expected}"
                )));
            }
        }
        Ok(())
    }
}

/// The right to publish. Ends with the connection that holds the lock; dropping it gives the lock back.
struct Lead {
    lost: CancellationToken,
    _ended: DropGuard,
}

/// How soon the log is looked at again.
struct Pace {
    idle: Duration,
    check: Duration,
    checked: Instant,
    waiting_since: Option<Instant>,
    delay: Duration,
}

impl Pace {
    fn new(options: &RelayOptions) -> Pace {
        Pace {
            idle: options.idle_poll,
            check: options.check_stream,
            checked: Instant::now(),
            waiting_since: None,
            delay: WATERMARK_POLL.0,
        }
    }

    /// Takes in whether rows wait for the watermark; returns for how many seconds they have.
    fn watermark(&mut self, waiting: bool) -> f64 {
        if !waiting {
            self.waiting_since = None;
            self.delay = WATERMARK_POLL.0;
            return 0.0;
        }
        self.waiting_since
            .get_or_insert_with(Instant::now)
            .elapsed()
            .as_secs_f64()
    }

    fn next(&mut self) -> Duration {
        if self.waiting_since.is_none() {
            return self.idle;
        }
        let delay = self.delay;
        self.delay = (delay * 2).min(WATERMARK_POLL.1);
        delay
    }

    fn is_time_to_check(&mut self) -> bool {
        let due = self.checked.elapsed() >= self.check;
        if due {
            self.checked = Instant::now();
        }
        due
    }
}

/// The span of a publish, as its traceparent: child of the span that wrote the event. Events outside of a sampled trace
/// get none.
fn publish_span(event: &Event, subject: &str) -> Option<String> {
    let parent = event.traceparent.as_deref().filter(|text| text.ends_with("01"))?;
    let span = tracing::info_span!(
        "publish",
        otel.name = format!("publish {}", event.short_type()),
        otel.kind = "producer",
        messaging.system = "nats",
        messaging.operation.type = "send",
        messaging.destination.name = subject,
        messaging.message.id = %event.event_id,
        waybill.service = &*event.source,
    );
    telemetry::set_parent(&span, parent);
    in_span(&span)
}

pub(crate) fn in_span(span: &Span) -> Option<String> {
    span.in_scope(telemetry::current_traceparent)
}
