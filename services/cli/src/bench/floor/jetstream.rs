//! Bare JetStream: messages with the headers of an event's envelope, published and fetched.

use std::collections::VecDeque;
use std::future::IntoFuture as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::context::Context;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use futures_util::StreamExt as _;

use super::{Shape, Speed};

const STREAM: &str = "FLOOR";
const SUBJECT: &str = "waybill.events.floor.v1.17.PaymentRecorded";

/// Publishes that are not acknowledged yet.
const IN_FLIGHT: usize = 1024;

/// The headers of an event, with values of the usual length.
const HEADERS: [(&str, &str); 13] = [
    ("ce-id", "0192f0c1-5d3a-7cc2-9a51-3f8e6c0d7b21"),
    ("ce-type", "waybill.order.v1.PaymentRecorded"),
    ("ce-source", "/waybill/order"),
    ("ce-time", "2026-01-01T12:00:00.123456Z"),
    ("ce-specversion", "1.0"),
    ("content-type", "application/protobuf"),
    ("waybill-position", "1.123456.1234567"),
    ("waybill-prev", "1.123456.1234567"),
    ("waybill-merchant", "0192f0c1-5d3a-7cc2-9a51-3f8e6c0d7b22"),
    ("waybill-store", "0192f0c1-5d3a-7cc2-9a51-3f8e6c0d7b23"),
    ("waybill-key", "0192f0c1-5d3a-7cc2-9a51-3f8e6c0d7b24"),
    ("waybill-aggregate", "0192f0c1-5d3a-7cc2-9a51-3f8e6c0d7b25"),
    ("waybill-version", "123456"),
];

/// A stream in a file, as the relay's are.
pub struct BareStream {
    context: Context,
    last_sequence: AtomicU64,
}

impl BareStream {
    /// Makes the stream.
    pub async fn make(client: &async_nats::Client) -> anyhow::Result<BareStream> {
        let context = async_nats::jetstream::new(client.clone());
        let config = Config {
            name: STREAM.to_owned(),
            subjects: vec!["waybill.events.floor.v1.>".to_owned()],
            storage: StorageType::File,
            max_bytes: 1 << 30,
            ..Config::default()
        };
        context
            .create_stream(config)
            .await
            .context("the bare stream could not be made")?;
        Ok(BareStream {
            context,
            last_sequence: AtomicU64::new(0),
        })
    }

    /// One publisher, pipelined, each message naming the sequence it follows.
    pub async fn publish(&self, shape: &Shape, messages: usize) -> anyhow::Result<Speed> {
        let headers: HeaderMap = HEADERS
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from(value)))
            .collect();
        let payload = bytes::Bytes::from(vec![b'x'; shape.payload_bytes]);
        let mut sequence = self.last_sequence.load(Ordering::Relaxed);
        let mut sent = VecDeque::with_capacity(IN_FLIGHT);
        let began = Instant::now();
        for _ in 0..messages {
            if sent.len() == IN_FLIGHT
                && let Some(ack) = sent.pop_front()
            {
                sequence_of(ack).await?;
            }
            let message = PublishMessage::build()
                .payload(payload.clone())
                .headers(headers.clone())
                .expected_last_sequence(sequence);
            sequence += 1;
            sent.push_back(self.context.send_publish(SUBJECT, message).await?);
        }
        let mut last = sequence;
        for ack in sent {
            last = sequence_of(ack).await?;
        }
        let time = began.elapsed();
        ensure!(last == sequence, "the stream ends at {last}, not at {sequence}");
        self.last_sequence.store(sequence, Ordering::Relaxed);
        Ok(Speed {
            count: messages as u64,
            time,
        })
    }

    /// The last `messages` messages, by an ephemeral ordered pull consumer.
    pub async fn fetch(&self, messages: usize) -> anyhow::Result<Speed> {
        let start_sequence = self.last_sequence.load(Ordering::Relaxed) + 1 - messages as u64;
        let stream = self.context.get_stream_no_info(STREAM).await?;
        let began = Instant::now();
        let consumer = stream
            .create_consumer(pull::OrderedConfig {
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence },
                ..pull::OrderedConfig::default()
            })
            .await?;
        let mut incoming = consumer.messages().await?.take(messages);
        let mut bytes = 0;
        while let Some(message) = incoming.next().await {
            bytes += message?.payload.len();
        }
        let time = began.elapsed();
        ensure!(bytes > 0, "the messages are empty");
        Ok(Speed {
            count: messages as u64,
            time,
        })
    }
}

async fn sequence_of(ack: async_nats::jetstream::context::PublishAckFuture) -> anyhow::Result<u64> {
    Ok(ack.into_future().await?.sequence)
}
