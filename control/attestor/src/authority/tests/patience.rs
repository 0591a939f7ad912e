//! Silence, dripping, noise and hanging up end a run, and cost nothing else.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Time is tokio's, and runs as fast as there is nothing else to do.
#[tokio::test(start_paused = true)]
async fn silence_and_dripping_end() {
    let mut rig = Rig::new();
    let outcome = rig.run(async |mut machine| {
        machine.get(path::CONFIGURATION).await.unwrap();
        tokio::time::sleep(Duration::from_secs(7200)).await;
    });
    assert!(matches!(outcome.await, Err(Fault::Link(LinkError::Silent { .. }))));

    // One byte in each minute is no silence; the deadline of the run ends it.
    let rig = Rig::new();
    let authority = rig.authority();
    let (host, mut guest) = tokio::io::duplex(1 << 16);
    let drip = async {
        for byte in b"GET /v1/configuration HTTP/1.1\r\nhost: kiln-which-is-as-long-as-an-hour-has-minutes-and-more\r\n"
        {
            guest.write_all(&[*byte]).await.ok();
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    };
    let mut listener = |_: Report<'_>| {};
    let serve = authority.serve(host, Duration::from_secs(3600), &mut listener);
    let (outcome, ()) = tokio::join!(serve, drip);
    assert!(matches!(outcome, Err(Fault::Deadline { .. })), "{outcome:?}");
}

#[tokio::test]
async fn noise_and_hanging_up_are_faults() {
    let rig = Rig::new();
    for noise in [&b""[..], b"\0\0\0\0", b"SSH-2.0\r\n\r\n", &[b'a'; 100_000]] {
        let authority = rig.authority();
        let (host, mut guest) = tokio::io::duplex(1 << 20);
        guest.write_all(noise).await.unwrap();
        guest.shutdown().await.unwrap();
        let mut listener = |_: Report<'_>| {};
        let outcome = authority.serve(host, Duration::from_secs(5), &mut listener).await;
        assert!(matches!(outcome, Err(Fault::Link(_))), "{outcome:?}");
        let mut said = Vec::new();
        guest.read_to_end(&mut said).await.unwrap();
        assert!(!String::from_utf8_lossy(&said).contains("trust"), "something was told to noise");
    }
}
