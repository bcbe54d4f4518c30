//! The one layer that decides who may call what, for which tenant.
//!
//! Every method says in its contract which scope it needs and how it is bound to a tenant ([`Rules`]). For a call the layer
//! takes the bearer token, checks the scope, and reads `merchant_id` and `store_id` of every message before the service
//! sees it. The service finds the [`Caller`] in the request's extensions, and binds its queries to
//! the tenant that the request names, which by then is one that the caller may name.
//!
//! Health and reflection are open. A method that is in no contract is refused here.
//!
//! What it refuses to do: decide by data. Whether an order belongs to the store is for the query to find.

mod body;
mod rules;
mod scan;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use waybill_proto::waybill::r#type::v1::Tenancy;

use self::body::{Check, Inspected, Refused};
use crate::auth::{Caller, Verifier};
use crate::fault::Refusal;

pub use rules::{Rule, Rules, RulesError};

/// Methods that need no token: `/package.Service/` they are in.
const OPEN: [&str; 3] = [
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

/// Whether a method is open to everybody.
pub(crate) fn is_open(path: &str) -> bool {
    OPEN.iter().any(|prefix| path.starts_with(prefix))
}

/// Puts access control before a gRPC service.
#[derive(Clone)]
pub struct AccessLayer {
    shared: Arc<Shared>,
}

struct Shared {
    rules: Rules,
    verifier: Verifier,
    domain: Arc<str>,
    max_message_bytes: usize,
}

impl AccessLayer {
    /// `service` names who refuses (`<service>.waybill`); messages above `max_message_bytes` are refused.
    pub fn new(service: &str, rules: Rules, verifier: Verifier, max_message_bytes: usize) -> AccessLayer {
        AccessLayer {
            shared: Arc::new(Shared {
                rules,
                verifier,
                domain: format!("{service}.waybill").into(),
                max_message_bytes,
            }),
        }
    }
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Access {
            inner,
            shared: Arc::clone(&self.shared),
        }
    }
}

/// A gRPC service behind access control.
#[derive(Clone)]
pub struct Access<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request<Body>> for Access<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if is_open(request.uri().path()) {
            return Box::pin(self.inner.call(request));
        }
        match self.shared.admit(request) {
            Ok((request, refused)) => {
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let response = answer.await?;
                    // Whatever the service made of a body that was cut off: the refusal is the answer.
                    Ok(match refused.get() {
                        Some(status) => status.clone().into_http(),
                        None => response,
                    })
                })
            }
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}

impl Shared {
    /// Checks all that the head of a call shows, and has its messages checked as they come.
    fn admit(&self, request: Request<Body>) -> Result<(Request<Body>, Refused), Status> {
        let path = request.uri().path();
        let rule = self.rules.get(path).ok_or_else(|| {
            self.refuse(
                Code::Unimplemented,
                "METHOD_UNKNOWN",
                format!("there is no method \"{}\" here", path.escape_default()),
            )
        })?;
        let caller = self.caller(request.headers())?;
        if !caller.has_scope(&rule.scope) {
            let message = format!("the token lacks the scope \"{}\"", rule.scope);
            return Err(self.refuse(Code::PermissionDenied, "SCOPE_MISSING", message));
        }
        if rule.tenancy == Tenancy::System && !caller.is_system() {
            return Err(self.refuse(
                Code::PermissionDenied,
                "TENANT_MISMATCH",
                "only services of Waybill may call this",
            ));
        }
        let check = Check {
            caller: Arc::clone(&caller),
            tenancy: rule.tenancy,
            client_streaming: rule.client_streaming,
            max_message_bytes: self.max_message_bytes,
            domain: Arc::clone(&self.domain),
        };
        let refused = Refused::default();
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(caller);
        let body = Body::new(Inspected::new(body, check, Arc::clone(&refused)));
        Ok((Request::from_parts(parts, body), refused))
    }

    fn caller(&self, headers: &HeaderMap) -> Result<Arc<Caller>, Status> {
        let missing = || {
            self.refuse(
                Code::Unauthenticated,
                "TOKEN_MISSING",
                "the call carries no token; send the header \"authorization: Bearer …\"",
            )
        };
        let header = headers.get(AUTHORIZATION).ok_or_else(missing)?;
        let token = header
            .to_str()
            .ok()
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(missing)?;
        self.verifier
            .verify(token)
            .map_err(|error| self.refuse(Code::Unauthenticated, "TOKEN_INVALID", error.to_string()))
    }

    fn refuse(&self, code: Code, reason: &str, message: impl Into<String>) -> Status {
        Refusal::new(code, &self.domain, reason, message).into_status()
    }
}
