//! What Windows measures: nested pairs of identifier and value (SIPA), in PCR 11 to 14.
//!
//! Source: Windows SDK `wbcl.h`.

use super::super::cursor::Cursor;
use super::text;

/// How deep pairs nest: a boundary holds aggregations, which hold values.
const DEPTH_MAX: usize = 4;
/// How many bytes of a value without text are shown.
const VALUE_BYTES_SHOWN: usize = 32;
/// How many characters of a value's text are shown.
const VALUE_CHARS_MAX: usize = 160;

/// The bit of an identifier whose value is pairs again.
const AGGREGATION: u32 = 0x4000_0000;

/// The names, each behind `SIPAEVENT_`. Source: Windows SDK `wbcl.h`.
const NAMES: &[(u32, &str)] = &[
    (0x0002_0001, "INFORMATION"),
    (0x0002_0002, "BOOTCOUNTER"),
    (0x0002_0003, "TRANSFER_CONTROL"),
    (0x0002_0004, "APPLICATION_RETURN"),
    (0x0002_0005, "BITLOCKER_UNLOCK"),
    (0x0002_0006, "EVENTCOUNTER"),
    (0x0002_0007, "COUNTERID"),
    (0x0002_0008, "MORBIT_NOT_CANCELABLE"),
    (0x0002_0009, "APPLICATION_SVN"),
    (0x0002_000a, "SVN_CHAIN_STATUS"),
    (0x0002_000b, "MORBIT_API_STATUS"),
    (0x0002_000c, "IDK_GENERATION_STATUS"),
    (0x0003_0001, "FIRMWARE_FAILURE"),
    (0x0003_0003, "INTERNAL_FAILURE"),
    (0x0003_0005, "HYPERVISOR_FAILURE"),
    (0x0004_0001, "BOOTDEBUGGING"),
    (0x0004_0002, "BOOT_REVOCATION_LIST"),
    (0x0005_0001, "OSKERNELDEBUG"),
    (0x0005_0002, "CODEINTEGRITY"),
    (0x0005_0003, "TESTSIGNING"),
    (0x0005_0004, "DATAEXECUTIONPREVENTION"),
    (0x0005_0005, "SAFEMODE"),
    (0x0005_0006, "WINPE"),
    (0x0005_0007, "PHYSICALADDRESSEXTENSION"),
    (0x0005_0008, "OSDEVICE"),
    (0x0005_0009, "SYSTEMROOT"),
    (0x0005_000a, "HYPERVISOR_LAUNCH_TYPE"),
    (0x0005_000b, "HYPERVISOR_PATH"),
    (0x0005_000c, "HYPERVISOR_IOMMU_POLICY"),
    (0x0005_000d, "HYPERVISOR_DEBUG"),
    (0x0005_000e, "DRIVER_LOAD_POLICY"),
    (0x0005_000f, "SI_POLICY"),
    (0x0005_0010, "HYPERVISOR_MMIO_NX_POLICY"),
    (0x0005_0011, "HYPERVISOR_MSR_FILTER_POLICY"),
    (0x0005_0012, "VSM_LAUNCH_TYPE"),
    (0x0005_0013, "OS_REVOCATION_LIST"),
    (0x0005_0014, "SMT_STATUS"),
    (0x0005_0020, "VSM_IDK_INFO"),
    (0x0005_0021, "FLIGHTSIGNING"),
    (0x0005_0022, "PAGEFILE_ENCRYPTION_ENABLED"),
    (0x0005_0023, "VSM_IDKS_INFO"),
    (0x0005_0024, "HIBERNATION_DISABLED"),
    (0x0005_0025, "DUMPS_DISABLED"),
    (0x0005_0026, "DUMP_ENCRYPTION_ENABLED"),
    (0x0005_0027, "DUMP_ENCRYPTION_KEY_DIGEST"),
    (0x0005_0028, "LSAISO_CONFIG"),
    (0x0005_0029, "SBCP_INFO"),
    (0x0005_0030, "HYPERVISOR_BOOT_DMA_PROTECTION"),
    (0x0005_0031, "SI_POLICY_SIGNER"),
    (0x0005_0032, "SI_POLICY_UPDATE_SIGNER"),
    (0x0005_0033, "REFS_VOLUME_CHECKPOINT_RECORD_CHECKSUM"),
    (0x0005_0034, "REFS_ROLLBACK_PROTECTION_FROZEN_VOLUME_CHECKSUM"),
    (0x0005_0035, "REFS_ROLLBACK_PROTECTION_USER_PAYLOAD_HASH"),
    (0x0005_0036, "REFS_ROLLBACK_PROTECTION_VERIFICATION_SUCCEEDED"),
    (0x0005_0037, "REFS_ROLLBACK_PROTECTION_VOLUME_FIRST_EVER_MOUNT"),
    (0x0005_003a, "VSM_SEALED_SI_POLICY"),
    (0x0005_003b, "VSM_DRTM_KEYROLL_DETECTED"),
    (0x0005_003c, "VSM_SRTM_UNSEAL_POLICY"),
    (0x0005_003d, "VSM_SRTM_ANTI_ROLLBACK_COUNTER"),
    (0x0005_0040, "VTL1_DUMP_CONFIG"),
    (0x0006_0001, "NOAUTHORITY"),
    (0x0006_0002, "AUTHORITYPUBKEY"),
    (0x0007_0001, "FILEPATH"),
    (0x0007_0002, "IMAGESIZE"),
    (0x0007_0003, "HASHALGORITHMID"),
    (0x0007_0004, "AUTHENTICODEHASH"),
    (0x0007_0005, "AUTHORITYISSUER"),
    (0x0007_0006, "AUTHORITYSERIAL"),
    (0x0007_0007, "IMAGEBASE"),
    (0x0007_0008, "AUTHORITYPUBLISHER"),
    (0x0007_0009, "AUTHORITYSHA1THUMBPRINT"),
    (0x0007_000a, "IMAGEVALIDATED"),
    (0x0007_000b, "MODULE_SVN"),
    (0x0007_000c, "MODULE_PLUTON"),
    (0x0007_000d, "MODULE_ORIGINAL_FILENAME"),
    (0x0007_000e, "MODULE_VERSION"),
    (0x0007_000f, "PUBLISHER_OEMNAME"),
    (0x0008_0001, "QUOTE"),
    (0x0008_0002, "QUOTESIGNATURE"),
    (0x0008_0003, "AIKID"),
    (0x0008_0004, "AIKPUBDIGEST"),
    (0x0009_0001, "ELAM_KEYNAME"),
    (0x0009_0002, "ELAM_CONFIGURATION"),
    (0x0009_0003, "ELAM_POLICY"),
    (0x0009_0004, "ELAM_MEASURED"),
    (0x000a_0001, "VBS_VSM_REQUIRED"),
    (0x000a_0002, "VBS_SECUREBOOT_REQUIRED"),
    (0x000a_0003, "VBS_IOMMU_REQUIRED"),
    (0x000a_0004, "VBS_MMIO_NX_REQUIRED"),
    (0x000a_0005, "VBS_MSR_FILTERING_REQUIRED"),
    (0x000a_0006, "VBS_MANDATORY_ENFORCEMENT"),
    (0x000a_0007, "VBS_HVCI_POLICY"),
    (0x000a_0008, "VBS_MICROSOFT_BOOT_CHAIN_REQUIRED"),
    (0x000a_0009, "VBS_DUMP_USES_AMEROOT"),
    (0x000a_000a, "VBS_VSM_NOSECRETS_ENFORCED"),
    (0x000b_0001, "KSR_SIGNATURE"),
    (0x000c_0001, "DRTM_STATE_AUTH"),
    (0x000c_0002, "DRTM_SMM_LEVEL"),
    (0x000c_0003, "DRTM_AMD_SMM_HASH"),
    (0x000c_0004, "DRTM_AMD_SMM_SIGNER_KEY"),
    (0x4001_0001, "TRUSTBOUNDARY"),
    (0x4001_0002, "ELAM_AGGREGATION"),
    (0x4001_0003, "LOADEDMODULE_AGGREGATION"),
    (0x4001_0005, "KSR_AGGREGATION"),
    (0x4001_0006, "KSR_SIGNED_MEASUREMENT_AGGREGATION"),
    (0xc001_0004, "TRUSTPOINT_AGGREGATION"),
];

/// The identifiers whose value is UTF-16 text.
const TEXTS: &[u32] = &[
    0x0005_0009,
    0x0005_000b,
    0x0007_0001,
    0x0007_0005,
    0x0007_0008,
    0x0007_000d,
    0x0007_000f,
    0x0008_0003,
    0x0009_0001,
];

/// What closes the log: the signed quotes of earlier boots, which a copy of the log may have only the start of.
const TRUSTPOINTS: u32 = 0xc001_0004;

/// Nested pairs that fill their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowsEvents<'a> {
    bytes: &'a [u8],
}

/// One pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowsEvent<'a> {
    /// How many aggregations it is in.
    pub depth: usize,
    /// What it is.
    pub id: u32,
    /// Its value; pairs again, listed next, if it is an aggregation.
    pub data: &'a [u8],
}

impl<'a> WindowsEvents<'a> {
    /// Reads pairs that fill `bytes`, of identifiers that Windows uses; `None` if they are something else.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        while !cursor.bytes.is_empty() {
            let id = cursor.u32()?;
            let class = (id & 0x0fff_ffff) >> 16;
            if !(1..=12).contains(&class) {
                return None;
            }
            cursor.sized()?;
        }
        (!bytes.is_empty()).then_some(Self { bytes })
    }

    /// Reads what closes a log and extends nothing, whole or cut off.
    pub(super) fn trust_points(bytes: &'a [u8]) -> Option<Self> {
        (Cursor::new(bytes).u32()? == TRUSTPOINTS).then_some(Self { bytes })
    }

    /// Every pair, an aggregation before what it holds.
    pub fn iter(&self) -> impl Iterator<Item = WindowsEvent<'a>> + use<'a> {
        let mut open = vec![Cursor::new(self.bytes)];
        std::iter::from_fn(move || {
            while open.last().is_some_and(|cursor| cursor.bytes.is_empty()) {
                open.pop();
            }
            let depth = open.len().checked_sub(1)?;
            let cursor = open.last_mut()?;
            let id = cursor.u32().unwrap_or_default();
            // What does not fit ends its level: its value is what is left.
            let data = cursor.sized().unwrap_or_else(|| std::mem::take(&mut cursor.bytes));
            if id & AGGREGATION != 0 && depth < DEPTH_MAX {
                open.push(Cursor::new(data));
            }
            Some(WindowsEvent { depth, id, data })
        })
    }
}

impl WindowsEvent<'_> {
    /// The name of the identifier, if the SDK has one.
    #[must_use]
    pub fn name(&self) -> Option<&'static str> {
        NAMES.iter().find(|(id, _)| *id == self.id).map(|(_, name)| *name)
    }

    /// The value in words: a number, a text, or its first bytes.
    #[must_use]
    pub fn value(&self) -> String {
        if self.id & AGGREGATION != 0 {
            return format!("{} bytes", self.data.len());
        }
        if let Some(text) = text::utf16_text(self.data).filter(|_| TEXTS.contains(&self.id)) {
            return text::plain(&text, VALUE_CHARS_MAX);
        }
        match self.data {
            [byte] => byte.to_string(),
            [a, b, c, d] => u32::from_le_bytes([*a, *b, *c, *d]).to_string(),
            [a, b, c, d, e, f, g, h] => u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]).to_string(),
            long => hex::encode(long.get(..VALUE_BYTES_SHOWN).unwrap_or(long)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(id: u32, data: &[u8]) -> Vec<u8> {
        [&id.to_le_bytes()[..], &(data.len() as u32).to_le_bytes(), data].concat()
    }

    #[test]
    fn pairs_nest_to_a_bound() {
        let debugging = pair(0x0005_0001, &[1]);
        let boundary = pair(0x4001_0001, &[debugging, pair(0x0007_0001, b"\\\0a\0b\0c\0\0\0")].concat());
        let events: Vec<_> = WindowsEvents::parse(&boundary).unwrap().iter().collect();
        assert_eq!(
            events.iter().map(|e| (e.depth, e.name())).collect::<Vec<_>>(),
            [(0, Some("TRUSTBOUNDARY")), (1, Some("OSKERNELDEBUG")), (1, Some("FILEPATH")),]
        );
        assert_eq!((events[1].value(), events[2].value()), ("1".to_owned(), "?abc".to_owned().replace('?', "\\")));
        let deep = (0..1000).fold(Vec::new(), |inner, _| pair(0x4001_0001, &inner));
        assert_eq!(WindowsEvents::parse(&deep).unwrap().iter().map(|e| e.depth).max(), Some(DEPTH_MAX));
        assert_eq!(WindowsEvents::parse(&boundary[..9]), None);
    }
}
