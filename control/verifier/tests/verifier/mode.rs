//! A machine of one mode never passes for one of another: the policy refuses its builder id, and the root refuses it another's name.

use kiln_formats::endorsement::TpmClass;
use kiln_formats::manifest::path;
use kiln_formats::names::{
    BUILDER_DIRECT, BUILDER_FIRMWARE, BUILDER_HOSTED, BUILDER_METAL, BUILDER_SECURE_BOOT, MACHINE_BUILDERS,
};
use kiln_formats::reference::MachineReference;
use kiln_formats::trust::Policy;
use kiln_verifier::{Anchors, Bundle, Finding, Gate, verify};

use crate::findings;
use crate::world::{
    Issuer, Leaf, Plan, anchors, attestation_leaf, authority_of, dispatch_leaf, host, issuer, policy, reference,
    statement_leaf,
};

/// The key of another authority than the default one's.
const OTHER_KEY: u8 = 77;

/// A machine that says that it is one of `claimed`: it measured that, and the authority with this key, which the root certified for
/// machines of `certified`, signed whatever an authority signs.
pub(crate) fn machine(claimed: &'static str, certified: &str) -> Plan {
    let by = |leaf: Leaf| Leaf { issuer_key: OTHER_KEY, ..leaf };
    Plan {
        authority: authority_of(certified, OTHER_KEY),
        statement_leaf: by(statement_leaf()),
        attestation_leaf: by(attestation_leaf()),
        dispatch_leaf: by(dispatch_leaf()),
        issuer: Issuer { issuer_key: OTHER_KEY, ..issuer() },
        configuration: Box::new(|it| it.builder_id = claimed.into()),
        class: TpmClass::of_builder(claimed).unwrap(),
        trace: Box::new(|_, it| it.predicate.monitored_process.host_id = claimed.into()),
        provenance: Box::new(|it| it.predicate.run_details.builder.id = claimed.into()),
        policy: Policy { builder_ids: vec![claimed.into()], hosts: vec![host()], ..policy() },
        host: (claimed == BUILDER_HOSTED).then(|| Box::new(|_: &mut _| {}) as _),
        ..Plan::default()
    }
}

/// What a person holds who takes machines of these modes; the reference values say whatever this machine measured.
pub(crate) fn taking(plan: &Plan, builder_ids: &[&str]) -> Anchors {
    let mut reference = reference(plan);
    let through_firmware = reference.machines.pop().unwrap();
    reference.machines = MACHINE_BUILDERS
        .map(|builder_id| MachineReference { builder_id: builder_id.into(), ..through_firmware.clone() })
        .into();
    let builder_ids = builder_ids.iter().map(|&it| it.into()).collect();
    Anchors { reference, policy: Policy { builder_ids, hosts: vec![host()], ..policy() }, ..anchors() }
}

fn first(plan: &Plan, anchors: &Anchors) -> (Gate, &'static str) {
    let finding: Finding = findings(plan, anchors).remove(0);
    (finding.gate, finding.code)
}

/// Every pair of a mode that is claimed and a mode that the signer is certified for, with all signatures valid, under a policy that
/// asks for the mode that is claimed.
#[test]
fn each_mode_is_signed_for_by_its_own_authority_alone() {
    for claimed in MACHINE_BUILDERS {
        for certified in MACHINE_BUILDERS {
            let plan = machine(claimed, certified);
            let anchors = taking(&plan, &[claimed]);
            if claimed == certified {
                let verdict = verify(&plan.seal(), &anchors);
                assert!(verdict.holds(), "{claimed}: {:?}", verdict.findings);
                assert_eq!(verdict.builder_id.as_deref(), Some(claimed));
            } else {
                let found = first(&plan, &anchors);
                assert_eq!(found, (Gate::Evidence, "signer_of_other_mode"), "{claimed} by the one of {certified}");
            }
        }
    }
}

/// The acceptance line: what a development machine leaves, whole and well signed, against a production policy. As it is, the policy
/// does not list it; with a production machine's name in everything that its own signer could sign anew, the signer gives it away.
#[test]
fn no_development_evidence_is_taken_under_a_production_policy() {
    let production = [BUILDER_METAL, BUILDER_SECURE_BOOT];
    // Not even if the machine was given the production policy itself, so that PCR 15 is as predicted.
    for given in [&[BUILDER_DIRECT][..], &production] {
        let found = |claimed, certified| {
            let policy =
                Policy { builder_ids: given.iter().map(|&it| it.into()).collect(), hosts: vec![host()], ..policy() };
            let plan = Plan { policy, ..machine(claimed, certified) };
            first(&plan, &taking(&plan, &production))
        };
        assert_eq!(found(BUILDER_DIRECT, BUILDER_DIRECT), (Gate::Boot, "builder_id"));
        for claimed in production {
            let altered = found(claimed, BUILDER_DIRECT);
            assert_eq!(altered, (Gate::Evidence, "signer_of_other_mode"), "as {claimed}");
        }
    }
}

/// The authority's certificate of another mode, which anybody can read, does not help: it is of another key.
#[test]
fn another_mode_s_certificate_in_place_of_one_s_own_is_of_another_key() {
    let plan = Plan { authority: authority_of(BUILDER_METAL, 78), ..machine(BUILDER_METAL, BUILDER_DIRECT) };
    assert_eq!(first(&plan, &taking(&plan, &[BUILDER_METAL])), (Gate::Evidence, "certificate"));
}

/// Whether Secure Boot is enforced, and with whose keys, PCR 7 says: reference values without it are none for these machines.
#[test]
fn where_secure_boot_is_promised_pcr_7_is_predicted() {
    for builder_id in MACHINE_BUILDERS {
        let plan = machine(builder_id, builder_id);
        let mut anchors = taking(&plan, &[builder_id]);
        anchors.reference.machines.iter_mut().for_each(|machine| drop(machine.pcrs.remove("7")));
        if [BUILDER_DIRECT, BUILDER_FIRMWARE].contains(&builder_id) {
            assert!(verify(&plan.seal(), &anchors).holds(), "{builder_id}");
        } else {
            assert_eq!(first(&plan, &anchors), (Gate::Boot, "reference_values"), "{builder_id}");
        }
    }
}

/// After the machine is gone: nor does its bundle's configuration alone make it another machine.
#[test]
fn a_configuration_in_another_name_is_not_the_one_that_was_measured() {
    let genuine = machine(BUILDER_DIRECT, BUILDER_DIRECT);
    let anchors = taking(&genuine, &[BUILDER_METAL, BUILDER_DIRECT]);
    let replaced = |authority: &'static str| {
        let configuration = machine(BUILDER_METAL, authority).configuration_bytes();
        let pem = authority_of(authority, OTHER_KEY).to_pem().unwrap().into_bytes();
        let files = move |files: &mut std::collections::BTreeMap<String, Vec<u8>>| {
            files.insert(path::CONFIGURATION.to_owned(), configuration.clone());
            files.insert(path::AUTHORITY.to_owned(), pem.clone());
        };
        let bundle: Bundle = Plan { files: Box::new(files), ..machine(BUILDER_DIRECT, BUILDER_DIRECT) }.seal();
        let finding = verify(&bundle, &anchors).findings.remove(0);
        (finding.gate, finding.code)
    };
    assert_eq!(replaced(BUILDER_DIRECT), (Gate::Evidence, "signer_of_other_mode"));
    // Even with the root's help: the configuration is not the one in PCR 15.
    assert_eq!(replaced(BUILDER_METAL), (Gate::Boot, "configuration"));
}
