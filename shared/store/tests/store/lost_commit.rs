//! A proxy before Postgres that breaks the connection at the one moment that leaves the outcome open: while committing.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What becomes of a COMMIT that is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It never reaches the server: nothing is written.
    BeforeServer,
    /// The server commits; its answer never reaches the client.
    AfterServer,
}

/// The proxy. It ends when dropped.
pub struct LostCommit {
    address: SocketAddr,
    left: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl LostCommit {
    /// Stands before the server of `upstream` (`host:port`) and loses the next `times` commits.
    pub async fn start(upstream: String, fate: Fate, times: u32) -> io::Result<LostCommit> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let left = Arc::new(AtomicU32::new(times));
        let counter = Arc::clone(&left);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (upstream, left) = (upstream.clone(), Arc::clone(&counter));
                connections.spawn(async move {
                    // A broken connection is the purpose; both ends see it.
                    drop(relay(client, &upstream, fate, &left).await);
                });
            }
        });
        Ok(LostCommit { address, left, task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Commits that are still to be lost.
    pub fn left(&self) -> u32 {
        self.left.load(Ordering::SeqCst)
    }
}

impl Drop for LostCommit {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(client: TcpStream, upstream: &str, fate: Fate, left: &AtomicU32) -> io::Result<()> {
    let server = TcpStream::connect(upstream).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut up, mut down) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            read = from_client.read(&mut up) => {
                let bytes = &up[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                if is_commit(bytes) && take(left) {
                    if fate == Fate::AfterServer {
                        to_server.write_all(bytes).await?;
                        // The server answers when it has committed. The answer ends here.
                        let _answer = from_server.read(&mut down).await?;
                    }
                    return Ok(());
                }
                to_server.write_all(bytes).await?;
            }
            read = from_server.read(&mut down) => {
                let bytes = &down[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                to_client.write_all(bytes).await?;
            }
        }
    }
}

/// A COMMIT is a message of its own and small: it arrives in one piece.
fn is_commit(bytes: &[u8]) -> bool {
    bytes.windows(7).any(|text| text == b"COMMIT\0")
}

fn take(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
        .is_ok()
}
