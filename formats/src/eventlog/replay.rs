//! The fold from events to register values.

use super::decode::startup_locality;
use super::{EventLog, EventType};
use crate::pcr::{Bank, BankDigest, PCR_COUNT, PcrIndex, PcrValues};

/// The locality of an H-CRTM sequence. Source: TPM 2.0 Library part 1, section 17.9.2.
const HCRTM_LOCALITY: u8 = 4;

/// Register values in the making. It knows the two rules that are not an extend: where PCR 0 starts, and what a dynamic launch
/// resets.
pub(crate) struct Fold<'b> {
    /// By bank and register; `None` where nothing was touched. A plain table: a hostile log extends half a million times.
    values: Vec<Option<BankDigest>>,
    banks: &'b [Bank],
    launched: bool,
}

impl<'b> Fold<'b> {
    /// Registers at their reset values in `banks`; PCR 0 at the locality that the log announces.
    pub(crate) fn new(banks: &'b [Bank], locality: Option<u8>) -> Self {
        let values = vec![None; Bank::ALL.len() * usize::from(PCR_COUNT)];
        let mut fold = Self { values, banks, launched: false };
        if let (Some(locality), Ok(pcr0)) = (locality, PcrIndex::new(0)) {
            fold.set(pcr0, |bank| BankDigest::started_at(bank, locality));
        }
        fold
    }

    /// Extends one register. A dynamic launch sets its registers to zero before its first event.
    pub(crate) fn extend(
        &mut self,
        event_type: Option<EventType>,
        index: PcrIndex,
        digests: impl Iterator<Item = BankDigest>,
    ) {
        if event_type == Some(EventType::HASH_START) && index.is_dynamic() && !self.launched {
            self.launched = true;
            PcrIndex::all().filter(|index| index.is_dynamic()).for_each(|index| self.set(index, BankDigest::zero));
        }
        for digest in digests {
            let bank = digest.bank();
            if let Some(value) = self.values.get_mut(place(bank, index)) {
                *value = value.unwrap_or_else(|| BankDigest::reset(bank, index)).extend(&digest);
            }
        }
    }

    pub(crate) fn finish(self) -> PcrValues {
        let mut values = PcrValues::new();
        for (bank, index) in Bank::ALL.into_iter().flat_map(|bank| PcrIndex::all().map(move |index| (bank, index))) {
            if let Some(value) = self.values.get(place(bank, index)).copied().flatten() {
                values.set(index, value);
            }
        }
        values
    }

    /// Puts a register at a value in every bank of the log.
    fn set(&mut self, index: PcrIndex, value: impl Fn(Bank) -> BankDigest) {
        for bank in self.banks {
            if let Some(slot) = self.values.get_mut(place(*bank, index)) {
                *slot = Some(value(*bank));
            }
        }
    }
}

/// A register's place in the table.
fn place(bank: Bank, index: PcrIndex) -> usize {
    (bank as usize) * usize::from(PCR_COUNT) + usize::from(index.get())
}

/// What an event says of the locality from which PCR 0 starts.
pub(crate) fn locality(event_type: EventType, register: u32, data: &[u8]) -> Option<Locality> {
    match event_type {
        EventType::HCRTM if register == 0 => Some(Locality::Hardware),
        EventType::NO_ACTION => startup_locality(data).map(Locality::Announced),
        _ => None,
    }
}

/// Where PCR 0 starts, by one event's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locality {
    /// Hardware measured the firmware.
    Hardware,
    /// As announced.
    Announced(u8),
}

impl Locality {
    /// What two words come to: the hardware's goes before what firmware announces, and the first announcement counts.
    pub(crate) fn and(self, later: Self) -> Self {
        if later == Self::Hardware { later } else { self }
    }

    /// The number that PCR 0 starts with.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Hardware => HCRTM_LOCALITY,
            Self::Announced(locality) => locality,
        }
    }
}

impl EventLog<'_> {
    /// The register values that the log claims, in every bank that it has and we know.
    ///
    /// PCR 0 starts at the locality that the log announces, at 4 if hardware measured the firmware; PCR 17 to 22 start with all
    /// bits set, at zero once a dynamic launch reset them. An event without a digest in a bank leaves that bank as it is.
    #[must_use]
    pub fn replay(&self) -> PcrValues {
        let banks: Vec<_> = self.banks().collect();
        let mut fold = Fold::new(&banks, self.startup_locality());
        for event in self.events() {
            if let Some(index) = event.extends() {
                fold.extend(Some(event.event_type), index, event.digests());
            }
        }
        fold.finish()
    }

    /// The locality from which PCR 0 starts, if the log says anything about it.
    #[must_use]
    pub fn startup_locality(&self) -> Option<u8> {
        self.locality.map(Locality::number)
    }

    /// The banks that the log's header declares and that we know.
    pub fn banks(&self) -> impl Iterator<Item = Bank> {
        self.algorithms().iter().filter_map(|algorithm| Bank::from_algorithm(algorithm.id))
    }
}
