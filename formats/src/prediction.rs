//! Predictions: what booting an image must leave in the TPM of one kind of machine, in every bank, known before it boots.
//!
//! [`Predictions`] is the predicate of the statement that an image's producer signs (`docs/predicates/reference/v1.md`). Its subject
//! is the image. What a verifier needs of it is a [`Reference`]: the SHA-256 bank. Deliberately absent: computing one, which needs
//! the image; believing one, which needs the producer's key.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Sha256Digest;
use crate::pcr::{Bank, BankDigest, PcrIndex};
use crate::reference::{self, EventReference, MachineReference, PcrReference, Reference};

/// The version of this format.
pub const VERSION: u32 = 1;
/// The largest document in bytes, signed or not: a UKI has some dozens of events, and each machine repeats them.
pub const PREDICTIONS_BYTES_MAX: usize = 1 << 20;

/// The predicate: what one image must yield on each of some kinds of machines. Its digest is the statement's subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predictions {
    /// Always [`VERSION`].
    pub version: u32,
    /// Which image of its producer ([`Reference::number`]).
    #[serde(default, skip_serializing_if = "reference::is_zero")]
    pub number: u64,
    /// The digest of PID 1's program in the image, if it is an image of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_sha256: Option<Sha256Digest>,
    /// What each kind of machine must yield.
    pub machines: Vec<Prediction>,
}

/// What a boot must leave in the TPM, by PCR number. A register without events must be untouched.
pub type Registers = BTreeMap<String, PcrPrediction>;

/// What one kind of machine must yield.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// The machine.
    pub machine: MachineDescription,
    /// What is predicted.
    pub pcrs: Registers,
    /// By PCR number: why there is no prediction.
    pub not_predicted: BTreeMap<String, String>,
}

/// What one register must hold, and by which events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PcrPrediction {
    /// The value in each bank.
    pub values: Digests,
    /// The events that lead to it, in order.
    pub events: Vec<EventPrediction>,
}

/// One event that must happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventPrediction {
    /// What it measures, in words: `.cmdline content`, `db: the entry that lets the image start`.
    pub name: String,
    /// What is extended in each bank.
    pub digests: Digests,
}

/// What a machine is, as far as it decides what is measured. Processors and memory do not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineDescription {
    /// The builder id of such machines, if they are ours. Without one, no verifier of ours uses the prediction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builder_id: Option<String>,
    /// Which firmware.
    pub firmware: Firmware,
    /// How the firmware gets at the image.
    pub boot: BootPath,
    /// Whether firmware starts only what its owner signed.
    pub secure_boot: SecureBoot,
    /// Which profile of the UKI is started; 0 is the first, and the only one where there are none.
    pub profile: u32,
    /// Which of the UKI's `.dtbauto` sections fits the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtbauto: Option<Pick>,
    /// Which of the UKI's `.efifw` sections fits the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub efifw: Option<Pick>,
    /// The TPM's active banks. Not empty.
    pub banks: Vec<Bank>,
}

impl Default for MachineDescription {
    fn default() -> Self {
        Self {
            builder_id: None,
            firmware: Firmware::Edk2,
            boot: BootPath::Esp,
            secure_boot: SecureBoot::Off,
            profile: 0,
            dtbauto: None,
            efifw: None,
            banks: vec![Bank::Sha256, Bank::Sha384],
        }
    }
}

/// Which register firmware puts the programs in that it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// PCR 4, as the TCG's profile says: EDK II (OVMF), and what is made of it.
    Edk2,
    /// PCR 2, together with the partition table: Google Compute Engine.
    Gce,
}

/// How firmware gets at the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootPath {
    /// From the removable path or a boot option of an EFI system partition.
    Esp,
    /// From the virtual machine monitor, as QEMU's `-kernel`.
    Kernel,
}

/// Whether firmware starts only what its owner signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecureBoot {
    /// Yes.
    On,
    /// It could and does not.
    Off,
    /// It cannot: there is not even a variable that says so.
    Unsupported,
}

/// A choice among sections of one name that the machine's hardware decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pick {
    /// None of them fits.
    None,
    /// The one with this index, from 0.
    Index(u32),
}

/// One digest for each of some banks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Digests(BTreeMap<Bank, BankDigest>);

impl Digests {
    /// The digest of one bank.
    #[must_use]
    pub fn get(&self, bank: Bank) -> Option<&BankDigest> {
        self.0.get(&bank)
    }

    /// All of them, by bank.
    pub fn iter(&self) -> impl Iterator<Item = &BankDigest> {
        self.0.values()
    }

    fn sha256(&self) -> Option<Sha256Digest> {
        let bytes = self.get(Bank::Sha256)?.as_bytes().try_into().ok()?;
        Some(Sha256Digest::from_bytes(bytes))
    }
}

impl FromIterator<BankDigest> for Digests {
    fn from_iter<T: IntoIterator<Item = BankDigest>>(digests: T) -> Self {
        Self(digests.into_iter().map(|digest| (digest.bank(), digest)).collect())
    }
}

impl Serialize for Digests {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (bank, digest) in &self.0 {
            map.serialize_entry(bank.name(), &digest.to_string())?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Digests {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ByBank;
        impl<'de> Visitor<'de> for ByBank {
            type Value = Digests;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a digest in hex for each bank")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Digests, A::Error> {
                let mut digests = BTreeMap::new();
                while let Some((bank, text)) = map.next_entry::<Bank, String>()? {
                    let digest = hex::decode(&text).ok().and_then(|bytes| BankDigest::new(bank, &bytes));
                    let digest = digest.ok_or_else(|| A::Error::custom(format!("not a digest of {bank}")))?;
                    if digests.insert(bank, digest).is_some() {
                        return Err(A::Error::custom(format!("{bank} is there twice")));
                    }
                }
                Ok(Digests(digests))
            }
        }
        deserializer.deserialize_map(ByBank)
    }
}

impl PcrPrediction {
    /// What these events lead to in `banks`, from a register that was reset.
    #[must_use]
    pub fn of(index: PcrIndex, banks: &[Bank], events: Vec<EventPrediction>) -> Self {
        let fold = |bank: &Bank| {
            let extend = |value: BankDigest, event: &EventPrediction| value.extend(event.digests.get(*bank)?);
            events.iter().try_fold(BankDigest::reset(*bank, index), extend)
        };
        Self { values: banks.iter().filter_map(fold).collect(), events }
    }
}

/// Why predictions are no reference values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PredictionError {
    /// Made by another version of Kiln.
    #[error("the version of the predictions is not known")]
    Version,
    /// An image without a PID 1 of ours.
    #[error("the image has no PID 1 of ours")]
    NoInit,
    /// A register's value does not follow from its events.
    #[error("the value of PCR {register} does not follow from its events")]
    Inconsistent {
        /// The register.
        register: String,
    },
}

impl Predictions {
    /// The registers of each kind of machine in every bank, and that kind's builder id.
    ///
    /// # Errors
    /// [`PredictionError::Version`]; [`PredictionError::Inconsistent`] for a value, in any bank, that does not follow from its events.
    pub fn registers(&self) -> Result<Vec<(Option<&str>, &Registers)>, PredictionError> {
        if self.version != VERSION {
            return Err(PredictionError::Version);
        }
        let machines = self.machines.iter();
        machines.map(|it| Ok((it.machine.builder_id.as_deref(), it.registers()?))).collect()
    }

    /// The SHA-256 bank of those machines that have a builder id, as a verifier wants it, for the image with this digest.
    ///
    /// # Errors
    /// [`PredictionError`] by cause; a value that does not follow from its events is one.
    pub fn reference(&self, image_sha256: Sha256Digest) -> Result<Reference, PredictionError> {
        if self.version != VERSION {
            return Err(PredictionError::Version);
        }
        let init_sha256 = self.init_sha256.ok_or(PredictionError::NoInit)?;
        let mut machines = Vec::new();
        for prediction in &self.machines {
            let Some(builder_id) = prediction.machine.builder_id.clone() else { continue };
            let pcrs = prediction.sha256()?;
            machines.push(MachineReference { builder_id, pcrs });
        }
        Ok(Reference { version: reference::VERSION, number: self.number, image_sha256, init_sha256, machines })
    }
}

impl MachineReference {
    /// What it says, as a prediction that has only the SHA-256 bank. That values follow from their events is not checked.
    #[must_use]
    pub fn registers(&self) -> Registers {
        let digests = |sha256: &Sha256Digest| BankDigest::new(Bank::Sha256, sha256.as_bytes()).into_iter().collect();
        let event =
            |event: &EventReference| EventPrediction { name: event.name.clone(), digests: digests(&event.sha256) };
        let register = |register: &PcrReference| PcrPrediction {
            values: digests(&register.value),
            events: register.events.iter().map(event).collect(),
        };
        self.pcrs.iter().map(|(number, of)| (number.clone(), register(of))).collect()
    }
}

impl Prediction {
    /// Every register, in every bank.
    fn registers(&self) -> Result<&Registers, PredictionError> {
        let follows = |(number, register): (&String, &PcrPrediction)| {
            let banks: Vec<Bank> = register.values.iter().map(BankDigest::bank).collect();
            let index = number.parse().ok().and_then(|index| PcrIndex::new(index).ok());
            let again = index.map(|index| PcrPrediction::of(index, &banks, register.events.clone()).values);
            !banks.is_empty() && again.as_ref() == Some(&register.values)
        };
        match self.pcrs.iter().find(|register| !follows(*register)) {
            Some((number, _)) => Err(PredictionError::Inconsistent { register: number.clone() }),
            None => Ok(&self.pcrs),
        }
    }

    /// The SHA-256 bank.
    ///
    /// # Errors
    /// [`PredictionError::Inconsistent`].
    pub fn sha256(&self) -> Result<BTreeMap<String, PcrReference>, PredictionError> {
        let register = |(number, register): (&String, &PcrPrediction)| {
            let wrong = || PredictionError::Inconsistent { register: number.clone() };
            let index = number.parse().ok().and_then(|index| PcrIndex::new(index).ok()).ok_or_else(wrong)?;
            let again = PcrPrediction::of(index, &[Bank::Sha256], register.events.clone());
            let value = register.values.sha256().filter(|value| again.values.sha256() == Some(*value));
            let events: Option<Vec<EventReference>> = register
                .events
                .iter()
                .map(|event| Some(EventReference { name: event.name.clone(), sha256: event.digests.sha256()? }))
                .collect();
            let (value, events) = value.zip(events).ok_or_else(wrong)?;
            Ok((number.clone(), PcrReference { value, events }))
        };
        self.pcrs.iter().map(register).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical;

    fn predictions() -> Predictions {
        let digests = |text: &[u8]| [Bank::Sha256, Bank::Sha384].iter().filter_map(|bank| bank.hash(text)).collect();
        let event = EventPrediction { name: "separator".to_owned(), digests: digests(&[0; 4]) };
        let banks = [Bank::Sha256, Bank::Sha384];
        let machine = MachineDescription { builder_id: Some("machine".to_owned()), ..MachineDescription::default() };
        let register = |index: u32, events| PcrPrediction::of(PcrIndex::new(index).unwrap(), &banks, events);
        let pcrs =
            BTreeMap::from([("2".to_owned(), register(2, vec![event])), ("12".to_owned(), register(12, vec![]))]);
        let not_predicted = BTreeMap::from([("9".to_owned(), "another stub".to_owned())]);
        let machines = vec![Prediction { machine, pcrs, not_predicted }];
        Predictions { version: VERSION, number: 0, init_sha256: Some(Sha256Digest::of(b"init")), machines }
    }

    #[test]
    fn the_document_is_read_as_it_was_written() {
        let bytes = canonical::to_vec(&predictions()).unwrap();
        assert_eq!(canonical::from_slice_exact::<Predictions>(&bytes).unwrap(), predictions());
        let text = String::from_utf8(bytes).unwrap();
        // Source: a PCR that only the separator was measured into, on any machine of the TCG's profile.
        assert!(text.contains("3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"), "{text}");
        for (good, bad) in
            [("\"sha384\":\"", "\"sha384\":\"00"), ("sha256\":\"3d", "sha256\":\"zz"), ("sha384", "sha999")]
        {
            assert!(
                canonical::from_slice_exact::<Predictions>(text.replacen(good, bad, 1).as_bytes()).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_reference_is_the_bank_that_is_quoted() {
        let image = Sha256Digest::of(b"image");
        let reference = predictions().reference(image).unwrap();
        assert_eq!((reference.image_sha256, reference.machines.len()), (image, 1));
        let pcrs = &reference.machines[0].pcrs;
        assert_eq!(pcrs.keys().collect::<Vec<_>>(), ["12", "2"]);
        assert!(pcrs["12"].events.is_empty() && pcrs["12"].value == Sha256Digest::from_bytes([0; 32]));
    }

    #[test]
    fn a_value_that_its_events_do_not_lead_to_is_refused() {
        let image = Sha256Digest::of(b"image");
        let mut changed = predictions();
        changed.machines[0].pcrs.get_mut("2").unwrap().events.clear();
        assert_eq!(changed.reference(image), Err(PredictionError::Inconsistent { register: "2".to_owned() }));
        let mut changed = predictions();
        changed.machines[0].pcrs.get_mut("12").unwrap().values = Digests::default();
        assert_eq!(changed.reference(image), Err(PredictionError::Inconsistent { register: "12".to_owned() }));
        let foreign = Predictions { init_sha256: None, ..predictions() };
        assert_eq!(foreign.reference(image), Err(PredictionError::NoInit));
        assert_eq!(Predictions { version: 2, ..predictions() }.reference(image), Err(PredictionError::Version));
    }

    #[test]
    fn every_bank_must_follow_from_the_events() {
        let good = predictions().machines.remove(0);
        assert_eq!(good.registers(), Ok(&good.pcrs));
        let wrong = |edit: fn(&mut PcrPrediction)| {
            let mut changed = good.clone();
            changed.pcrs.get_mut("2").map(edit);
            changed.registers().err()
        };
        let inconsistent = Some(PredictionError::Inconsistent { register: "2".to_owned() });
        assert_eq!(wrong(|register| register.values = Bank::Sha384.hash(b"x").into_iter().collect()), inconsistent);
        assert_eq!(wrong(|register| register.values = Digests::default()), inconsistent);
        assert_eq!(wrong(|register| register.events.clear()), inconsistent);
        // The bank that is quoted is still sound: a reader of it alone would not notice.
        let other = |register: &mut PcrPrediction| {
            let digests = [Bank::Sha256.hash(&[0; 4]), Bank::Sha384.hash(b"x")];
            register.events[0].digests = digests.into_iter().flatten().collect();
        };
        assert_eq!(wrong(other), inconsistent);
    }
}
