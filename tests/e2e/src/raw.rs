//! Calls by path, with bytes as messages: any method of any contract, and messages that no generated client would send.
//!
//! All shapes of methods look the same on the wire, so one message is sent as a stream of one, and the first message of
//! the answer is what is returned.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use secrecy::{ExposeSecret as _, SecretString};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::{ErrorDetail, StatusExt as _};

/// The largest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

/// How long the first message of an endless stream is waited for.
const FIRST_MESSAGE: Duration = Duration::from_millis(500);

/// How long any other answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// A connection to one endpoint that sends what it is given.
#[derive(Clone)]
pub struct Raw {
    channel: Channel,
}

impl Raw {
    /// Connects when it is first used.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned())?.http2_max_header_list_size(64 * 1024);
        Ok(Self {
            channel: endpoint.connect_lazy(),
        })
    }

    /// Sends one message to a method and returns the first message of the answer; nothing when a stream had not said
    /// anything for a moment, which means that the call was taken.
    pub async fn call(
        &self,
        path: &str,
        token: Option<&SecretString>,
        message: impl Into<Bytes>,
        server_streaming: bool,
    ) -> Result<Option<Bytes>, Status> {
        let path = PathAndQuery::try_from(path).map_err(|error| Status::internal(error.to_string()))?;
        let mut request = Request::new(tokio_stream::once(message.into()));
        if let Some(token) = token {
            let header = MetadataValue::try_from(format!("Bearer {}", token.expose_secret()))
                .map_err(|error| Status::internal(error.to_string()))?;
            request.metadata_mut().insert("authorization", header);
        }
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let answer = async {
            grpc.ready()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?;
            let mut messages = grpc.streaming(request, path, BytesCodec).await?.into_inner();
            let first = messages.message().await?;
            if !server_streaming {
                // An error may still stand in the trailers.
                while messages.message().await?.is_some() {}
            }
            Ok(first)
        };
        let patience = if server_streaming { FIRST_MESSAGE } else { ANSWER };
        match tokio::time::timeout(patience, answer).await {
            Ok(answer) => answer,
            Err(_) if server_streaming => Ok(None),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "no answer within {patience:?}"
            ))),
        }
    }
}

/// How many `ErrorInfo` an error carries; the contract says one.
#[must_use]
pub fn error_infos(status: &Status) -> usize {
    let details = status.get_error_details_vec();
    details
        .iter()
        .filter(|detail| matches!(detail, ErrorDetail::ErrorInfo(_)))
        .count()
}

/// Messages are what they are.
#[derive(Debug, Clone, Copy)]
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}
