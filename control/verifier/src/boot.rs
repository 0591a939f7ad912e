//! Gate 3: is it our image, booted as predicted?
//!
//! Both logs, replayed, give exactly what the TPM quoted; what they say is what the image must yield under the configuration in
//! the bundle and the trust bundle that follows from the anchors. A quote carries one digest over all registers, so the logs
//! are first held against the reference values, which names what differs, then against the quote, which proves the logs. And the
//! authority said, before it handed out the job, that it checked this start, and who made the image.

mod compare;
mod dispatch;
mod events;
mod logs;

use std::collections::BTreeSet;

use kiln_formats::canonical;
use kiln_formats::certificate::SpiffeId;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::endorsement::TpmClass;
use kiln_formats::host::Hosted;
use kiln_formats::manifest::path;
use kiln_formats::quote::Quote;
use kiln_formats::trust::{self, Configuration, TrustBundle};

use crate::evidence::{bytes, certificate};
use crate::finding::{Finding, Findings, Gate};
use crate::host;
use crate::quote::QuotedEvidence;
use crate::standing;
use crate::{Anchors, Bundle};
use events::BootEvents;
pub(crate) use events::{JobEvents, StepEvents};
use logs::Logs;

const GATE: Gate = Gate::Boot;

/// Holding one says: the published image ran, with the site's configuration and trust bundle, and measured `events` in order.
#[derive(Debug)]
pub(crate) struct BootedEvidence<'a> {
    pub(crate) quoted: QuotedEvidence<'a>,
    pub(crate) configuration: Configuration,
    /// As what the site enrols its TPM; the class that the builder id stands for.
    pub(crate) machine_class: TpmClass,
    /// What its host quoted for this build, if the builder id knows of one.
    pub(crate) hosted: Option<Hosted>,
    pub(crate) trust_sha256: Sha256Digest,
    pub(crate) events: JobEvents,
    /// The keys of all roles, as SubjectPublicKeyInfo: none has two.
    pub(crate) keys: BTreeSet<Vec<u8>>,
}

/// What was given to the machine before its first quote, and what that quote says.
pub(crate) struct Start<'a> {
    pub(crate) firmware_log: Option<&'a [u8]>,
    pub(crate) runtime_log: &'a [u8],
    pub(crate) configuration: &'a [u8],
    pub(crate) image_sha256: Sha256Digest,
    pub(crate) first: &'a Quote,
}

/// Holding one says: the machine started as predicted, up to its first quote.
pub(crate) struct Started {
    pub(crate) configuration: Configuration,
    trust_sha256: Sha256Digest,
}

/// Checks the start and the whole log of the bundle.
pub(crate) fn check<'a>(quoted: QuotedEvidence<'a>, anchors: &Anchors) -> Result<BootedEvidence<'a>, Findings> {
    let bundle = quoted.whole.bundle;
    let start = Start {
        firmware_log: bundle.bytes(path::FIRMWARE_LOG),
        runtime_log: bytes(bundle, GATE, path::RUNTIME_LOG)?,
        configuration: bytes(bundle, GATE, path::CONFIGURATION)?,
        image_sha256: quoted.whole.binding.challenge.image_sha256,
        first: &quoted.first,
    };
    let logs = Logs::read(start.firmware_log, start.runtime_log)?;
    let (boot, events) = events::whole(logs.runtime.records())?;
    let started = check_logs(&start, &logs, boot, anchors)?;
    if logs.values(logs.runtime.records().len()).quote_digest() != quoted.last.pcr_digest {
        return Err(unexplained(path::LAST_QUOTE).into());
    }
    if events.manifest != quoted.whole.manifest_sha256 {
        let reason = "the machine measured another manifest than this one";
        return Err(Finding::new(GATE, "manifest_event", path::RUNTIME_LOG, reason).into());
    }
    check_names(&quoted, &started.configuration)?;
    let hosted = check_host(&quoted, &started.configuration, anchors)?;
    let machine_class = dispatch::check(&quoted, &started.configuration, &anchors.policy, hosted)?;
    let host = hosted.map(|hosted| hosted.endorsement_key_sha256);
    let keys = check_roles(quoted.whole.bundle, anchors, host)?;
    let Started { configuration, trust_sha256 } = started;
    Ok(BootedEvidence { quoted, configuration, machine_class, hosted, trust_sha256, events, keys })
}

/// Checks a machine that has only just started: its runtime log ends with the boot part.
pub(crate) fn check_start(start: &Start<'_>, anchors: &Anchors) -> Result<Started, Findings> {
    let logs = Logs::read(start.firmware_log, start.runtime_log)?;
    let boot = events::boot_part(logs.runtime.records())?;
    check_logs(start, &logs, boot, anchors)
}

fn check_logs(start: &Start<'_>, logs: &Logs<'_>, boot: BootEvents, anchors: &Anchors) -> Result<Started, Findings> {
    logs.check_registers()?;
    let configuration = check_configuration(start.configuration, boot, anchors)?;
    let machine = compare::machine(&anchors.reference, &configuration.builder_id)?;
    let mut findings = match compare::check(machine, logs) {
        Ok(()) => Vec::new(),
        Err(Findings(findings)) => findings,
    };
    if boot.init != anchors.reference.init_sha256 {
        let reason = format!("PID 1 is {}, the image's is {}", boot.init, anchors.reference.init_sha256);
        findings.push(Finding::new(GATE, "init", "PCR 15: init", reason));
    }
    if start.image_sha256 != anchors.reference.image_sha256 {
        let reason = "the challenge names another image than the reference values are of";
        findings.push(Finding::new(GATE, "image", path::BINDING, reason));
    }
    if !findings.is_empty() {
        return Err(Findings(findings));
    }
    check_trust(boot, anchors)?;
    if let Some(standing) = &anchors.standing {
        standing::start(&standing.list, &anchors.policy, &anchors.reference)?;
    }
    if logs.values(logs.boot_events()).quote_digest() != start.first.pcr_digest {
        return Err(unexplained(path::FIRST_QUOTE).into());
    }
    Ok(Started { configuration, trust_sha256: boot.trust })
}

fn unexplained(quote: &str) -> Finding {
    let reason = "the logs do not lead to the values that the TPM quoted: a register holds a value that no event explains, or \
                  an event is missing, added or altered";
    Finding::new(GATE, "replay_differs", quote, reason)
}

fn check_configuration(bytes: &[u8], boot: BootEvents, anchors: &Anchors) -> Result<Configuration, Finding> {
    let wrong = |code, reason: &str| Finding::new(GATE, code, path::CONFIGURATION, reason);
    if Sha256Digest::of(bytes) != boot.configuration {
        return Err(wrong("configuration", "the machine measured another configuration (PCR 15 event 1)"));
    }
    let configuration: Configuration =
        canonical::from_slice_exact(bytes).map_err(|e| wrong("configuration", &e.to_string()))?;
    if configuration.version != trust::VERSION {
        return Err(wrong("configuration", "its version is not known"));
    }
    if !anchors.policy.builder_ids.contains(&configuration.builder_id) {
        return Err(wrong("builder_id", "the policy does not allow this kind of machine"));
    }
    Ok(configuration)
}

/// The machine measured the trust bundle that follows from the person's own root and policy. The bundle itself does not travel
/// with the evidence: a root never does.
fn check_trust(boot: BootEvents, anchors: &Anchors) -> Result<(), Finding> {
    let wrong = |reason: String| Finding::new(GATE, "trust", "PCR 15 event 2: trust", reason);
    let root = anchors.root.to_pem().map_err(|e| wrong(e.to_string()))?;
    let expected = TrustBundle::new(root, anchors.policy.clone());
    let expected = canonical::to_vec(&expected).map_err(|e| wrong(e.to_string()))?;
    if Sha256Digest::of(&expected) != boot.trust {
        return Err(wrong("the machine was given another root or policy than these".to_owned()));
    }
    Ok(())
}

/// The machine's certificates are in the name of this machine and this build at this site.
fn check_names(quoted: &QuotedEvidence<'_>, configuration: &Configuration) -> Result<(), Finding> {
    let build_id = &quoted.whole.binding.challenge.build_id;
    let machine = &quoted.whole.binding.endorsement_key_sha256;
    let statement = SpiffeId::statement(&configuration.trust_domain, machine, build_id);
    let attestation = SpiffeId::attestation(&configuration.trust_domain, machine, build_id);
    for (expected, found, file) in [
        (statement, &quoted.whole.statement.id, path::STATEMENT_KEY),
        (attestation, &quoted.attestation.id, path::ATTESTATION_KEY),
    ] {
        if expected.as_ref() != Ok(found) {
            let reason = format!("it is in the name of {found}, not of this machine and build at this site");
            return Err(Finding::new(GATE, "certificate_name", file, reason));
        }
    }
    if !quoted.whole.issuer.is_of(machine, build_id) {
        let reason = "it is in the name of another machine or build";
        return Err(Finding::new(GATE, "certificate_name", path::ISSUER, reason));
    }
    Ok(())
}

/// The machine's host quoted for this build, if the machine was told that it stands on one that does.
fn check_host(
    quoted: &QuotedEvidence<'_>,
    configuration: &Configuration,
    anchors: &Anchors,
) -> Result<Option<Hosted>, Finding> {
    let (bundle, list) = (quoted.whole.bundle, anchors.standing.as_ref().map(|standing| &standing.list));
    let file = bundle.get(path::HOST_QUOTE).map(|_| bytes(bundle, GATE, path::HOST_QUOTE)).transpose()?;
    host::check(&configuration.builder_id, &anchors.policy, list, file, &quoted.whole.binding)
}

/// The keys of root, host, authority and machine, of which none has two roles.
pub(crate) fn check_roles(
    bundle: &Bundle,
    anchors: &Anchors,
    host: Option<Sha256Digest>,
) -> Result<BTreeSet<Vec<u8>>, Finding> {
    let wrong = |file: &str, e: &dyn std::fmt::Display| Finding::new(GATE, "certificate", file, e.to_string());
    let mut keys = BTreeSet::from([anchors.root.spki().map_err(|e| wrong("root", &e))?]);
    for host in anchors.policy.hosts.iter().filter(|known| Some(known.endorsement_key_sha256) == host) {
        keys.insert(
            host.spki().map_err(|fault| Finding::new(GATE, fault.code(), path::HOST_QUOTE, fault.to_string()))?,
        );
    }
    for file in [path::AUTHORITY, path::STATEMENT_KEY, path::ATTESTATION_KEY, path::ISSUER, path::DISPATCH_KEY] {
        let key = certificate(bundle, GATE, file)?.spki().map_err(|e| wrong(file, &e))?;
        if !keys.insert(key) {
            return Err(Finding::new(GATE, "key_reused", file, "its key has another role as well"));
        }
    }
    Ok(keys)
}
