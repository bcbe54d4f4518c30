//! A TCP proxy that can be cut, slowed down and left half open, put between a client and a real server. Before several
//! servers it shares connections out, as the address of a service with replicas does.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Chunks under way in one direction; a sender that is faster waits.
const IN_FLIGHT: usize = 64;

/// A wire from a port of its own to an upstream server. It ends, with all its connections, when dropped.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    upstreams: Arc<[String]>,
    state: watch::Sender<State>,
    accepted: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    delay: Duration,
    /// Grows with every cut, so that a cut that is already restored still ends the connections it met.
    cuts: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    Cut,
    HalfOpen,
}

impl Wire {
    /// Puts a wire before `upstream`, which is `host:port`.
    pub async fn start(upstream: impl Into<String>) -> io::Result<Self> {
        Self::start_before_all([upstream.into()]).await
    }

    /// Puts a wire before several servers, each `host:port`. A new connection goes to the next of them in turn that takes
    /// it.
    pub async fn start_before_all(upstreams: impl IntoIterator<Item = String>) -> io::Result<Self> {
        let upstreams: Arc<[String]> = upstreams.into_iter().collect();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = watch::Sender::new(State {
            mode: Mode::Open,
            delay: Duration::ZERO,
            cuts: 0,
        });
        let accepted = Arc::new(AtomicUsize::new(0));
        let answered = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(
            listener,
            Arc::clone(&upstreams),
            state.subscribe(),
            Arc::clone(&accepted),
            Arc::clone(&answered),
        ));
        Ok(Self {
            address,
            upstreams,
            state,
            accepted,
            answered,
            task,
        })
    }

    /// Puts a wire before the server of a URL and returns it with the URL that goes through it.
    pub async fn before(url: &str) -> io::Result<(Self, String)> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "the URL names no host and port");
        let (_, rest) = url.split_once("://").ok_or_else(invalid)?;
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let host = authority
            .rsplit('@')
            .next()
            .filter(|host| host.contains(':'))
            .ok_or_else(invalid)?;
        let start = url.len() - rest.len() + authority.len() - host.len();
        let wire = Self::start(host).await?;
        let through = format!("{}{}{}", &url[..start], wire.address, &url[start + host.len()..]);
        Ok((wire, through))
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The servers behind, as they were given.
    pub fn upstreams(&self) -> &[String] {
        &self.upstreams
    }

    /// How many connections were ever taken.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// How many pieces of the servers' answers were ever passed on. Where a client sends its next request only after an
    /// answer, this counts its round trips.
    pub fn answers(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }

    /// Resets all connections, and every new one until [`Wire::restore`].
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            state.mode = Mode::Cut;
            state.cuts += 1;
        });
    }

    /// Resets all connections once; new ones pass.
    pub fn reset(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Lets everything pass at full speed again. What a half-open wire held back is delivered now.
    pub fn restore(&self) {
        self.state.send_modify(|state| {
            state.mode = Mode::Open;
            state.delay = Duration::ZERO;
        });
    }

    /// Delays every byte, in both directions, by this much. The throughput stays.
    pub fn slow(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// Keeps connections open, and takes new ones, but lets nothing pass: neither data nor the end of a connection.
    pub fn half_open(&self) {
        self.state.send_modify(|state| state.mode = Mode::HalfOpen);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    upstreams: Arc<[String]>,
    state: watch::Receiver<State>,
    accepted: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let turn = accepted.fetch_add(1, Ordering::SeqCst);
        while connections.try_join_next().is_some() {}
        let (upstreams, state) = (Arc::clone(&upstreams), state.clone());
        let answered = Arc::clone(&answered);
        connections.spawn(async move {
            // A connection that breaks is what this proxy is for; both sides have seen it.
            let _ended = connection(client, &upstreams, turn, state, &answered).await;
        });
    }
}

async fn connection(
    mut client: TcpStream,
    upstreams: &[String],
    turn: usize,
    mut state: watch::Receiver<State>,
    answered: &AtomicUsize,
) -> io::Result<()> {
    let State { mode, cuts: born, .. } = *state.borrow_and_update();
    let server = if mode == Mode::Cut {
        None
    } else {
        connect(upstreams, turn).await
    };
    let Some(mut server) = server else {
        return client.set_zero_linger();
    };
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let in_order = {
        // Borrowed halves: owned ones would end the connection politely when they are dropped.
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = carry(from_client, to_server, state.clone(), None);
        let down = carry(from_server, to_client, state.clone(), Some(answered));
        tokio::select! {
            ended = async { tokio::try_join!(up, down) } => ended.is_ok(),
            _ = state.wait_for(|state| state.cuts != born) => false,
        }
    };
    if !in_order {
        // Closing without lingering is what sends a reset.
        client.set_zero_linger()?;
        server.set_zero_linger()?;
    }
    Ok(())
}

/// Connects to the first server that takes it, beginning with the one whose turn it is.
async fn connect(upstreams: &[String], turn: usize) -> Option<TcpStream> {
    for place in 0..upstreams.len() {
        let upstream = &upstreams[turn.wrapping_add(place) % upstreams.len()];
        if let Ok(stream) = TcpStream::connect(upstream).await {
            return Some(stream);
        }
    }
    None
}

/// Carries one direction to its end, and counts the pieces it passes on. `None` among the chunks stands for that end.
async fn carry(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    state: watch::Receiver<State>,
    count: Option<&AtomicUsize>,
) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    tokio::try_join!(
        read(from, sender, state.clone()),
        write(receiver, to, state, count)
    )
    .map(drop)
}

async fn read(
    mut from: ReadHalf<'_>,
    chunks: mpsc::Sender<(Instant, Option<Vec<u8>>)>,
    state: watch::Receiver<State>,
) -> io::Result<()> {
    loop {
        let mut chunk = vec![0; 16 * 1024];
        let length = from.read(&mut chunk).await?;
        chunk.truncate(length);
        let due = Instant::now() + state.borrow().delay;
        let chunk = (length > 0).then_some(chunk);
        let ended = chunk.is_none();
        if chunks.send((due, chunk)).await.is_err() || ended {
            return Ok(());
        }
    }
}

async fn write(
    mut chunks: mpsc::Receiver<(Instant, Option<Vec<u8>>)>,
    mut to: WriteHalf<'_>,
    mut state: watch::Receiver<State>,
    count: Option<&AtomicUsize>,
) -> io::Result<()> {
    while let Some((due, chunk)) = chunks.recv().await {
        tokio::time::sleep_until(due).await;
        if state
            .wait_for(|state| state.mode != Mode::HalfOpen)
            .await
            .is_err()
        {
            return Ok(());
        }
        match chunk {
            Some(chunk) => {
                // Before it is there: who sees the answer sees it counted.
                if let Some(count) = count {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                to.write_all(&chunk).await?;
            }
            None => to.shutdown().await?,
        }
    }
    Ok(())
}
