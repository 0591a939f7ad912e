//! Both ends of the socket: questions find their answers, and only bounded messages of the protocol are read.

use super::*;
use std::os::unix::net::UnixStream;

#[test]
fn a_question_finds_its_answer() {
    let (builder, mut init) = UnixStream::pair().unwrap();
    let job = Sha256Digest::of(b"job");
    let asked = std::thread::spawn(move || {
        let mut custodian = Custodian::new(builder);
        custodian.measure(Measurement::Event { event: Event::Job(job) }).unwrap();
        let refused = custodian.allow(job).unwrap_err();
        assert!(matches!(refused, CustodyError::Refused { refusal: Refusal::OneShot }));
        let mixed_up = custodian.sign(Label::Manifest, b"x").unwrap_err();
        assert!(matches!(mixed_up, CustodyError::Unexpected));
    });
    let request: Request = receive(&mut init).unwrap();
    assert_eq!(request, Request::Measure { what: Measurement::Event { event: Event::Job(job) } });
    send(&mut init, &Reply::Measured).unwrap();
    assert_eq!(receive::<Request>(&mut init).unwrap(), Request::Allow { job_sha256: job });
    send(&mut init, &Reply::Refused { refusal: Refusal::OneShot }).unwrap();
    let request = receive::<Request>(&mut init).unwrap();
    assert_eq!(request, Request::Sign { label: Label::Manifest, payload: Blob(b"x".to_vec()) });
    send(&mut init, &Reply::Allowed).unwrap();
    asked.join().unwrap();
    assert!(matches!(receive::<Request>(&mut init), Err(CustodyError::Closed)));
}

#[test]
fn only_bounded_messages_of_this_protocol_are_read() {
    let read = |length: u32, body: &[u8]| {
        let bytes: Vec<u8> = length.to_le_bytes().iter().chain(body).copied().collect();
        receive::<Request>(&mut bytes.as_slice())
    };
    assert_eq!(read(7, b"\"hello\"").unwrap(), Request::Hello);
    assert!(matches!(read(u32::MAX, b""), Err(CustodyError::TooLarge { .. })));
    assert!(matches!(read(8, b"\"hello\""), Err(CustodyError::Closed)));
    let good = r#"{"done":{"outcome":"built"}}"#;
    let unknown_field = r#"{"done":{"outcome":"built","again":1}}"#;
    let unknown_event = r#"{"measure":{"what":{"event":{"event":"boot:x"}}}}"#;
    assert_eq!(read(good.len() as u32, good.as_bytes()).unwrap(), Request::Done { outcome: Outcome::Built });
    for bad in [unknown_field, unknown_event] {
        assert!(matches!(read(bad.len() as u32, bad.as_bytes()), Err(CustodyError::Syntax { .. })), "{bad}");
    }
}

#[test]
fn what_is_too_large_is_not_sent() {
    let payload = Blob(vec![0; FRAME_BYTES_MAX]);
    let sent = send(&mut Vec::new(), &Request::Sign { label: Label::Provenance, payload });
    assert!(matches!(sent, Err(CustodyError::TooLarge { .. })));
}
