//! The proxy breaks connections in the ways that networks do.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use waybill_testkit::{Wire, eventually, nats};

/// A server that sends back what it gets.
async fn echo() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    Ok(address)
}

async fn round_trip(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"ping").await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

#[tokio::test]
async fn an_open_wire_carries_bytes_and_the_end_of_a_connection() -> anyhow::Result<()> {
    let wire = Wire::start(echo().await?).await?;
    let mut stream = TcpStream::connect(wire.addr()).await?;
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let (mut read, mut write) = stream.split();
    let mut back = Vec::new();
    let send = async {
        write.write_all(&sent).await?;
        write.shutdown().await
    };
    tokio::try_join!(send, read.read_to_end(&mut back))?;
    assert!(back == sent, "{} bytes came back", back.len());
    assert_eq!(wire.connections(), 1);
    Ok(())
}

#[tokio::test]
async fn a_cut_resets_old_and_new_connections_until_restored() -> anyhow::Result<()> {
    let wire = Wire::start(echo().await?).await?;
    let mut old = TcpStream::connect(wire.addr()).await?;
    round_trip(&mut old).await?;

    wire.cut();
    let reset = old.read_u8().await.expect_err("the old connection still works");
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    let mut new = TcpStream::connect(wire.addr()).await?;
    round_trip(&mut new).await.expect_err("a new connection works");

    wire.restore();
    round_trip(&mut TcpStream::connect(wire.addr()).await?).await?;

    // A cut that is over before anybody looks still cuts.
    let mut brief = TcpStream::connect(wire.addr()).await?;
    round_trip(&mut brief).await?;
    wire.cut();
    wire.restore();
    brief
        .read_u8()
        .await
        .expect_err("the connection outlived the cut");
    Ok(())
}

#[tokio::test]
async fn a_slow_wire_delays_but_does_not_queue() -> anyhow::Result<()> {
    let wire = Wire::start(echo().await?).await?;
    let delay = Duration::from_millis(100);
    wire.slow(delay);
    let mut stream = TcpStream::connect(wire.addr()).await?;
    let start = Instant::now();
    round_trip(&mut stream).await?;
    assert!(start.elapsed() >= 2 * delay, "{:?}", start.elapsed());

    // Fifty chunks, each waited for alone, would take ten seconds and more.
    let start = Instant::now();
    let (mut read, mut write) = stream.split();
    let send = async {
        for _ in 0..50 {
            write.write_all(b"x").await?;
            tokio::task::yield_now().await;
        }
        std::io::Result::Ok(())
    };
    let mut back = [0; 50];
    tokio::try_join!(send, read.read_exact(&mut back))?;
    assert!(start.elapsed() < 50 * delay, "{:?}", start.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_half_open_wire_says_nothing_and_delivers_later() -> anyhow::Result<()> {
    let wire = Wire::start(echo().await?).await?;
    let mut old = TcpStream::connect(wire.addr()).await?;
    round_trip(&mut old).await?;

    wire.half_open();
    let mut new = TcpStream::connect(wire.addr()).await?;
    for stream in [&mut old, &mut new] {
        stream.write_all(b"late").await?;
        let silence = tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await;
        assert!(silence.is_err(), "something came through: {silence:?}");
    }
    wire.restore();
    for stream in [&mut old, &mut new] {
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"late");
    }
    Ok(())
}

#[tokio::test]
async fn a_nats_client_comes_back_after_a_cut() -> anyhow::Result<()> {
    let server = nats().await;
    let (wire, url) = Wire::before(server.url()).await?;
    assert_ne!(url, server.url());
    let client = server.client(&url).await;
    client.flush().await?;
    let before = wire.connections();

    wire.cut();
    wire.restore();
    eventually("second connection", Duration::from_secs(20), || async {
        (wire.connections() > before).then_some(())
    })
    .await;
    client.flush().await?;
    Ok(())
}

#[tokio::test]
async fn two_tests_get_two_servers() -> anyhow::Result<()> {
    let (one, two) = (nats().await, nats().await);
    assert_ne!(one.url(), two.url());
    one.kill().await?;
    two.client(two.url()).await.flush().await?;
    Ok(())
}
