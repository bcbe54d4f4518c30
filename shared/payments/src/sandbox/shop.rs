//! What the two shops have in common: where they listen, how they end, and how faults strike them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use waybill_kernel::time;

use super::SandboxError;
use super::answer::{Answer, struck_after, struck_before};
use super::fault::{Fault, Plan};

/// A shop's state, its faults, and its end.
pub(super) struct Shop<S> {
    state: Mutex<S>,
    plan: Mutex<Plan>,
    clock: time::Shared,
    stop: CancellationToken,
}

impl<S> std::fmt::Debug for Shop<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shop").finish_non_exhaustive()
    }
}

impl<S: Send> Shop<S> {
    pub fn new(state: S, clock: time::Shared) -> Self {
        Self {
            state: Mutex::new(state),
            plan: Mutex::default(),
            clock,
            stop: CancellationToken::new(),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, S> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Carries out a call that moves money, under the fault that is planned for it. The work is done at once and under the
    /// lock: a caller that goes away stops nothing.
    pub async fn under_faults(
        &self,
        payment: &str,
        work: impl FnOnce(&mut S, Option<&Fault>) -> Answer,
    ) -> Response {
        let fault = self.plan().next(payment, None);
        if let Some(response) = struck_before(fault.as_ref(), &self.stop).await {
            return response;
        }
        let error = || Answer {
            status: 500,
            body: "<p>There has been a critical error.</p>".to_owned(),
            replayed: false,
        };
        match &fault {
            Some(Fault::RateLimited { retry_after_seconds }) => {
                let answer = Answer {
                    status: 429,
                    body: "{}".to_owned(),
                    replayed: false,
                };
                let mut response = answer.into_response();
                let wait = HeaderValue::from(*retry_after_seconds);
                response.headers_mut().insert(header::RETRY_AFTER, wait);
                return response;
            }
            Some(Fault::ErrorBefore) => return error().into_response(),
            _ => {}
        }
        let mut answer = work(&mut self.state(), fault.as_ref());
        if fault == Some(Fault::ErrorAfter) {
            answer = error();
        }
        struck_after(fault.as_ref(), answer, &self.stop).await
    }

    /// Serves until [`stop`](Self::stop), on any free port of this machine itself.
    pub async fn serve(&self, router: Router) -> Result<SocketAddr, SandboxError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let bind = |source| SandboxError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let stopped = self.stop.clone().cancelled_owned();
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router)
                .with_graceful_shutdown(stopped)
                .await
            {
                tracing::error!(%error, "shop sandbox stopped serving");
            }
        });
        Ok(address)
    }
}

/// For how long shops keep keys.
pub(super) const KEY_LIFETIME: TimeDelta = TimeDelta::hours(24);
