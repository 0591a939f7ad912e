//! The test machine's firmware: a small crypto-agile log, and the reference values of its events.

use std::collections::BTreeMap;

use kiln_formats::digest::Sha256Digest;
use kiln_formats::eventlog::EventLog;
use kiln_formats::names::{BUILDER_DIRECT, BUILDER_FIRMWARE, BUILDER_SECURE_BOOT};
use kiln_formats::pcr::{Bank, PcrIndex, PcrValues};
use kiln_formats::reference::{EventReference, MachineReference, PcrReference, Reference};
use kiln_formats::runtime_log::RuntimeLog;

/// One event of the firmware's log.
#[derive(Clone)]
pub(crate) struct FirmwareEvent {
    pub(crate) register: u32,
    pub(crate) kind: u32,
    pub(crate) name: &'static str,
    pub(crate) sha256: Sha256Digest,
    pub(crate) data: Vec<u8>,
}

pub(crate) fn event(register: u32, kind: u32, name: &'static str) -> FirmwareEvent {
    let data = name.as_bytes().to_vec();
    FirmwareEvent { register, kind, name, sha256: Sha256Digest::of(&data), data }
}

pub(crate) fn events() -> Vec<FirmwareEvent> {
    vec![
        event(0, 8, "firmware version"),
        event(7, 0x8000_0001, "SecureBoot"),
        event(4, 0x8000_0007, "Calling EFI Application from Boot Option"),
        event(4, 4, "separator"),
        event(4, 0x8000_0003, "image"),
        event(11, 0xd, ".linux name"),
        event(11, 0xd, ".linux content"),
        event(11, 0xd, ".initrd name"),
        event(11, 0xd, ".initrd content"),
        event(9, 6, "kernel command line"),
        event(9, 6, "initrd"),
    ]
}

pub(crate) fn log(events: &[FirmwareEvent]) -> Vec<u8> {
    let mut header = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
    header.extend([1, 0, 0, 0, 0x0b, 0, 32, 0, 0]);
    let mut bytes = [&0u32.to_le_bytes()[..], &3u32.to_le_bytes(), &[0; 20]].concat();
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend(header);
    for event in events {
        bytes.extend([event.register.to_le_bytes(), event.kind.to_le_bytes(), 1u32.to_le_bytes()].concat());
        bytes.extend([0x0b, 0]);
        bytes.extend(event.sha256.as_bytes());
        bytes.extend((event.data.len() as u32).to_le_bytes());
        bytes.extend(&event.data);
    }
    bytes
}

pub(crate) fn values(events: &[FirmwareEvent]) -> PcrValues {
    EventLog::parse(&log(events)).map(|log| log.replay()).unwrap_or_default()
}

pub(crate) fn reference(
    events: &[FirmwareEvent],
    boot: &RuntimeLog,
    image_sha256: Sha256Digest,
    init_sha256: Sha256Digest,
) -> Reference {
    let mut values = values(events);
    boot.fold_into(&mut values, boot.records().len());
    let pcr = |register: u32, events: Vec<EventReference>| {
        let value = values.get_or_reset(Bank::Sha256, PcrIndex::new(register).unwrap());
        let value = Sha256Digest::from_bytes(value.as_bytes().try_into().unwrap());
        (register.to_string(), PcrReference { value, events })
    };
    let of = |register: u32| {
        let own = events.iter().filter(|event| event.register == register);
        pcr(register, own.map(|e| EventReference { name: e.name.into(), sha256: e.sha256 }).collect())
    };
    let runtime = boot.records().iter().map(|record| {
        let text = record.event.to_string();
        EventReference { name: text.split(':').next().unwrap().into(), sha256: Sha256Digest::of(text.as_bytes()) }
    });
    let pcrs: BTreeMap<_, _> = [of(4), of(9), of(11), pcr(15, runtime.collect())].into();
    let enforced = pcrs.iter().map(|(name, pcr)| (name.clone(), pcr.clone())).chain([of(7)]).collect();
    let direct = BTreeMap::from([("15".to_owned(), pcrs["15"].clone())]);
    Reference {
        version: 1,
        number: 0,
        image_sha256,
        init_sha256,
        machines: vec![
            MachineReference { builder_id: BUILDER_FIRMWARE.into(), pcrs },
            MachineReference { builder_id: BUILDER_DIRECT.into(), pcrs: direct },
            MachineReference { builder_id: BUILDER_SECURE_BOOT.into(), pcrs: enforced },
        ],
    }
}
