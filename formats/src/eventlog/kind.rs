//! Event types and their names.

use std::fmt;

/// The type of an event, known or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(pub u32);

/// Source: TCG PC Client Platform Firmware Profile 1.06, section 10.4.1, table 27; from 0x400 on Intel TXT MLE Developer's Guide,
/// appendix F.
const NAMES: &[(u32, &str)] = &[
    (0x0000_0000, "EV_PREBOOT_CERT"),
    (0x0000_0001, "EV_POST_CODE"),
    (0x0000_0003, "EV_NO_ACTION"),
    (0x0000_0004, "EV_SEPARATOR"),
    (0x0000_0005, "EV_ACTION"),
    (0x0000_0006, "EV_EVENT_TAG"),
    (0x0000_0007, "EV_S_CRTM_CONTENTS"),
    (0x0000_0008, "EV_S_CRTM_VERSION"),
    (0x0000_0009, "EV_CPU_MICROCODE"),
    (0x0000_000a, "EV_PLATFORM_CONFIG_FLAGS"),
    (0x0000_000b, "EV_TABLE_OF_DEVICES"),
    (0x0000_000c, "EV_COMPACT_HASH"),
    (0x0000_000d, "EV_IPL"),
    (0x0000_000e, "EV_IPL_PARTITION_DATA"),
    (0x0000_000f, "EV_NONHOST_CODE"),
    (0x0000_0010, "EV_NONHOST_CONFIG"),
    (0x0000_0011, "EV_NONHOST_INFO"),
    (0x0000_0012, "EV_OMIT_BOOT_DEVICE_EVENTS"),
    (0x0000_0013, "EV_POST_CODE2"),
    (0x0000_0401, "EV_PCRMAPPING"),
    (0x0000_0402, "EV_HASH_START"),
    (0x0000_0403, "EV_COMBINED_HASH"),
    (0x0000_0404, "EV_MLE_HASH"),
    (0x0000_040a, "EV_BIOSAC_REG_DATA"),
    (0x0000_040b, "EV_CPU_SCRTM_STAT"),
    (0x0000_040c, "EV_LCP_CONTROL_HASH"),
    (0x0000_040d, "EV_ELEMENTS_HASH"),
    (0x0000_040e, "EV_STM_HASH"),
    (0x0000_040f, "EV_OSSINITDATA_CAP_HASH"),
    (0x0000_0410, "EV_SINIT_PUBKEY_HASH"),
    (0x0000_0411, "EV_LCP_HASH"),
    (0x0000_0412, "EV_LCP_DETAILS_HASH"),
    (0x0000_0413, "EV_LCP_AUTHORITIES_HASH"),
    (0x0000_0414, "EV_NV_INFO_HASH"),
    (0x0000_0415, "EV_COLD_BOOT_BIOS_HASH"),
    (0x0000_0416, "EV_KM_HASH"),
    (0x0000_0417, "EV_BPM_HASH"),
    (0x0000_0418, "EV_KM_INFO_HASH"),
    (0x0000_0419, "EV_BPM_INFO_HASH"),
    (0x0000_041a, "EV_BOOT_POL_HASH"),
    (0x0000_04ff, "EV_CAP_VALUE"),
    (0x8000_0001, "EV_EFI_VARIABLE_DRIVER_CONFIG"),
    (0x8000_0002, "EV_EFI_VARIABLE_BOOT"),
    (0x8000_0003, "EV_EFI_BOOT_SERVICES_APPLICATION"),
    (0x8000_0004, "EV_EFI_BOOT_SERVICES_DRIVER"),
    (0x8000_0005, "EV_EFI_RUNTIME_SERVICES_DRIVER"),
    (0x8000_0006, "EV_EFI_GPT_EVENT"),
    (0x8000_0007, "EV_EFI_ACTION"),
    (0x8000_0008, "EV_EFI_PLATFORM_FIRMWARE_BLOB"),
    (0x8000_0009, "EV_EFI_HANDOFF_TABLES"),
    (0x8000_000a, "EV_EFI_PLATFORM_FIRMWARE_BLOB2"),
    (0x8000_000b, "EV_EFI_HANDOFF_TABLES2"),
    (0x8000_000c, "EV_EFI_VARIABLE_BOOT2"),
    (0x8000_000d, "EV_EFI_GPT_EVENT2"),
    (0x8000_0010, "EV_EFI_HCRTM_EVENT"),
    (0x8000_00e0, "EV_EFI_VARIABLE_AUTHORITY"),
    (0x8000_00e1, "EV_EFI_SPDM_FIRMWARE_BLOB"),
    (0x8000_00e2, "EV_EFI_SPDM_FIRMWARE_CONFIG"),
    (0x8000_00e3, "EV_EFI_SPDM_DEVICE_POLICY"),
    (0x8000_00e4, "EV_EFI_SPDM_DEVICE_AUTHORITY"),
];

impl EventType {
    /// Informative: extends nothing.
    pub const NO_ACTION: Self = Self(0x0000_0003);
    /// The firmware's hand-over, or an error in it.
    pub const SEPARATOR: Self = Self(0x0000_0004);
    /// A word of the platform.
    pub const ACTION: Self = Self(0x0000_0005);
    /// The version of the code that starts the machine.
    pub const S_CRTM_VERSION: Self = Self(0x0000_0008);
    /// Settings of the platform; trust domains put what they are given here.
    pub const PLATFORM_CONFIG_FLAGS: Self = Self(0x0000_000a);
    /// Devices that the platform found.
    pub const TABLE_OF_DEVICES: Self = Self(0x0000_000b);
    /// What runs beside the host: management engines, the cloud.
    pub const NONHOST_INFO: Self = Self(0x0000_0011);
    /// Attempts to boot are not measured.
    pub const OMIT_BOOT_DEVICE_EVENTS: Self = Self(0x0000_0012);
    /// A tagged structure; the kernel's EFI stub writes two of them.
    pub const EVENT_TAG: Self = Self(0x0000_0006);
    /// Boot loaders' own; systemd-stub names UKI sections in it.
    pub const IPL: Self = Self(0x0000_000d);
    /// The dynamic root of trust started, and reset its registers to zero.
    pub const HASH_START: Self = Self(0x0000_0402);
    /// A variable that steers the firmware, such as those of Secure Boot.
    pub const VARIABLE_DRIVER_CONFIG: Self = Self(0x8000_0001);
    /// A boot variable.
    pub const VARIABLE_BOOT: Self = Self(0x8000_0002);
    /// A PE image that was started.
    pub const BOOT_SERVICES_APPLICATION: Self = Self(0x8000_0003);
    /// A driver that runs until the system takes over: option ROMs among them.
    pub const BOOT_SERVICES_DRIVER: Self = Self(0x8000_0004);
    /// A driver that stays when the system has taken over.
    pub const RUNTIME_SERVICES_DRIVER: Self = Self(0x8000_0005);
    /// The partition table of the disk that is booted from.
    pub const GPT: Self = Self(0x8000_0006);
    /// A word of the firmware.
    pub const EFI_ACTION: Self = Self(0x8000_0007);
    /// Tables that the firmware hands over.
    pub const HANDOFF_TABLES: Self = Self(0x8000_0009);
    /// Tables that the firmware hands over, with a description.
    pub const HANDOFF_TABLES2: Self = Self(0x8000_000b);
    /// A boot variable, name and all.
    pub const VARIABLE_BOOT2: Self = Self(0x8000_000c);
    /// The partition table without what differs from disk to disk.
    pub const GPT2: Self = Self(0x8000_000d);
    /// The entry of a database that vouched for an image.
    pub const VARIABLE_AUTHORITY: Self = Self(0x8000_00e0);
    /// The hardware measured the firmware before the CPU ran it.
    pub const HCRTM: Self = Self(0x8000_0010);

    /// The name in the specification, if it has one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(value, _)| *value == self.0).map(|(_, name)| *name)
    }

    /// The type of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, known)| *known == name).map(|(value, _)| Self(*value))
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#010x}", self.0),
        }
    }
}
