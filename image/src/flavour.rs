//! For which kind of machine an image is: the kernel's drivers and the program's way to the authority differ, nothing else does.

/// A kind of machine. Each has an image, and so reference values, of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// A disposable virtual machine, whose kernel has no driver for any network card.
    Vm,
    /// A server that boots from its own disk.
    Metal,
}

impl Flavour {
    /// The kernel's fragments, in the order in which they are read. Where two name one option, the later one counts.
    pub(crate) const fn fragments(self) -> &'static [&'static str] {
        const ALL: &[&str] = &["base", "boot", "virtio", "tpm", "sandbox", "verity", "hardening", "metal"];
        match self {
            Self::Vm => ALL.split_at(ALL.len() - 1).0,
            Self::Metal => ALL,
        }
    }

    /// The largest kernel image in bytes: what firmware loads and measures on every boot.
    #[must_use]
    pub const fn kernel_bytes_max(self) -> u64 {
        match self {
            Self::Vm => 4_718_592,
            Self::Metal => 6 << 20,
        }
    }

    /// The largest UKI in bytes: what firmware loads from a slow disk and hashes on every boot.
    #[must_use]
    pub const fn uki_bytes_max(self) -> u64 {
        match self {
            Self::Vm => 8 << 20,
            Self::Metal => 10 << 20,
        }
    }

    /// The package of the appliance's program, whose one binary has the same name.
    pub(crate) const fn package(self) -> &'static str {
        match self {
            Self::Vm => "kiln-init",
            Self::Metal => "kiln-wire",
        }
    }

    /// The file with the kernel's command line.
    pub(crate) const fn cmdline(self) -> &'static str {
        match self {
            Self::Vm => "image/cmdline",
            Self::Metal => "image/cmdline-metal",
        }
    }
}
