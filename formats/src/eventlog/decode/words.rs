//! Decoded data as a person reads it: one line, inert, bounded. Never a basis for a decision.

use std::fmt;

use super::{Blob, Decoded, Loader, Separator, Tables, Tag, Variable, VariableValue, Word, plain, text};

/// How many characters of an event's own text are shown.
const TEXT_CHARS_MAX: usize = 512;
/// How many entries of a list are shown.
const ENTRIES_SHOWN: usize = 8;
/// How many bytes of unknown data are shown.
const BYTES_SHOWN: usize = 32;

impl fmt::Display for Decoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Separator(Separator::HandOver) => f.write_str("the firmware hands over"),
            Self::Separator(Separator::Error(code)) => write!(f, "the firmware reports error {code:#x}"),
            Self::Separator(Separator::Windows) => f.write_str("Windows hands over"),
            Self::Text(text) if text.trim_end().is_empty() => f.write_str("nothing but spaces"),
            Self::Text(text) => f.write_str(&inert(text.trim_end())),
            Self::Variable(variable) => write_variable(f, variable),
            Self::Image(image) => write!(f, "{} ({} bytes)", image.path, image.image_bytes),
            Self::Blob(blob) => write_blob(f, blob),
            Self::Tables(tables) => write_tables(f, tables),
            Self::Partitions(table) => {
                write!(f, "disk {}: ", table.disk)?;
                write_list(
                    f,
                    table.partitions().filter(|partition| !partition.purpose.is_zero()).map(|partition| {
                        let purpose =
                            partition.purpose.name().map_or_else(|| partition.purpose.to_string(), str::to_owned);
                        format!("{} ({purpose}, {})", inert(&partition.name), partition.identity)
                    }),
                )
            }
            Self::Loader(loader) => write_loader(f, loader),
            Self::Tag(tag) => write_tag(f, tag),
            Self::Windows(events) => {
                f.write_str("Windows: ")?;
                write_list(
                    f,
                    events.iter().map(|event| {
                        let name = event.name().map_or_else(|| format!("{:#010x}", event.id), str::to_owned);
                        format!("{name} {}", event.value())
                    }),
                )
            }
            Self::TrustDomain(domain) => match text::ascii_text(domain.data) {
                Some(words) => write!(f, "{}: {}", inert(domain.name), inert(words)),
                None => write!(f, "{}: {} bytes", inert(domain.name), domain.data.len()),
            },
            Self::Isolation(kind) => write!(f, "the cloud isolates the machine by: {kind}"),
            Self::StartupLocality(locality) => write!(f, "the TPM was started from locality {locality}"),
            Self::Manifest(manifest) => {
                write!(f, "reference manifest {}", manifest.reference)?;
                write!(f, " of {} {}", inert(&manifest.manufacturer), inert(&manifest.model))
            }
            Self::Empty => f.write_str("no data"),
            Self::Opaque(bytes) => {
                let more = if bytes.len() > BYTES_SHOWN { "..." } else { "" };
                write!(f, "{} bytes {}{more}", bytes.len(), hex::encode(bytes.get(..BYTES_SHOWN).unwrap_or(bytes)))
            }
        }
    }
}

fn inert(text: &str) -> String {
    plain(text, TEXT_CHARS_MAX)
}

/// The first entries, and how many there are if there are more.
fn write_list(f: &mut fmt::Formatter<'_>, entries: impl Iterator<Item = String>) -> fmt::Result {
    let mut count = 0_usize;
    for entry in entries {
        match count {
            0 => f.write_str(&entry)?,
            1..ENTRIES_SHOWN => write!(f, ", {entry}")?,
            _ => {}
        }
        count = count.saturating_add(1);
    }
    match count {
        0 => f.write_str("nothing"),
        1..=ENTRIES_SHOWN => Ok(()),
        more => write!(f, ", and {} more", more.saturating_sub(ENTRIES_SHOWN)),
    }
}

fn write_variable(f: &mut fmt::Formatter<'_>, variable: &Variable<'_>) -> fmt::Result {
    write!(f, "{} ", inert(&variable.name))?;
    match &variable.value {
        VariableValue::Unset => f.write_str("is not set"),
        VariableValue::Switch(on) => f.write_str(if *on { "is on" } else { "is off" }),
        VariableValue::Database(database) => {
            f.write_str("holds ")?;
            write_list(f, database.iter().map(|signature| signature.to_string()))
        }
        VariableValue::Authority(signature) => write!(f, "vouches: {signature}"),
        VariableValue::Certificate { subject } => write!(f, "vouches: certificate \"{subject}\""),
        VariableValue::Order(numbers) => {
            f.write_str("is ")?;
            write_list(f, numbers.iter().map(|number| format!("{number:04X}")))
        }
        VariableValue::LoadOption(option) => {
            write!(f, "starts \"{}\" from {}", inert(&option.description), option.path)
        }
        VariableValue::Text(text) => write!(f, "is {}", inert(text.trim_end())),
        VariableValue::Bytes => {
            let more = if variable.data.len() > BYTES_SHOWN { "..." } else { "" };
            let shown = variable.data.get(..BYTES_SHOWN).unwrap_or(variable.data);
            write!(f, "is {} bytes {}{more}", variable.data.len(), hex::encode(shown))
        }
    }
}

fn write_blob(f: &mut fmt::Formatter<'_>, blob: &Blob) -> fmt::Result {
    let what = blob.description.as_deref().map_or_else(|| "firmware".to_owned(), inert);
    write!(f, "{what}, {} bytes at {:#x}", blob.blob_bytes, blob.address)
}

fn write_tables(f: &mut fmt::Formatter<'_>, tables: &Tables) -> fmt::Result {
    if let Some(description) = &tables.description {
        write!(f, "{}: ", inert(description))?;
    }
    write_list(
        f,
        tables.tables.iter().map(|(guid, address)| {
            let name = guid.name().map_or_else(|| guid.to_string(), str::to_owned);
            format!("{name} at {address:#x}")
        }),
    )
}

fn write_loader(f: &mut fmt::Formatter<'_>, loader: &Loader) -> fmt::Result {
    match loader {
        Loader::Grub { word: Word::Command, text } => write!(f, "GRUB command: {}", inert(text)),
        Loader::Grub { word: Word::KernelCommandLine, text } => write!(f, "kernel command line: {}", inert(text)),
        Loader::Grub { word: Word::ModuleCommandLine, text } => write!(f, "module command line: {}", inert(text)),
        Loader::File(path) => write!(f, "file {}", inert(path)),
        Loader::Section(name) => write!(f, "UKI section {name}"),
        Loader::Shim(name) => write!(f, "shim's {name}"),
        Loader::Text(text) | Loader::Words(text) => f.write_str(&inert(text)),
    }
}

fn write_tag(f: &mut fmt::Formatter<'_>, tag: &Tag<'_>) -> fmt::Result {
    match tag.name {
        Some(name) => f.write_str(name)?,
        None => write!(f, "tag {:#010x}", tag.id)?,
    }
    match text::ascii_text(tag.data).map(str::to_owned).or_else(|| text::utf16_text(tag.data)) {
        Some(words) => write!(f, " ({})", inert(&words)),
        None => write!(f, " ({} bytes)", tag.data.len()),
    }
}
