//! The one thread that writes: it takes all acts that wait as one transaction, so that many machines share one fsync.
//!
//! In each transaction the end of the ledger is read again and held against its signed head, because another process may have
//! written meanwhile; then come the acts, each with its entry, and one head over them all.

use std::sync::Arc;

use kiln_formats::timestamp::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

use super::{Owner, Refusal, StateError, Work, rules};
use crate::ledger::{Act, Break, Chain, ENTRY_BYTES_MAX, Entry, Head, VERSION};

/// The most acts of one transaction: one that holds more has long paid for its fsync.
const BATCH_MAX: usize = 64;

type Answer = Result<Result<(), Refusal>, StateError>;

/// Writes what comes, until nobody is left to ask.
pub(super) fn write(mut connection: Connection, owner: &Owner, mut waiting: mpsc::Receiver<Work>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut works = vec![first];
        while works.len() < BATCH_MAX
            && let Ok(next) = waiting.try_recv()
        {
            works.push(next);
        }
        let written = batch(&mut connection, owner, &works);
        answer(works.into_iter().map(|work| work.answer), written);
    }
    if let Err(error) = super::close(connection) {
        // Every commit was synced; what was not done is tidying up.
        tracing::warn!(%error, "the state was not closed");
    }
}

/// Tells everyone; who has gone away meanwhile is told by the ledger.
fn answer(to: impl Iterator<Item = oneshot::Sender<Answer>>, written: Result<Vec<Result<(), Refusal>>, StateError>) {
    match written {
        Ok(answers) => to.zip(answers).for_each(|(to, answer)| drop(to.send(Ok(answer)))),
        Err(error) => to.for_each(|to| drop(to.send(Err(error.clone())))),
    }
}

/// One transaction: all of these acts with their entries, or none.
fn batch(connection: &mut Connection, owner: &Owner, works: &[Work]) -> Result<Vec<Result<(), Refusal>>, StateError> {
    let failed = StateError::store("write");
    let store = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
    let mut chain = end(&store, owner)?;
    let mut answers = Vec::new();
    for Work { act, now, .. } in works {
        let answer = rules::apply(&store, act, *now).map_err(&failed)?;
        let act = match answer {
            Ok(()) => act.clone(),
            Err(refusal) => Act::refused(act.build_id().cloned(), refusal.code(), "state"),
        };
        append(&store, &mut chain, act, *now)?;
        answers.push(answer);
    }
    sign(&store, owner, &chain)?;
    store.commit().map_err(&failed)?;
    Ok(answers)
}

/// Begins a ledger in an empty file.
pub(super) fn begin(connection: &mut Connection, owner: &Owner, now: Timestamp) -> Result<(), StateError> {
    let failed = StateError::store("write");
    let store = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
    let mut chain = Chain::new(owner.site.clone(), owner.key_sha256());
    let begun = Act::Begun {
        site: owner.site.clone(),
        trust_domain: owner.trust_domain.clone(),
        ledger_key_sha256: owner.key_sha256(),
    };
    append(&store, &mut chain, begun, now)?;
    sign(&store, owner, &chain)?;
    store.commit().map_err(&failed)
}

/// Checks that the last entry is the one under the signed head.
pub(super) fn check_end(connection: &mut Connection, owner: &Owner) -> Result<(), StateError> {
    let store = connection.transaction().map_err(StateError::store("read"))?;
    end(&store, owner).map(drop)
}

/// The end of the ledger, which is that of the signed head.
fn end(store: &Transaction<'_>, owner: &Owner) -> Result<Chain, StateError> {
    let failed = StateError::store("read");
    let head = store.query_row("SELECT envelope FROM head", [], |row| row.get::<_, Vec<u8>>(0));
    let head = head.optional().map_err(&failed)?.ok_or(Break::NoHead)?;
    let head = Head::verify(&head, &owner.site, &owner.key.verifying_key())?;
    let sql = "SELECT sequence, entry FROM ledger ORDER BY sequence DESC LIMIT 1";
    let last = store.query_row(sql, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)));
    let (sequence, entry) = last.optional().map_err(&failed)?.ok_or(Break::Empty)?;
    let mut chain = Chain::new(owner.site.clone(), owner.key_sha256());
    chain.resume(u64::try_from(sequence).unwrap_or(0), &entry);
    chain.ends_with(&head)?;
    Ok(chain)
}

/// Adds an entry. What is written is taken by the same fold that verifies it.
fn append(store: &Transaction<'_>, chain: &mut Chain, act: Act, now: Timestamp) -> Result<(), StateError> {
    let (sequence, previous_sha256) = chain.next();
    let entry = Entry { version: VERSION, sequence, time: now, previous_sha256, act };
    let bytes = entry.to_vec().map_err(|source| StateError::Encode { source: Arc::new(source) })?;
    if bytes.len() > ENTRY_BYTES_MAX {
        return Err(StateError::TooLarge { bytes: bytes.len() });
    }
    chain.take(sequence, &bytes)?;
    let place = i64::try_from(sequence).unwrap_or(i64::MAX);
    let sql = "INSERT INTO ledger (sequence, entry) VALUES (?1, ?2)";
    store.execute(sql, params![place, bytes]).map_err(StateError::store("write"))?;
    Ok(())
}

/// Signs the end of the ledger.
fn sign(store: &Transaction<'_>, owner: &Owner, chain: &Chain) -> Result<(), StateError> {
    let (sequence, entry_sha256) = chain.last().ok_or(Break::Empty)?;
    let head = Head { version: VERSION, site: owner.site.clone(), sequence, entry_sha256 };
    let envelope = head.sign(&owner.key).map_err(|source| StateError::Encode { source: Arc::new(source) })?;
    let sql =
        "INSERT INTO head (id, envelope) VALUES (0, ?1) ON CONFLICT (id) DO UPDATE SET envelope = excluded.envelope";
    store.execute(sql, params![envelope]).map_err(StateError::store("write"))?;
    Ok(())
}
