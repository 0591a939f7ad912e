//! The fold from events to register values.

use super::{Event, EventLog, EventType};
use crate::pcr::{Bank, BankDigest, PcrIndex, PcrValues};

/// Announces the locality from which the TPM was started.
///
/// Source: TCG PC Client Platform Firmware Profile 1.06, section 10.4.5.3.
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// The locality of an H-CRTM sequence. Source: TPM 2.0 Library part 1, section 17.9.2.
const HCRTM_LOCALITY: u8 = 4;

impl EventLog<'_> {
    /// The register values that the log claims, in every bank that it has and we compute.
    ///
    /// PCR 0 starts at the locality that the log announces, at 4 if hardware measured the firmware; PCR 17 to 22 start with all
    /// bits set, at zero once a dynamic launch reset them. An event without a digest in a bank leaves that bank as it is.
    #[must_use]
    pub fn replay(&self) -> PcrValues {
        let mut values = PcrValues::new();
        if let (Some(locality), Ok(pcr0)) = (self.startup_locality(), PcrIndex::new(0)) {
            for bank in self.banks() {
                values.set(pcr0, BankDigest::started_at(bank, locality));
            }
        }
        let mut launched = false;
        for event in self.events() {
            let Some(index) = event.extends() else { continue };
            if event.event_type == EventType::HASH_START && index.is_dynamic() && !launched {
                launched = true;
                self.reset_dynamic(&mut values);
            }
            for digest in event.digests() {
                values.extend(index, &digest);
            }
        }
        values
    }

    /// The locality from which PCR 0 starts, if the log says anything about it.
    #[must_use]
    pub fn startup_locality(&self) -> Option<u8> {
        if self.events().any(|event| event.event_type == EventType::HCRTM && event.register == 0) {
            return Some(HCRTM_LOCALITY);
        }
        self.events().find_map(|event| announced_locality(&event))
    }

    /// The banks that the log's header declares and that we compute.
    fn banks(&self) -> impl Iterator<Item = Bank> {
        self.algorithms()
            .iter()
            .filter_map(|algorithm| Bank::from_algorithm(algorithm.id))
            .filter(|bank| *bank != Bank::Sm3)
    }

    fn reset_dynamic(&self, values: &mut PcrValues) {
        for bank in self.banks() {
            for index in (0..24).filter_map(|i| PcrIndex::new(i).ok()).filter(|i| i.is_dynamic()) {
                values.set(index, BankDigest::zero(bank));
            }
        }
    }
}

fn announced_locality(event: &Event<'_>) -> Option<u8> {
    if event.event_type != EventType::NO_ACTION {
        return None;
    }
    event.data.strip_prefix(STARTUP_LOCALITY)?.first().copied()
}
