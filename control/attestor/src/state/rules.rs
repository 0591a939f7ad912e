//! Whether an act may be done, by what was done before. Nothing is written here but the index; the writer adds the entry.

use kiln_formats::digest::Sha256Digest;
use kiln_formats::names::Name;
use kiln_formats::timestamp::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::schema::fate;
use crate::certify::LEAF_SECONDS;
use crate::ledger::Act;

/// How long a challenge waits for its answer, in seconds: as long as the certificates live that it is answered with.
pub const CHALLENGE_SECONDS_MAX: u32 = LEAF_SECONDS;

/// Why an act may not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The nonce or the build id was drawn before.
    #[error("this nonce or this build id was given out before")]
    NotFresh,
    /// Nobody was challenged for this build.
    #[error("there is no challenge for this build")]
    NoChallenge,
    /// The challenge was answered before, or it is void.
    #[error("this challenge was answered before")]
    NonceReused,
    /// The challenge is older than [`CHALLENGE_SECONDS_MAX`], or younger than now.
    #[error("this challenge is older than {CHALLENGE_SECONDS_MAX} s, or the authority's clock went back")]
    ChallengeExpired,
    /// The machine that answers is not the one that was challenged.
    #[error("another machine was challenged")]
    OtherMachine,
    /// This boot of this machine was certified before.
    #[error("this boot was certified before: a machine is reset before it gets another job")]
    ResetCountSeen,
    /// The machine has no certificates.
    #[error("the machine of this build was not certified")]
    NotCertified,
    /// The build had its job.
    #[error("this build has had its job")]
    JobTaken,
    /// Another job than that of the challenge.
    #[error("the challenge named another job")]
    OtherJob,
    /// The build has ended.
    #[error("this build has ended")]
    Ended,
    /// The trust list is older than one that was taken before.
    #[error("this trust list is older than one that was taken before")]
    TrustListRolledBack,
    /// Two trust lists of one number.
    #[error("another trust list of the same number was taken before")]
    TrustListForked,
    /// A ledger begins once.
    #[error("the ledger has begun")]
    Begun,
}

impl Refusal {
    /// Stable; scripts may rely on it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotFresh => "nonce_not_fresh",
            Self::NoChallenge => "nonce_unknown",
            Self::NonceReused => "nonce_reused",
            Self::ChallengeExpired => "challenge_expired",
            Self::OtherMachine => "other_machine",
            Self::ResetCountSeen => "reset_count_seen",
            Self::NotCertified => "not_certified",
            Self::JobTaken => "job_taken",
            Self::OtherJob => "other_job",
            Self::Ended => "build_ended",
            Self::TrustListRolledBack => "trust_list_rolled_back",
            Self::TrustListForked => "trust_list_forked",
            Self::Begun => "ledger_begun",
        }
    }
}

/// A challenge as it is in the index.
struct Known {
    job_sha256: Sha256Digest,
    ek_sha256: Sha256Digest,
    issued: i64,
    fate: i64,
}

/// Checks an act and enters it into the index. After a refusal the index says that the challenge is void, and nothing else.
pub(super) fn apply(
    store: &Transaction<'_>,
    act: &Act,
    now: Timestamp,
) -> Result<Result<(), Refusal>, rusqlite::Error> {
    match act {
        Act::Begun { .. } => Ok(Err(Refusal::Begun)),
        Act::Trusted { number, list_sha256, .. } => trust(store, *number, *list_sha256),
        Act::Challenged { build_id, nonce, job_sha256, ek_sha256, .. } => {
            challenge(store, build_id, *nonce, *job_sha256, *ek_sha256, now)
        }
        Act::Refused { build_id, .. } => {
            if let Some(build_id) = build_id {
                void(store, build_id)?;
            }
            Ok(Ok(()))
        }
        Act::Certified { build_id, ek_sha256, reset_count, .. } => {
            let answer = certify(store, build_id, *ek_sha256, *reset_count, now)?;
            if answer.is_err() {
                void(store, build_id)?;
            }
            Ok(answer)
        }
        Act::HandedOver { build_id, job_sha256 } => hand_over(store, build_id, *job_sha256),
        Act::Ended { build_id, outcome } => end(store, build_id, outcome),
    }
}

/// Takes a list as the newest; the one that is the newest already is no change.
fn trust(
    store: &Transaction<'_>,
    number: u64,
    list_sha256: Sha256Digest,
) -> Result<Result<(), Refusal>, rusqlite::Error> {
    match trusted(store)? {
        Some((newest, _)) if number < newest => return Ok(Err(Refusal::TrustListRolledBack)),
        Some((newest, sha256)) if number == newest && sha256 != list_sha256 => {
            return Ok(Err(Refusal::TrustListForked));
        }
        _ => {}
    }
    store.execute(
        "INSERT INTO trusted (id, number, list_sha256) VALUES (0, ?1, ?2)
         ON CONFLICT (id) DO UPDATE SET number = excluded.number, list_sha256 = excluded.list_sha256",
        params![i64::try_from(number).unwrap_or(i64::MAX), list_sha256.as_bytes()],
    )?;
    Ok(Ok(()))
}

/// The newest list that was taken: its number and its digest.
pub(super) fn trusted(store: &Connection) -> Result<Option<(u64, Sha256Digest)>, rusqlite::Error> {
    let row = store.query_row("SELECT number, list_sha256 FROM trusted", [], |row| {
        let number: i64 = row.get(0)?;
        Ok((u64::try_from(number).unwrap_or(0), Sha256Digest::from_bytes(row.get(1)?)))
    });
    row.optional()
}

fn challenge(
    store: &Transaction<'_>,
    build_id: &Name,
    nonce: Sha256Digest,
    job_sha256: Sha256Digest,
    ek_sha256: Sha256Digest,
    now: Timestamp,
) -> Result<Result<(), Refusal>, rusqlite::Error> {
    let inserted = store.execute(
        "INSERT OR IGNORE INTO challenge (nonce, build_id, job_sha256, ek_sha256, issued, fate)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            nonce.as_bytes(),
            build_id.as_str(),
            job_sha256.as_bytes(),
            ek_sha256.as_bytes(),
            now.unix(),
            fate::OPEN
        ],
    )?;
    Ok(if inserted == 1 { Ok(()) } else { Err(Refusal::NotFresh) })
}

fn certify(
    store: &Transaction<'_>,
    build_id: &Name,
    ek_sha256: Sha256Digest,
    reset_count: u32,
    now: Timestamp,
) -> Result<Result<(), Refusal>, rusqlite::Error> {
    let Some(known) = known(store, build_id)? else { return Ok(Err(Refusal::NoChallenge)) };
    if known.fate != fate::OPEN {
        return Ok(Err(Refusal::NonceReused));
    }
    if !(0..=i64::from(CHALLENGE_SECONDS_MAX)).contains(&(now.unix() - known.issued)) {
        return Ok(Err(Refusal::ChallengeExpired));
    }
    if known.ek_sha256 != ek_sha256 {
        return Ok(Err(Refusal::OtherMachine));
    }
    let seen = store.execute(
        "INSERT OR IGNORE INTO boot (ek_sha256, reset_count) VALUES (?1, ?2)",
        params![ek_sha256.as_bytes(), reset_count],
    )?;
    if seen != 1 {
        return Ok(Err(Refusal::ResetCountSeen));
    }
    store.execute("UPDATE challenge SET fate = ?2 WHERE build_id = ?1", params![build_id.as_str(), fate::REDEEMED])?;
    Ok(Ok(()))
}

fn hand_over(
    store: &Transaction<'_>,
    build_id: &Name,
    job_sha256: Sha256Digest,
) -> Result<Result<(), Refusal>, rusqlite::Error> {
    let Some(known) = known(store, build_id)? else { return Ok(Err(Refusal::NoChallenge)) };
    if known.fate != fate::REDEEMED {
        return Ok(Err(Refusal::NotCertified));
    }
    if known.job_sha256 != job_sha256 {
        return Ok(Err(Refusal::OtherJob));
    }
    if has_ended(store, build_id)? {
        return Ok(Err(Refusal::Ended));
    }
    let inserted = store.execute("INSERT OR IGNORE INTO job (build_id) VALUES (?1)", params![build_id.as_str()])?;
    Ok(if inserted == 1 { Ok(()) } else { Err(Refusal::JobTaken) })
}

fn end(store: &Transaction<'_>, build_id: &Name, outcome: &str) -> Result<Result<(), Refusal>, rusqlite::Error> {
    if known(store, build_id)?.is_none() {
        return Ok(Err(Refusal::NoChallenge));
    }
    void(store, build_id)?;
    let inserted = store.execute(
        "INSERT OR IGNORE INTO ended (build_id, outcome) VALUES (?1, ?2)",
        params![build_id.as_str(), outcome],
    )?;
    Ok(if inserted == 1 { Ok(()) } else { Err(Refusal::Ended) })
}

/// A challenge that still waits for its answer waits for nothing any more.
fn void(store: &Transaction<'_>, build_id: &Name) -> Result<(), rusqlite::Error> {
    store.execute(
        "UPDATE challenge SET fate = ?2 WHERE build_id = ?1 AND fate = ?3",
        params![build_id.as_str(), fate::VOID, fate::OPEN],
    )?;
    Ok(())
}

fn known(store: &Transaction<'_>, build_id: &Name) -> Result<Option<Known>, rusqlite::Error> {
    let sql = "SELECT job_sha256, ek_sha256, issued, fate FROM challenge WHERE build_id = ?1";
    let known = store.query_row(sql, params![build_id.as_str()], |row| {
        Ok(Known {
            job_sha256: Sha256Digest::from_bytes(row.get(0)?),
            ek_sha256: Sha256Digest::from_bytes(row.get(1)?),
            issued: row.get(2)?,
            fate: row.get(3)?,
        })
    });
    known.optional()
}

fn has_ended(store: &Transaction<'_>, build_id: &Name) -> Result<bool, rusqlite::Error> {
    store.query_row("SELECT EXISTS (SELECT 1 FROM ended WHERE build_id = ?1)", params![build_id.as_str()], |row| {
        row.get(0)
    })
}
