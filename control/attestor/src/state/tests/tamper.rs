//! Someone with the file and without the key changes it. Each change is noticed, and the place is named.

use rusqlite::params;

use super::*;
use crate::ledger::Break;

/// Six entries: a beginning, a build of four, and a challenge.
async fn kept() -> Rig {
    let rig = Rig::new();
    let state = rig.state();
    whole(&state, 1).await;
    state.record(challenged(2, digest("ek", 2)), now()).await.unwrap().unwrap();
    drop(state);
    rig
}

/// The file without its triggers, which whoever tampers does not ask.
fn open(rig: &Rig) -> Connection {
    let connection = Connection::open(rig.file()).unwrap();
    connection.execute_batch("DROP TRIGGER ledger_is_not_changed; DROP TRIGGER ledger_is_not_cut").unwrap();
    connection
}

/// Puts the triggers back: a missing one would be noticed before anything else.
fn close(connection: &Connection) {
    for trigger in schema::SCHEMA.lines().filter(|line| line.starts_with("CREATE TRIGGER")) {
        connection.execute_batch(trigger).unwrap();
    }
}

fn entry(connection: &Connection, sequence: u64) -> Vec<u8> {
    let sql = "SELECT entry FROM ledger WHERE sequence = ?1";
    connection.query_row(sql, [i64::try_from(sequence).unwrap()], |row| row.get(0)).unwrap()
}

fn put(connection: &Connection, sequence: u64, entry: &[u8]) {
    let sql = "INSERT OR REPLACE INTO ledger (sequence, entry) VALUES (?1, ?2)";
    connection.execute(sql, params![i64::try_from(sequence).unwrap(), entry]).unwrap();
}

/// An entry with something else in it, in good form.
fn altered(bytes: &[u8], change: impl FnOnce(&mut Entry)) -> Vec<u8> {
    let mut entry: Entry = canonical::from_slice_exact(bytes).unwrap();
    change(&mut entry);
    entry.to_vec().unwrap()
}

/// Makes every entry from `first` on follow the one before it again, as someone would who knows the format.
fn relink(connection: &Connection, first: u64, last: u64) {
    for sequence in first..=last {
        let previous = Sha256Digest::of(&entry(connection, sequence - 1));
        let bytes = altered(&entry(connection, sequence), |entry| {
            entry.previous_sha256 = previous;
            entry.sequence = sequence;
        });
        put(connection, sequence, &bytes);
    }
}

fn run(connection: &Connection, sql: &str) {
    connection.execute(sql, []).unwrap();
}

fn later(entry: &mut Entry) {
    entry.time = entry.time.plus_seconds(1);
}

#[tokio::test]
async fn every_change_of_the_ledger_is_noticed_and_named() {
    type Change = fn(&Connection);
    let table: [(&str, Change, &str); 15] = [
        ("dropped", |c| run(c, "DELETE FROM ledger WHERE sequence = 2"), "entry 2 is missing"),
        ("the first dropped", |c| run(c, "DELETE FROM ledger WHERE sequence = 0"), "entry 0 is missing"),
        ("emptied", |c| run(c, "DELETE FROM ledger"), "entry 0 is missing: the ledger is empty"),
        ("altered", |c| put(c, 3, &altered(&entry(c, 3), later)), "entry 3 was changed"),
        ("the last altered", |c| put(c, 5, &altered(&entry(c, 5), later)), "entry 5 was changed"),
        (
            "altered, and all behind it",
            |c| {
                put(c, 3, &altered(&entry(c, 3), later));
                relink(c, 4, 5);
            },
            "entry 5 was changed",
        ),
        (
            "one byte",
            |c| {
                let mut bytes = entry(c, 1);
                bytes[40] ^= 1;
                put(c, 1, &bytes);
            },
            "entry 1 was changed",
        ),
        (
            "another spelling",
            |c| put(c, 1, &[entry(c, 1).as_slice(), b" "].concat()),
            "entry 1 was changed: it is not in the form",
        ),
        ("too large", |c| put(c, 1, &vec![b' '; 5000]), "entry 1 was changed: it is larger"),
        (
            "swapped",
            |c| {
                let (two, three) = (entry(c, 2), entry(c, 3));
                put(c, 2, &three);
                put(c, 3, &two);
            },
            "entry 2 was moved",
        ),
        (
            "swapped, and renumbered",
            |c| {
                let (two, three) = (entry(c, 2), entry(c, 3));
                put(c, 2, &altered(&three, |entry| entry.sequence = 2));
                put(c, 3, &altered(&two, |entry| entry.sequence = 3));
            },
            "entry 1 was changed or replaced",
        ),
        (
            "inserted",
            |c| {
                for sequence in (3..=5).rev() {
                    put(c, sequence + 1, &entry(c, sequence));
                }
                relink(c, 3, 6);
            },
            "entry 6 was added",
        ),
        (
            "appended",
            |c| {
                put(c, 6, &entry(c, 5));
                relink(c, 6, 6);
            },
            "entry 6 was added",
        ),
        ("cut", |c| run(c, "DELETE FROM ledger WHERE sequence > 3"), "entries 4 to 5 are gone: the signed head"),
        ("cut to the beginning", |c| run(c, "DELETE FROM ledger WHERE sequence > 0"), "entries 1 to 5 are gone"),
    ];
    for (name, change, said) in table {
        let rig = kept().await;
        let connection = open(&rig);
        change(&connection);
        close(&connection);
        drop(connection);
        let error = rig.verify().unwrap_err();
        assert!(error.to_string().starts_with(said), "{name}: {error}");
        // Where the end itself is touched, nothing is granted on it.
        let ends = [
            "emptied",
            "the last altered",
            "altered, and all behind it",
            "inserted",
            "appended",
            "cut",
            "cut to the beginning",
        ];
        let opened = State::open(&rig.site);
        assert_eq!(matches!(opened, Err(StateError::Ledger { .. })), ends.contains(&name), "{name}: {opened:?}");
    }
}

#[tokio::test]
async fn a_head_is_this_site_s_and_signed_by_its_authority() {
    let rig = kept().await;
    let envelope = Archive::open(&rig.site).unwrap().head().unwrap().1;
    let other = kept().await;
    let swap = |rig: &Rig, envelope: &[u8]| {
        let connection = Connection::open(rig.file()).unwrap();
        connection.execute("UPDATE head SET envelope = ?1", [envelope]).unwrap();
    };
    swap(&other, &envelope);
    assert!(matches!(other.verify(), Err(ArchiveError::Ledger(Break::HeadSignature { .. }))));
    // The whole file of another site.
    fs::copy(rig.file(), other.file()).unwrap();
    assert!(matches!(other.verify(), Err(ArchiveError::Ledger(Break::Beginning { sequence: 0, .. }))));
    assert!(matches!(State::open(&other.site), Err(StateError::Ledger { .. })));
    // An older head of the same ledger; none at all.
    let (old, state) = (envelope, rig.state());
    state.record(challenged(3, digest("ek", 3)), now()).await.unwrap().unwrap();
    drop(state);
    swap(&rig, &old);
    let error = rig.verify().unwrap_err();
    assert!(error.to_string().starts_with("entry 6 was added"), "{error}");
    Connection::open(rig.file()).unwrap().execute("DELETE FROM head", []).unwrap();
    assert!(matches!(rig.verify(), Err(ArchiveError::Ledger(Break::NoHead))));
}

/// An older file put back is whole in itself. Only what somebody kept tells.
#[tokio::test]
async fn an_older_ledger_is_found_out_by_a_kept_head_and_by_nothing_else() {
    let rig = kept().await;
    let old = fs::read(rig.file()).unwrap();
    whole(&rig.state(), 3).await;
    let newer = Archive::open(&rig.site).unwrap().head().unwrap().0;
    fs::write(rig.file(), old).unwrap();
    rig.verify().unwrap();
    let error = Archive::open(&rig.site).unwrap().verify(Some(&newer), |_| {}).unwrap_err();
    assert_eq!(error.to_string(), "entries 6 to 9 are gone: the kept head names entry 9");
    // Written on from there, it is another ledger.
    let state = rig.state();
    for number in 4..7 {
        whole(&state, number).await;
    }
    drop(state);
    rig.verify().unwrap();
    let error = Archive::open(&rig.site).unwrap().verify(Some(&newer), |_| {}).unwrap_err();
    assert!(error.to_string().starts_with("entry 9 was changed or replaced"), "{error}");
}

/// The index is what questions are answered from: it says what the ledger says, and no more.
#[tokio::test]
async fn an_index_that_forgets_or_invents_is_noticed() {
    for (change, said) in [
        ("UPDATE challenge SET fate = 0", "boots does not say what entry 2 says"),
        ("UPDATE challenge SET fate = 1", "certified challenges has 2 rows, and the ledger speaks of 1"),
        ("UPDATE challenge SET ek_sha256 = zeroblob(32) WHERE fate = 0", "challenges does not say what entry 5 says"),
        ("DELETE FROM challenge WHERE fate = 0", "challenges does not say what entry 5 says"),
        ("DELETE FROM job", "jobs does not say what entry 3 says"),
        ("DELETE FROM ended", "ends does not say what entry 4 says"),
        ("INSERT INTO boot VALUES (zeroblob(32), 1)", "boots has 2 rows, and the ledger speaks of 1"),
    ] {
        let rig = kept().await;
        Connection::open(rig.file()).unwrap().execute(change, []).unwrap();
        let error = rig.verify().unwrap_err().to_string();
        assert!(error.ends_with(said), "{change}: {error}");
    }
}
