//! Hosts that misbehave. Time is tokio's, and runs as fast as there is nothing else to do.

use std::future::pending;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::{Instant, sleep};

use super::*;

const SILENCE: Duration = Duration::from_millis(SILENCE_MS_MAX);
const TAKEN: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

async fn linked() -> (Link, DuplexStream) {
    let (ours, host) = duplex(100);
    (Link::open(ours).await.unwrap(), host)
}

/// A host that answers the first request so, and then waits.
async fn answering(said: &[u8]) -> Link {
    let (link, mut host) = linked().await;
    let said = said.to_vec();
    tokio::spawn(async move {
        read_to(&mut host, b"\r\n\r\n").await;
        host.write_all(&said).await.unwrap();
        pending::<()>().await;
    });
    link
}

/// Reads until `end` has come.
async fn read_to(host: &mut DuplexStream, end: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        read.push(host.read_u8().await.unwrap());
    }
    read
}

#[tokio::test(start_paused = true)]
async fn requests_are_plain_and_one_after_another() {
    let (mut link, mut host) = linked().await;
    let serve = async {
        let asked = read_to(&mut host, b"\r\n\r\n").await;
        assert_eq!(asked, b"GET /v1/trust HTTP/1.1\r\nhost: kiln\r\n\r\n");
        host.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ntrust").await.unwrap();
        let asked = read_to(&mut host, b"\r\n\r\n{}").await;
        assert_eq!(asked, b"POST /v1/done HTTP/1.1\r\nhost: kiln\r\ncontent-length: 2\r\n\r\n{}");
        host.write_all(TAKEN).await.unwrap();
    };
    let ask = async {
        assert_eq!(link.get("/v1/trust", 5).await.unwrap(), "trust");
        assert!(link.post("/v1/done", b"{}".to_vec(), 0).await.unwrap().is_empty());
    };
    tokio::join!(serve, ask);
}

#[tokio::test(start_paused = true)]
async fn silence_ends() {
    let (mut link, host) = linked().await;
    let begin = Instant::now();
    assert!(matches!(link.get("/x", 10).await, Err(LinkError::Silent { .. })));
    assert_eq!(begin.elapsed(), SILENCE);
    drop(host);

    // An answer that begins and does not go on.
    let mut link = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ntr").await;
    assert!(matches!(link.get("/x", 10).await, Err(LinkError::Silent { .. })));
}

#[tokio::test(start_paused = true)]
async fn answers_are_bounded() {
    for body in ["content-length: 6\r\n\r\n123456", "transfer-encoding: chunked\r\n\r\n6\r\n123456\r\n0\r\n\r\n"] {
        let mut link = answering(format!("HTTP/1.1 200 OK\r\n{body}").as_bytes()).await;
        assert!(matches!(link.get("/x", 5).await, Err(LinkError::TooLarge { bytes_max: 5, .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_http_and_what_ends_early_is_told_apart() {
    let mut link = answering(b"\0\0\0\0\r\n\r\n").await;
    assert!(matches!(link.get("/x", 5).await, Err(LinkError::Protocol { .. })));
    for said in [b"".as_slice(), b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n123"] {
        let (mut link, mut host) = linked().await;
        let host = async move {
            read_to(&mut host, b"\r\n\r\n").await;
            host.write_all(said).await.unwrap();
        };
        let (answer, ()) = tokio::join!(link.get("/x", 10), host);
        assert!(matches!(answer, Err(LinkError::Closed { .. })), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_waits_for_its_taker() {
    let (mut link, mut host) = linked().await;
    let mut upload = link.upload(Method::PUT, "/v1/files/x", Some(1_000_000)).await.unwrap();
    let begin = Instant::now();
    let sending = async {
        for _ in 0..100 {
            upload.send(vec![7; 10_000].into()).await?;
        }
        upload.finish().await
    };
    // Slowly, but never too slowly: longer than the silence in all.
    let taking = async {
        let mut taken = read_to(&mut host, b"\r\n\r\n").await.len();
        let head = taken;
        while taken < head + 1_000_000 {
            sleep(SILENCE / 20_000).await;
            taken += host.read(&mut [0; 100]).await.unwrap();
        }
        host.write_all(TAKEN).await.unwrap();
        pending::<()>().await;
    };
    tokio::select! {
        sent = sending => sent.unwrap(),
        () = taking => {}
    }
    assert!(begin.elapsed() >= SILENCE / 2);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_nobody_takes_ends() {
    let (mut link, _host) = linked().await;
    let mut upload = link.upload(Method::POST, "/v1/logs/x", None).await.unwrap();
    let sent = loop {
        if let Err(error) = upload.send(vec![7; 10_000].into()).await {
            break error;
        }
    };
    assert!(matches!(sent, LinkError::Silent { .. }));
}

#[tokio::test(start_paused = true)]
async fn an_open_log_may_be_silent_and_its_end_is_seen_at_once() {
    let (mut link, host) = linked().await;
    let mut upload = link.upload(Method::POST, "/v1/logs/x", None).await.unwrap();
    assert!(timeout(SILENCE * 100, upload.broken()).await.is_err());
    drop(host);
    assert!(matches!(upload.broken().await, LinkError::Closed { .. }));
    assert!(upload.send("late".into()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_host_that_answers_before_the_end_does_not_want_it() {
    let mut link = answering(b"HTTP/1.1 409 Conflict\r\ncontent-length: 0\r\n\r\n").await;
    let mut upload = link.upload(Method::POST, "/v1/logs/x", None).await.unwrap();
    assert!(matches!(upload.broken().await, LinkError::Answer { status: 409, .. }));
}
