//! Everything once, also after a restart; many at the same time; and whatever is not ours is not used.

mod tamper;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tokio::task::JoinSet;

use super::*;
use crate::ledger::{Entry, Head, Issued};
use crate::site;

pub(super) fn now() -> Timestamp {
    Timestamp::from_unix(1_790_000_000).unwrap()
}

/// A site with a state, in a directory that goes when it is dropped.
pub(super) struct Rig {
    _parent: tempfile::TempDir,
    pub(super) site: Site,
}

impl Rig {
    pub(super) fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("site");
        let names = site::Names { site: "demo".parse().unwrap(), trust_domain: "demo.example".parse().unwrap() };
        site::create(&directory, &names, &site::PROFILES, now(), getrandom::fill).unwrap();
        Self { site: Site::open(&directory, now()).unwrap(), _parent: parent }
    }

    pub(super) fn state(&self) -> State {
        State::open(&self.site).unwrap()
    }

    pub(super) fn file(&self) -> PathBuf {
        self.site.directory().join(path::STATE)
    }

    pub(super) fn verify(&self) -> Result<Summary, ArchiveError> {
        Archive::open(&self.site)?.verify(None, |_| {})
    }
}

pub(super) fn build(number: u32) -> Name {
    format!("{number:032x}").parse().unwrap()
}

fn digest(text: &str, number: u32) -> Sha256Digest {
    Sha256Digest::of(format!("{text}{number}").as_bytes())
}

pub(super) fn challenged(number: u32, ek_sha256: Sha256Digest) -> Act {
    Act::Challenged {
        build_id: build(number),
        nonce: digest("nonce", number),
        job_sha256: digest("job", 0),
        image_sha256: digest("image", 0),
        builder_id: "https://kiln.example/builders/test".to_owned(),
        ek_sha256,
    }
}

pub(super) fn certified(number: u32, ek_sha256: Sha256Digest, reset_count: u32) -> Act {
    let issued = |what| Issued { serial: format!("{number:032x}"), key_sha256: digest(what, number) };
    let (attestation, statement, dispatch) = (issued("ak"), issued("statement"), issued("dispatch"));
    Act::Certified {
        build_id: build(number),
        ek_sha256,
        reset_count,
        attestation,
        statement,
        dispatch,
        issuer: Some(issued("issuer")),
    }
}

pub(super) fn handed_over(number: u32) -> Act {
    Act::HandedOver { build_id: build(number), job_sha256: digest("job", 0) }
}

pub(super) fn ended(number: u32, outcome: &str) -> Act {
    Act::Ended { build_id: build(number), outcome: outcome.to_owned() }
}

/// A whole build.
pub(super) async fn whole(state: &State, number: u32) {
    for act in [
        challenged(number, digest("ek", number)),
        certified(number, digest("ek", number), 1),
        handed_over(number),
        ended(number, "built"),
    ] {
        assert_eq!(state.record(act, now()).await.unwrap(), Ok(()));
    }
}

#[tokio::test]
async fn a_build_is_remembered_and_the_file_is_private() {
    let rig = Rig::new();
    whole(&rig.state(), 1).await;
    let summary = rig.verify().unwrap();
    assert_eq!((summary.entries, summary.challenged, summary.certified, summary.refused), (5, 1, 1, 0));
    assert_eq!((summary.handed_over, summary.ended, summary.boots), (1, 1, 1));
    assert_eq!(fs::metadata(rig.file()).unwrap().permissions().mode() & 0o777, 0o600);
    let (head, envelope) = Archive::open(&rig.site).unwrap().head().unwrap();
    assert_eq!((head.sequence, head.entry_sha256), (4, summary.head_sha256));
    assert_eq!(
        Head::verify(&envelope, rig.site.name(), &rig.site.ledger_key().unwrap().verifying_key()).unwrap(),
        head
    );
}

/// Each act twice, in one process and after a restart: no, with its own code, in the ledger.
#[tokio::test]
async fn nothing_is_granted_twice() {
    let ek = digest("ek", 0);
    let acts = [
        (challenged(1, ek), "nonce_not_fresh"),
        (certified(1, ek, 7), "nonce_reused"),
        (handed_over(1), "job_taken"),
        (ended(1, "built"), "build_ended"),
    ];
    for restart in [false, true] {
        let rig = Rig::new();
        let mut state = Some(rig.state());
        for (count, (act, code)) in (1..).zip(&acts) {
            assert_eq!(state.as_ref().unwrap().record(act.clone(), now()).await.unwrap(), Ok(()), "{code}");
            if restart {
                drop(state.take());
                state = Some(rig.state());
            }
            let again = state.as_ref().unwrap().record(act.clone(), now()).await.unwrap();
            assert_eq!(again.unwrap_err().code(), *code);
            assert_eq!(rig.verify().unwrap().refused, count, "{code}");
        }
        // Another build of the same boot of the same machine; the next boot is another one.
        let state = state.unwrap();
        for (number, reset_count, answer) in [(2, 7, Err(Refusal::ResetCountSeen)), (3, 8, Ok(()))] {
            assert_eq!(state.record(challenged(number, ek), now()).await.unwrap(), Ok(()));
            assert_eq!(state.record(certified(number, ek, reset_count), now()).await.unwrap(), answer);
        }
    }
}

#[tokio::test]
async fn a_challenge_is_answered_in_time_by_the_one_who_was_challenged() {
    let rig = Rig::new();
    let state = rig.state();
    let (ek, other) = (digest("ek", 0), digest("ek", 1));
    assert_eq!(state.record(certified(9, ek, 1), now()).await.unwrap(), Err(Refusal::NoChallenge));
    let late = now().plus_seconds(CHALLENGE_SECONDS_MAX + 1);
    let early = Timestamp::from_unix(now().unix() - 1).unwrap();
    for (number, at, who, refusal) in [
        (1, late, ek, Refusal::ChallengeExpired),
        (2, early, ek, Refusal::ChallengeExpired),
        (3, now(), other, Refusal::OtherMachine),
    ] {
        state.record(challenged(number, ek), now()).await.unwrap().unwrap();
        assert_eq!(state.record(certified(number, who, 1), at).await.unwrap(), Err(refusal), "{number}");
        // A wrong answer is an answer: there is no second one.
        assert_eq!(state.record(certified(number, ek, 1), now()).await.unwrap(), Err(Refusal::NonceReused), "{number}");
        assert_eq!(state.record(handed_over(number), now()).await.unwrap(), Err(Refusal::NotCertified), "{number}");
    }
    for (number, ends) in [(5, Act::refused(Some(build(5)), "quote", "x")), (6, ended(6, "silent"))] {
        state.record(challenged(number, ek), now()).await.unwrap().unwrap();
        state.record(ends, now()).await.unwrap().unwrap();
        assert_eq!(state.record(certified(number, ek, 1), now()).await.unwrap(), Err(Refusal::NonceReused), "{number}");
    }
    assert!(state.knows(&digest("nonce", 1)).unwrap() && !state.knows(&digest("nonce", 7)).unwrap());
    drop(state);
    rig.verify().unwrap();
}

#[tokio::test]
async fn a_job_is_the_one_of_the_challenge_and_belongs_to_a_certified_build() {
    let rig = Rig::new();
    let state = rig.state();
    assert_eq!(state.record(handed_over(1), now()).await.unwrap(), Err(Refusal::NoChallenge));
    state.record(challenged(1, digest("ek", 1)), now()).await.unwrap().unwrap();
    assert_eq!(state.record(handed_over(1), now()).await.unwrap(), Err(Refusal::NotCertified));
    state.record(certified(1, digest("ek", 1), 1), now()).await.unwrap().unwrap();
    let other = Act::HandedOver { build_id: build(1), job_sha256: digest("job", 1) };
    assert_eq!(state.record(other, now()).await.unwrap(), Err(Refusal::OtherJob));
    state.record(ended(1, "silent"), now()).await.unwrap().unwrap();
    assert_eq!(state.record(handed_over(1), now()).await.unwrap(), Err(Refusal::Ended));
    drop(state);
    assert_eq!(rig.verify().unwrap().handed_over, 0);
}

/// 1,000 machines at once, each asked for twice at the same time, by two authorities of one site.
#[tokio::test]
async fn a_thousand_enrolments_at_once() {
    const MACHINES: u32 = 1000;
    let rig = Rig::new();
    let states = [Arc::new(rig.state()), Arc::new(rig.state())];
    let mut machines = JoinSet::new();
    for number in 0..MACHINES {
        let states = states.clone();
        machines.spawn(async move {
            let ek = digest("ek", number);
            let mut granted = [0; 3];
            for (place, act) in
                [challenged(number, ek), certified(number, ek, 1), handed_over(number)].into_iter().enumerate()
            {
                let [one, two] = &states;
                let (one, two) = tokio::join!(one.record(act.clone(), now()), two.record(act, now()));
                granted[place] = [one.unwrap(), two.unwrap()].iter().filter(|answer| answer.is_ok()).count();
            }
            granted
        });
    }
    while let Some(granted) = machines.join_next().await {
        assert_eq!(granted.unwrap(), [1; 3]);
    }
    drop(states);
    let summary = rig.verify().unwrap();
    let count = u64::from(MACHINES);
    assert_eq!((summary.challenged, summary.certified, summary.handed_over), (count, count, count));
    assert_eq!((summary.refused, summary.boots, summary.entries), (3 * count, count, 6 * count + 1));
}

#[tokio::test]
async fn what_is_not_ours_is_not_used() {
    let rig = Rig::new();
    let file = rig.file();
    assert!(matches!(State::begin(&rig.site, now()), Err(StateError::Exists { .. })));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(State::open(&rig.site), Err(StateError::File { .. })));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    for (change, what) in [
        ("PRAGMA application_id = 1", "kind"),
        ("PRAGMA user_version = 1", "version"),
        ("DROP TRIGGER ledger_is_not_cut", "schema"),
        ("CREATE TRIGGER more AFTER INSERT ON boot BEGIN DELETE FROM boot; END", "schema"),
    ] {
        let rig = Rig::new();
        Connection::open(rig.file()).unwrap().execute_batch(change).unwrap();
        let error = State::open(&rig.site).unwrap_err();
        assert!(matches!(error, StateError::Foreign { what: found, .. } if found == what), "{change}: {error}");
    }
    fs::rename(&file, file.with_extension("old")).unwrap();
    std::os::unix::fs::symlink("attestor.old", &file).unwrap();
    assert!(matches!(State::open(&rig.site), Err(StateError::File { .. })));
    fs::remove_file(&file).unwrap();
    assert!(matches!(State::open(&rig.site), Err(StateError::Missing { .. })));
    State::begin(&rig.site, now()).unwrap();
    assert_eq!(rig.verify().unwrap().entries, 1);
    fs::write(&file, "not a database, and long enough to be taken for one if nobody looked at its first bytes")
        .unwrap();
    assert!(matches!(State::open(&rig.site), Err(StateError::Store { .. })));
}

/// The file refuses by itself what our code does not do.
#[test]
fn entries_are_neither_changed_nor_removed() {
    let rig = Rig::new();
    let connection = schema::open(&rig.file()).unwrap();
    for change in ["UPDATE ledger SET entry = x'00'", "DELETE FROM ledger"] {
        let error = connection.execute(change, []).unwrap_err().to_string();
        assert!(error.contains("append only"), "{error}");
    }
}

#[test]
fn entries_and_heads_are_read_in_one_spelling() {
    let rig = Rig::new();
    let mut entries = Vec::new();
    Archive::open(&rig.site)
        .unwrap()
        .entries(0, |_, bytes| {
            entries.push(bytes.to_vec());
            true
        })
        .unwrap();
    let entry: Entry = canonical::from_slice_exact(&entries[0]).unwrap();
    assert_eq!(entry.to_vec().unwrap(), entries[0]);
    let text = String::from_utf8(entries[0].clone()).unwrap();
    for other in
        [text.replace(':', ": "), text.replace("\"site\"", "\"more\":1,\"site\""), text.replace("demo", "Demo")]
    {
        assert!(canonical::from_slice_exact::<Entry>(other.as_bytes()).is_err(), "{other}");
    }
}

/// The newest trust list stays the newest, also after a restart; whoever changes the index of it is found out.
#[tokio::test]
async fn a_trust_list_is_never_older_than_the_one_before() {
    let rig = Rig::new();
    let list = |number: u32, text| Act::Trusted {
        number: number.into(),
        list_sha256: digest(text, number),
        reference_time: None,
    };
    let mut state = rig.state();
    assert_eq!(state.trusted().unwrap(), None);
    for restart in [false, true] {
        assert_eq!(state.record(list(7, "list"), now()).await.unwrap(), Ok(()));
        assert_eq!(state.record(list(6, "list"), now()).await.unwrap(), Err(Refusal::TrustListRolledBack));
        assert_eq!(state.record(list(7, "other"), now()).await.unwrap(), Err(Refusal::TrustListForked));
        assert_eq!(state.trusted().unwrap(), Some((7, digest("list", 7))));
        if !restart {
            drop(state);
            state = rig.state();
        }
    }
    assert_eq!(state.last().unwrap(), now());
    drop(state);
    rig.verify().unwrap();
    for change in ["UPDATE trusted SET number = 6", "DELETE FROM trusted"] {
        Connection::open(rig.file()).unwrap().execute(change, []).unwrap();
        assert!(matches!(rig.verify(), Err(ArchiveError::IndexTrusted)), "{change}");
    }
}
