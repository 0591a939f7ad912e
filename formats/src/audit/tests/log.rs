//! Logs that can be taken apart, changed and put together again.

use crate::boot::Boot;
use crate::cel::CelLog;
use crate::digest::Sha256Digest;
use crate::event::Event as Word;
use crate::eventlog::EventLog;
use crate::pcr::Bank;
use crate::runtime_log::{BootId, Writer};

/// One event, as it will be written.
#[derive(Clone)]
pub(crate) struct Ev {
    pub(crate) register: u32,
    pub(crate) event_type: u32,
    pub(crate) digests: Vec<(u16, Vec<u8>)>,
    pub(crate) data: Vec<u8>,
    /// What was measured, where it is known.
    measured: Vec<u8>,
    /// How the tests call it.
    name: String,
}

impl Ev {
    /// An event that measures `measured` in SHA-256.
    pub(crate) fn new(register: u32, event_type: u32, data: &[u8], measured: &[u8]) -> Self {
        let digests = vec![(0x0b, Vec::new())];
        let mut event =
            Self { register, event_type, digests, data: data.to_vec(), measured: Vec::new(), name: String::new() };
        event.measure(measured);
        event
    }

    fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// Puts the digests of `bytes` into every bank.
    pub(crate) fn measure(&mut self, bytes: &[u8]) {
        self.measured = bytes.to_vec();
        for (algorithm, digest) in &mut self.digests {
            *digest = Bank::from_algorithm(*algorithm).unwrap().hash(bytes).unwrap().as_bytes().to_vec();
        }
    }
}

/// A log in pieces.
pub(crate) struct Edited {
    /// The data of the header; `None` for a SHA-1 log.
    header: Option<Vec<u8>>,
    pub(crate) events: Vec<Ev>,
}

impl Edited {
    pub(crate) fn of(log: &EventLog<'_>) -> Self {
        let events = log.events().map(|event| Ev {
            register: event.register,
            event_type: event.event_type.0,
            digests: event.raw_digests().map(|(algorithm, bytes)| (algorithm, bytes.to_vec())).collect(),
            data: event.data.to_vec(),
            measured: Vec::new(),
            name: String::new(),
        });
        Self { header: log.header().map(<[u8]>::to_vec), events: events.collect() }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let le = |value: usize| (value as u32).to_le_bytes();
        if let Some(header) = &self.header {
            bytes.extend([le(0), le(3)].concat());
            bytes.extend([0; 20]);
            bytes.extend(le(header.len()));
            bytes.extend(header);
        }
        for event in &self.events {
            bytes.extend([event.register.to_le_bytes(), event.event_type.to_le_bytes()].concat());
            if self.header.is_some() {
                bytes.extend(le(event.digests.len()));
            }
            for (algorithm, digest) in &event.digests {
                if self.header.is_some() {
                    bytes.extend(algorithm.to_le_bytes());
                }
                bytes.extend(digest);
            }
            bytes.extend(le(event.data.len()));
            bytes.extend(&event.data);
        }
        bytes
    }

    /// The same boot, measured by a TPM with these banks.
    pub(crate) fn in_banks(mut self, banks: &[Bank]) -> Self {
        self.header = Some(header(banks));
        for event in &mut self.events {
            event.digests = banks.iter().map(|bank| (bank.algorithm(), Vec::new())).collect();
            event.measure(&event.measured.clone());
        }
        self
    }

    /// The same log with these of its events alone.
    pub(crate) fn part(&self, events: std::ops::Range<usize>) -> Self {
        Self { header: self.header.clone(), events: self.events[events].to_vec() }
    }

    /// The banks of its first event.
    pub(crate) fn banks(&self) -> Vec<Bank> {
        let digests = self.events.first().map(|event| event.digests.as_slice()).unwrap_or_default();
        digests.iter().filter_map(|(algorithm, _)| Bank::from_algorithm(*algorithm)).collect()
    }

    pub(crate) fn find(&self, name: &str) -> usize {
        self.events.iter().position(|event| event.name == name).unwrap()
    }

    /// Gives a variable another value, and measures it.
    pub(crate) fn variable(&mut self, name: &str, value: &[u8]) {
        let at = self.find(name);
        let data = variable(name, value);
        self.events[at].measure(&data);
        self.events[at].data = data;
    }

    /// Measures something else under the same words.
    pub(crate) fn remeasure(&mut self, name: &str, bytes: &[u8]) {
        let at = self.find(name);
        self.events[at].measure(bytes);
    }

    /// The option ROM of the network card is loaded.
    pub(crate) fn insert_rom(&mut self) {
        let at = self.find("separator 2");
        self.events.insert(at, Ev::new(2, 0x8000_0004, &image(&card(&[4, 8, 24, 0], &[0; 20])), b"rom").named("rom"));
    }
}

pub(crate) fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

fn variable(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes.extend((name.len() as u64).to_le_bytes());
    bytes.extend((value.len() as u64).to_le_bytes());
    bytes.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
    bytes.extend(value);
    bytes
}

/// A database of hashes.
pub(crate) fn hash_list(hashes: &[u8]) -> Vec<u8> {
    let mut bytes = hex::decode("2616c4c14c509240aca941f936934328").unwrap();
    bytes.extend((28 + 48 * hashes.len() as u32).to_le_bytes());
    bytes.extend([[0, 0, 0, 0], 48_u32.to_le_bytes()].concat());
    hashes.iter().for_each(|hash| bytes.extend([[0; 16].as_slice(), &[*hash; 32]].concat()));
    bytes
}

/// The network card's device path, and one node more.
fn card(node: &[u8], data: &[u8]) -> Vec<u8> {
    let root = [&[2, 1, 12, 0][..], &0x0a03_41d0_u32.to_le_bytes(), &[0; 4]].concat();
    [root.as_slice(), &[1, 1, 6, 0, 0, 0x19], node, data, &[0x7f, 0xff, 4, 0]].concat()
}

fn image(path: &[u8]) -> Vec<u8> {
    let mut bytes = [[0; 8], 4096_u64.to_le_bytes(), [0; 8], (path.len() as u64).to_le_bytes()].concat();
    bytes.extend(path);
    bytes
}

/// A boot of a UKI with Secure Boot, in SHA-256, as OVMF and systemd-stub measure it.
pub(crate) fn made_here() -> Edited {
    let whole = |register, event_type, data: &[u8], name: &str| Ev::new(register, event_type, data, data).named(name);
    let set = |name: &str, value: &[u8]| whole(7, 0x8000_0001, &variable(name, value), name);
    let mut events = vec![
        whole(0, 0x08, &wide("edk2 2022.11"), "version"),
        set("SecureBoot", &[1]),
        set("PK", &hash_list(&[1])),
        set("db", &hash_list(&[5])),
        set("dbx", &[]),
        whole(7, 0x04, &[0; 4], "separator 7"),
    ];
    let boot_entry =
        [&[1, 0, 0, 0][..], &(55_u16 + 4).to_le_bytes(), &wide("PXE"), &card(&[3, 11, 37, 0], &[1; 33])].concat();
    for (name, value) in [("BootOrder", &[1, 0, 2, 0][..]), ("Boot0002", &boot_entry)] {
        events.push(Ev::new(1, 0x8000_0002, &variable(name, value), value).named(name));
    }
    events.push(whole(4, 0x8000_0007, b"Calling EFI Application from Boot Option", "calling"));
    for register in 0..=6 {
        events.push(whole(register, 0x04, &[0; 4], &format!("separator {register}")));
    }
    events.push(Ev::new(4, 0x8000_0003, &image(&[0x7f, 0xff, 4, 0]), b"the image").named("image"));
    for (section, content) in
        [(".linux", b"kernel".to_vec()), (".cmdline", wide("console=ttyS0 ro")), (".initrd", b"initrd".to_vec())]
    {
        events.push(
            Ev::new(11, 0x0d, &wide(section), format!("{section}\0").as_bytes()).named(&format!("{section} name")),
        );
        events.push(Ev::new(11, 0x0d, &wide(section), &content).named(section));
    }
    let tag = [&0x8f3b_22ec_u32.to_le_bytes()[..], &13_u32.to_le_bytes(), b"Linux initrd\0"].concat();
    events.push(Ev::new(9, 0x06, &tag, b"initrd").named("Linux initrd"));
    events.push(whole(5, 0x8000_0007, b"Exit Boot Services Invocation", "exit"));
    Edited { header: Some(header(&[Bank::Sha256])), events }
}

/// The data of the first event of a log in these banks.
fn header(banks: &[Bank]) -> Vec<u8> {
    let mut header = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
    header.extend((banks.len() as u32).to_le_bytes());
    banks
        .iter()
        .for_each(|bank| header.extend([bank.algorithm(), bank.digest_bytes() as u16].map(u16::to_le_bytes).concat()));
    header.push(0);
    header
}

/// The runtime log of a boot with this trust bundle, in SHA-256; with `extra` the system extended PCR 15 once more.
pub(crate) fn runtime_log(trust: u8, extra: bool) -> Vec<u8> {
    runtime_log_in(&[Bank::Sha256], trust, extra)
}

/// The same, by a TPM with these banks.
pub(crate) fn runtime_log_in(banks: &[Bank], trust: u8, extra: bool) -> Vec<u8> {
    let mut writer = Writer::new(BootId::from_kernel_text(&"0".repeat(32)).unwrap(), banks).unwrap();
    let words = [
        Word::Init(Sha256Digest::of(b"init")),
        Word::Configuration(Sha256Digest::of(b"configuration")),
        Word::Trust(Sha256Digest::of(&[trust])),
    ];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| writer.entry(word, 1).unwrap().bytes).collect();
    if extra {
        let digest = Bank::Sha256.hash(b"ready").unwrap();
        let record = format!(
            "\x1e{{\"pcr\":15,\"digests\":[{{\"hashAlg\":\"sha256\",\"digest\":\"{digest}\"}}],\"content_type\":\"systemd\",\"content\":{{\"string\":\"ready\",\"eventType\":\"phase\"}}}}\n"
        );
        bytes.extend(record.bytes());
    }
    bytes
}

pub(crate) fn boot_of<'a>(firmware: &'a [u8], runtime: &'a [u8]) -> Boot<'a> {
    Boot { firmware: EventLog::parse(firmware).ok(), runtime: CelLog::parse(runtime).ok() }
}
