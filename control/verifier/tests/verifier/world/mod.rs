//! A whole synthetic machine: it does what the appliance does, with known keys, and can be told to do any part of it wrongly.
//!
//! [`Plan::seal`] makes a bundle from a plan. Every part that the machine signs can be edited before it is signed, so that a test
//! shows which gate notices a machine that lies, not only one whose lies are badly signed. Test keys only.

mod certificates;
mod firmware;
mod host;
mod job;
mod sandbox;
mod statements;
mod steplog;
mod tpm;

use std::collections::BTreeMap;

use ed25519_dalek::{Signer as _, SigningKey};
use kiln_formats::canonical;
use kiln_formats::certificate::{Certificate, StepIdentity};
use kiln_formats::challenge::{Binding, Challenge, Closing};
use kiln_formats::decision::{Decision, Ruling};
use kiln_formats::digest::Sha256Digest;
use kiln_formats::dispatch::{Dispatched, Used};
use kiln_formats::dsse::{Envelope, pae};
use kiln_formats::endorsement::TpmClass;
use kiln_formats::event::Event;
use kiln_formats::host::Hosted;
use kiln_formats::job::{Access, CheckedJob, Job, Profile, Step, WorkspaceUse};
use kiln_formats::manifest::{File, Manifest, Outcome, path};
use kiln_formats::names::{self, Name};
use kiln_formats::pcr::{Bank, PcrValues};
use kiln_formats::provenance::{
    BuildDefinition, Builder, ExternalParameters, InternalParameters, Metadata, Provenance, RunDetails,
};
use kiln_formats::quote::Clock;
use kiln_formats::record::{Exit, InputSeen, StepRecord, Usage, WorkspaceSeen};
use kiln_formats::reference::Reference;
use kiln_formats::runtime_log::{BootId, RuntimeLog, Writer};
use kiln_formats::runtime_trace::RuntimeTrace;
use kiln_formats::statement::{ResourceDescriptor, Statement, Subject};
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust::{Configuration, Policy, PublicKey, TrustBundle};
use kiln_formats::verdict::Summary;
use kiln_verifier::{Anchors, Bundle, Content};
use serde::Serialize;

pub(crate) use certificates::{
    AUTHORITY_KEY, Issuer, Leaf, StepPlan, attestation_leaf, authority, authority_of, dispatch_leaf, ed25519_spki,
    issuer, root, statement_leaf,
};
pub(crate) use firmware::FirmwareEvent;
pub(crate) use host::{HOST_AK, host};
pub(crate) use job::job;
pub(crate) use tpm::{AK, QuoteDraft, ak_spki, ek_public, machine, public_area};

/// When the challenge was issued.
pub(crate) const ISSUED: i64 = 1_790_000_000;

/// Keys by purpose; each a seed.
pub(crate) const STATEMENT_KEY: u8 = 3;
pub(crate) const JOB_KEY: u8 = 4;
pub(crate) const DISPATCH_KEY: u8 = 5;
pub(crate) const ISSUER_KEY: u8 = 6;

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn digest(text: &str) -> Sha256Digest {
    Sha256Digest::of(text.as_bytes())
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(ISSUED + seconds).unwrap()
}

fn json(value: &impl Serialize) -> Vec<u8> {
    canonical::to_vec(value).unwrap()
}

pub(crate) fn sign(seed: u8, payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let signature = key(seed).sign(&pae(payload_type, payload)).to_bytes();
    Envelope::new(payload_type, payload, &signature).to_vec().unwrap()
}

type Edit<T> = Box<dyn Fn(&mut T)>;
type EditAt<T> = Box<dyn Fn(usize, &mut T)>;

/// What the machine does; by default everything right.
pub(crate) struct Plan {
    pub(crate) outcome: Outcome,
    pub(crate) ruling: Ruling,
    pub(crate) job: Job,
    pub(crate) job_key: u8,
    pub(crate) statement_key: u8,
    pub(crate) authority: Certificate,
    pub(crate) statement_leaf: Leaf,
    pub(crate) attestation_leaf: Leaf,
    pub(crate) dispatch_key: u8,
    pub(crate) dispatch_leaf: Leaf,
    pub(crate) issuer: Issuer,
    pub(crate) identity: EditAt<StepPlan>,
    pub(crate) policy: Policy,
    pub(crate) artifact: Vec<u8>,
    pub(crate) firmware: Vec<FirmwareEvent>,
    pub(crate) failed_exit: Exit,
    pub(crate) configuration: Edit<Configuration>,
    pub(crate) trust: Edit<TrustBundle>,
    pub(crate) binding: Edit<Binding>,
    /// What the authority takes the machine's answer for.
    pub(crate) dispatched: Edit<Binding>,
    /// What it says of the image.
    pub(crate) image_summary: Edit<Statement<Summary>>,
    /// As what the authority says that the TPM is enrolled.
    pub(crate) class: TpmClass,
    pub(crate) job_document: Edit<Vec<u8>>,
    pub(crate) decision: Edit<Decision>,
    pub(crate) record: EditAt<Statement<StepRecord>>,
    pub(crate) trace: EditAt<Statement<RuntimeTrace>>,
    pub(crate) uplink: Option<Sha256Digest>,
    pub(crate) log: EditAt<Vec<u8>>,
    pub(crate) provenance: Edit<Statement<Provenance>>,
    pub(crate) events: Edit<Vec<Event>>,
    pub(crate) files: Edit<BTreeMap<String, Vec<u8>>>,
    pub(crate) manifest: Edit<Manifest>,
    pub(crate) runtime_log: Edit<Vec<u8>>,
    pub(crate) closing: Edit<Closing>,
    pub(crate) first: Edit<QuoteDraft>,
    pub(crate) last: Edit<QuoteDraft>,
    /// What the host's TPM says, if the machine stands on one that quotes.
    pub(crate) host: Option<Edit<QuoteDraft>>,
}

pub(crate) fn policy() -> Policy {
    Policy {
        version: 1,
        number: 1,
        builder_ids: vec![names::BUILDER_FIRMWARE.into()],
        job_signers: vec![PublicKey(key(JOB_KEY).verifying_key())],
        profiles: vec![Profile::Strict, Profile::Loopback],
        image_producers: Vec::new(),
        machines: None,
        hosts: Vec::new(),
    }
}

/// What the person holds: nothing in here comes from a plan.
pub(crate) fn anchors() -> Anchors {
    Anchors { root: root(), policy: policy(), reference: reference(&Plan::default()), standing: None }
}

/// The reference values for what `plan`'s machine measures when it starts.
pub(crate) fn reference(plan: &Plan) -> Reference {
    let boot: Vec<Event> = plan.boot_events();
    let log = plan.runtime_log_of(&boot);
    firmware::reference(&plan.firmware, &RuntimeLog::parse(&log).unwrap(), image_sha256(), digest("init"))
}

pub(crate) fn image_sha256() -> Sha256Digest {
    digest("image")
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            outcome: Outcome::Built,
            ruling: Ruling::Allow,
            job: job(),
            job_key: JOB_KEY,
            statement_key: STATEMENT_KEY,
            authority: authority(),
            statement_leaf: statement_leaf(),
            attestation_leaf: attestation_leaf(),
            dispatch_key: DISPATCH_KEY,
            dispatch_leaf: dispatch_leaf(),
            issuer: issuer(),
            identity: Box::new(|_, _| {}),
            policy: policy(),
            artifact: b"!<arch>\n".to_vec(),
            firmware: firmware::events(),
            failed_exit: Exit::Code { code: 2 },
            uplink: None,
            configuration: Box::new(|_| {}),
            trust: Box::new(|_| {}),
            binding: Box::new(|_| {}),
            dispatched: Box::new(|_| {}),
            image_summary: Box::new(|_| {}),
            class: TpmClass::Virtual,
            job_document: Box::new(|_| {}),
            decision: Box::new(|_| {}),
            record: Box::new(|_, _| {}),
            trace: Box::new(|_, _| {}),
            log: Box::new(|_, _| {}),
            provenance: Box::new(|_| {}),
            events: Box::new(|_| {}),
            files: Box::new(|_| {}),
            manifest: Box::new(|_| {}),
            runtime_log: Box::new(|_| {}),
            closing: Box::new(|_| {}),
            first: Box::new(|_| {}),
            last: Box::new(|_| {}),
            host: None,
        }
    }
}

impl Plan {
    fn edited<T>(mut value: T, edit: &Edit<T>) -> T {
        edit(&mut value);
        value
    }

    pub(crate) fn configuration_bytes(&self) -> Vec<u8> {
        let configuration = Configuration {
            version: 1,
            site: name("test"),
            trust_domain: name("test.example"),
            builder_id: names::BUILDER_FIRMWARE.into(),
        };
        json(&Self::edited(configuration, &self.configuration))
    }

    pub(crate) fn trust_bytes(&self) -> Vec<u8> {
        let trust = TrustBundle { version: 1, root: root().to_pem().unwrap(), policy: self.policy.clone() };
        json(&Self::edited(trust, &self.trust))
    }

    pub(crate) fn job_bytes(&self) -> Vec<u8> {
        Self::edited(sign(self.job_key, names::PAYLOAD_JOB, &json(&self.job)), &self.job_document)
    }

    pub(crate) fn challenge(&self) -> Challenge {
        Challenge {
            version: 1,
            build_id: name("00112233445566778899aabbccddeeff"),
            nonce: digest("nonce"),
            job_sha256: Sha256Digest::of(&self.job_bytes()),
            image_sha256: image_sha256(),
            issued: at(0),
        }
    }

    pub(crate) fn binding(&self) -> Binding {
        let [statement_key_sha256, issuer_key_sha256] =
            [self.statement_key, self.issuer.key].map(|seed| PublicKey(key(seed).verifying_key()).sha256());
        let (challenge, endorsement_key_sha256) = (self.challenge(), machine());
        let binding = Binding { challenge, statement_key_sha256, issuer_key_sha256, endorsement_key_sha256 };
        Self::edited(binding, &self.binding)
    }

    pub(crate) fn boot_events(&self) -> Vec<Event> {
        let begin = [Event::Init(digest("init"))].into_iter().chain(self.uplink.map(Event::Uplink));
        let given = [
            Event::Configuration(Sha256Digest::of(&self.configuration_bytes())),
            Event::Trust(Sha256Digest::of(&self.trust_bytes())),
        ];
        begin.chain(given).collect()
    }

    pub(crate) fn runtime_log_of(&self, events: &[Event]) -> Vec<u8> {
        let boot_id = BootId::from_kernel_text("00112233-4455-6677-8899-aabbccddeeff\n").unwrap();
        let mut writer = Writer::new(boot_id, &[Bank::Sha256]).unwrap();
        (0u64..).zip(events).flat_map(|(at, event)| writer.entry(event, at * 1000).unwrap().bytes).collect()
    }

    pub(crate) fn firmware_log(&self) -> Vec<u8> {
        firmware::log(&self.firmware)
    }

    /// The registers after the firmware and these events.
    pub(crate) fn values(&self, events: &[Event]) -> PcrValues {
        let mut values = firmware::values(&self.firmware);
        let log = RuntimeLog::parse(&self.runtime_log_of(events)).unwrap();
        log.fold_into(&mut values, events.len());
        values
    }

    pub(crate) fn first_quote(&self) -> QuoteDraft {
        let quote = QuoteDraft {
            qualifying: Sha256Digest::of(&json(&self.binding())),
            pcr_digest: self.values(&self.boot_events()).quote_digest(),
            clock_ms: 1000,
            ..QuoteDraft::default()
        };
        Self::edited(quote, &self.first)
    }

    fn sign_statement<T: Serialize>(seed: u8, statement: &T) -> (Vec<u8>, Sha256Digest) {
        let payload = json(statement);
        (sign(seed, names::PAYLOAD_STATEMENT, &payload), Sha256Digest::of(&payload))
    }

    /// The authority's word on this machine.
    fn dispatch(&self, quote: &[u8]) -> [(&'static str, Vec<u8>); 3] {
        let binding = Self::edited(self.binding(), &self.dispatched);
        let configuration = canonical::from_slice_exact::<Configuration>(&self.configuration_bytes());
        let builder_id = configuration.map_or_else(|_| names::BUILDER_FIRMWARE.into(), |read| read.builder_id);
        let policy_sha256 = self.policy.sha256().unwrap();
        let hosted = self.host_file().map(|file| Hosted {
            endorsement_key_sha256: host().endorsement_key_sha256,
            file_sha256: Sha256Digest::of(&file),
            clock: Clock { clock_ms: 0, reset_count: 0, restart_count: 0, safe: true },
        });
        let said = Dispatched { binding: &binding, quote, builder_id: &builder_id, policy_sha256, hosted };
        let sign = |payload: Vec<u8>| sign(self.dispatch_key, names::PAYLOAD_STATEMENT, &payload);
        let (reference_sha256, provenance_sha256) = (digest("reference"), digest("provenance"));
        let used = Used { reference_sha256, provenance_sha256, class: self.class };
        let image = Self::edited(said.image(used), &self.image_summary);
        [
            (path::DISPATCH, sign(json(&said.attestation(used).unwrap()))),
            (path::DISPATCH_SUMMARY, sign(json(&said.summary(used).unwrap()))),
            (path::DISPATCH_IMAGE, sign(json(&image))),
        ]
    }

    fn host_file(&self) -> Option<Vec<u8>> {
        let edit = self.host.as_ref()?;
        Some(host::file(&Self::edited(host::quote_for(&json(&self.binding())), edit)))
    }

    /// Does everything that the appliance does, in its order, and yields what it hands out.
    pub(crate) fn seal(&self) -> Bundle {
        let mut files = BTreeMap::new();
        let mut put = |path: &str, bytes: Vec<u8>| files.insert(path.to_owned(), bytes);
        put(path::FIRMWARE_LOG, self.firmware_log());
        put(path::CONFIGURATION, self.configuration_bytes());
        put(path::BINDING, json(&self.binding()));
        let first = self.first_quote();
        put(path::FIRST_QUOTE, first.attest());
        put(path::FIRST_SIGNATURE, first.signature());
        put(path::AUTHORITY, self.authority.to_pem().unwrap().into_bytes());
        put(path::STATEMENT_KEY, self.statement_leaf.issue().to_pem().unwrap().into_bytes());
        put(path::ATTESTATION_KEY, self.attestation_leaf.issue().to_pem().unwrap().into_bytes());
        put(path::ISSUER, self.issuer.issue().to_pem().unwrap().into_bytes());
        put(path::DISPATCH_KEY, self.dispatch_leaf.issue().to_pem().unwrap().into_bytes());
        if let Some(file) = self.host_file() {
            put(path::HOST_QUOTE, file);
        }
        for (file, bytes) in self.dispatch(&first.attest()) {
            put(file, bytes);
        }

        let job_bytes = self.job_bytes();
        let job_sha256 = Sha256Digest::of(&job_bytes);
        let decision = Decision {
            version: 1,
            build_id: self.challenge().build_id,
            job_sha256,
            trust_sha256: Sha256Digest::of(&self.trust_bytes()),
            time: at(1),
            verdict: self.ruling.clone(),
        };
        let payload = json(&Self::edited(decision, &self.decision));
        let decision_sha256 = Sha256Digest::of(&payload);
        put(path::DECISION, sign(self.statement_key, names::PAYLOAD_DECISION, &payload));
        put(path::JOB, job_bytes);
        let mut events = self.boot_events();
        events.extend([Event::Job(job_sha256), Event::Decision(decision_sha256)]);
        if self.ruling == Ruling::Allow {
            self.run(decision_sha256, &mut events, &mut files);
        }
        (self.files)(&mut files);
        self.close(events, files)
    }

    fn run(&self, decision_sha256: Sha256Digest, events: &mut Vec<Event>, files: &mut BTreeMap<String, Vec<u8>>) {
        let job = CheckedJob::new(self.job.clone()).unwrap();
        events.extend(job.job().input.iter().map(|input| Event::Input(input.name.clone(), input.sha256)));
        let mut previous = decision_sha256;
        let mut byproducts = Vec::new();
        let steps: Vec<&Step> = job.steps().collect();
        for (at, step) in steps.iter().enumerate() {
            let failed = self.outcome == Outcome::StepFailed && at + 1 == steps.len();
            let mut log = steplog::written(at as u64);
            (self.log)(at, &mut log);
            let mut statement = self.record_of(at as u32, step, previous, &log);
            if failed {
                statement.predicate.exit = self.failed_exit.clone();
            }
            let mut trace = sandbox::trace(&self.challenge().build_id, step, statement.subject.clone());
            (self.trace)(at, &mut trace);
            statement.predicate.trace = Sha256Digest::of(&json(&trace));
            (self.record)(at, &mut statement);
            let ran = &statement.predicate;
            let job_sha256 = Sha256Digest::of(&self.job_bytes());
            let identity = StepIdentity::of(job_sha256, step, ran.image_root_hash, &ran.enforced).unwrap();
            let mut identity = StepPlan::new(at, step.name.clone(), identity);
            (self.identity)(at, &mut identity);
            let (trace, trace_sha256) = Self::sign_statement(identity.signer, &trace);
            let (envelope, sha256) = Self::sign_statement(identity.signer, &statement);
            files.insert(path::identity(at as u32, &step.name), identity.issue());
            events.push(Event::StepBegin(step.name.clone(), step.digest().unwrap()));
            events.push(Event::StepTrace(step.name.clone(), trace_sha256));
            events.push(Event::StepEnd(step.name.clone(), sha256));
            byproducts.push(ResourceDescriptor::new(path::record(at as u32, &step.name), sha256));
            byproducts.push(ResourceDescriptor::new(path::trace(at as u32, &step.name), trace_sha256));
            byproducts.push(ResourceDescriptor::new(path::log(at as u32, &step.name), Sha256Digest::of(&log)));
            files.insert(path::record(at as u32, &step.name), envelope);
            files.insert(path::trace(at as u32, &step.name), trace);
            files.insert(path::log(at as u32, &step.name), log);
            previous = sha256;
        }
        if self.outcome == Outcome::Built {
            let output = &job.job().output[0].name;
            let sha256 = Sha256Digest::of(&self.artifact);
            let statement = Self::edited(self.provenance_of(output, sha256, byproducts), &self.provenance);
            let (envelope, provenance_sha256) = Self::sign_statement(self.statement_key, &statement);
            events.push(Event::Output(output.clone(), sha256));
            events.push(Event::Provenance(provenance_sha256));
            files.insert(path::artifact(output), self.artifact.clone());
            files.insert(path::artifact_statements(output), [&envelope[..], b"\n"].concat());
            files.insert(path::PROVENANCE.into(), envelope);
        }
    }

    fn close(&self, mut events: Vec<Event>, files: BTreeMap<String, Vec<u8>>) -> Bundle {
        let mut bundle = Bundle::new();
        let mut manifest = Manifest {
            version: 1,
            build_id: self.challenge().build_id,
            outcome: self.outcome,
            finished: at(30),
            files: Vec::new(),
        };
        for (path, bytes) in files {
            let (sha256, size) = (Sha256Digest::of(&bytes), bytes.len() as u64);
            manifest.files.push(File { path: path.clone(), sha256, size });
            let is_artifact = path.starts_with("artifacts/") && !path.ends_with(".intoto.jsonl");
            bundle.insert(path, if is_artifact { Content::Digest { sha256, size } } else { Content::Bytes(bytes) });
        }
        (self.manifest)(&mut manifest);
        let payload = json(&manifest);
        let envelope = sign(self.statement_key, names::PAYLOAD_MANIFEST, &payload);
        events.extend([Event::Manifest(Sha256Digest::of(&payload)), Event::Final]);
        (self.events)(&mut events);
        let log = Self::edited(self.runtime_log_of(&events), &self.runtime_log);
        let closing = Closing {
            version: 1,
            build_id: self.challenge().build_id,
            manifest_sha256: Sha256Digest::of(&payload),
            manifest_envelope_sha256: Sha256Digest::of(&envelope),
            runtime_log_sha256: Sha256Digest::of(&log),
        };
        let closing = json(&Self::edited(closing, &self.closing));
        let last = QuoteDraft {
            qualifying: Sha256Digest::of(&closing),
            pcr_digest: self.values(&events).quote_digest(),
            clock_ms: 9000,
            ..QuoteDraft::default()
        };
        let last = Self::edited(last, &self.last);
        for (path, bytes) in [
            (path::MANIFEST, envelope),
            (path::RUNTIME_LOG, log),
            (path::CLOSING, closing),
            (path::LAST_QUOTE, last.attest()),
            (path::LAST_SIGNATURE, last.signature()),
        ] {
            bundle.insert(path, Content::Bytes(bytes));
        }
        bundle
    }
}
