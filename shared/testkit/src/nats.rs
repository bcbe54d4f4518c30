//! A nats-server of its own for each test: streams have fixed names, so two tests must not share one.

use std::ops::Deref;

use async_nats::{Client, ConnectOptions, ServerAddr};
use waybill_embedded::{Nats, Options};

/// A running nats-server with JetStream. It ends, and its storage goes, when the last clone is dropped.
///
/// Through [`Deref`] it can be killed, resumed, restarted and wiped.
#[derive(Clone, Debug)]
pub struct TestNats(Nats);

/// Starts a nats-server for this test alone.
///
/// # Panics
///
/// When none can be started; the message says why and what to install.
pub async fn nats() -> TestNats {
    // Addresses from the environment are passed over: a shared server would let tests meet.
    match Nats::start(&Options::default()).await {
        Ok(nats) => TestNats(nats),
        Err(e) => panic!("{e}"),
    }
}

impl TestNats {
    /// A client of it, or of a [`Wire`](crate::Wire) before it when `url` is the wire's.
    ///
    /// # Panics
    ///
    /// When the server does not let it in.
    pub async fn client(&self, url: &str) -> Client {
        let address: ServerAddr = url.parse().expect("the address is a NATS URL");
        // The client leaves the user and password of a URL aside; they are handed over apart.
        let user = address.username().unwrap_or_default().to_owned();
        let password = address.password().unwrap_or_default().to_owned();
        let options = ConnectOptions::with_user_and_password(user, password);
        options
            .connect(address)
            .await
            .expect("the test's nats-server lets its own client in")
    }
}

impl Deref for TestNats {
    type Target = Nats;

    fn deref(&self) -> &Nats {
        &self.0
    }
}
