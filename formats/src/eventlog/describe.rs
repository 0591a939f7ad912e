//! An event in a few words, for messages to people. Never a basis for a decision.

use super::{Event, EventType};

/// How many characters of an event's own text are shown.
const TEXT_CHARS_MAX: usize = 120;

/// The kernel EFI stub's tags. Source: Linux, `drivers/firmware/efi/libstub/efistub.h`.
const TAGS: [(u32, &str); 2] = [(0x8f3b_22ec, "Linux initrd"), (0x8f3b_22ed, "kernel command line (load options)")];

/// The event's type, and its text where its type has one. Control and directional characters are shown as `?`.
#[must_use]
pub fn describe(event: &Event<'_>) -> String {
    match detail(event) {
        Some(text) if !text.is_empty() => format!("{} \"{}\"", event.event_type, plain(&text)),
        _ => event.event_type.to_string(),
    }
}

fn detail(event: &Event<'_>) -> Option<String> {
    match event.event_type {
        EventType::EFI_ACTION => Some(String::from_utf8_lossy(event.data).into_owned()),
        EventType::SEPARATOR => Some(hex::encode(event.data.get(..4)?)),
        EventType::IPL => Some(utf16(event.data).unwrap_or_else(|| String::from_utf8_lossy(event.data).into_owned())),
        EventType::EVENT_TAG => {
            let tag = u32::from_le_bytes(*event.data.first_chunk()?);
            TAGS.iter().find(|(id, _)| *id == tag).map(|(_, name)| (*name).to_owned())
        }
        EventType::VARIABLE_DRIVER_CONFIG | EventType::VARIABLE_BOOT => variable_name(event.data),
        _ => None,
    }
}

/// The name in a `UEFI_VARIABLE_DATA`: GUID, two 64-bit lengths, the name in UTF-16.
fn variable_name(data: &[u8]) -> Option<String> {
    let chars = usize::try_from(u64::from_le_bytes(*data.get(16..)?.first_chunk()?)).ok()?;
    let end = chars.checked_mul(2)?.checked_add(32)?;
    utf16(data.get(32..end)?)
}

/// UTF-16 text that ends at its first NUL; `None` if it is not text in the basic plane's printable part.
fn utf16(data: &[u8]) -> Option<String> {
    let units = data.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).take_while(|unit| *unit != 0);
    let text: String = char::decode_utf16(units).collect::<Result<_, _>>().ok()?;
    (!text.is_empty() && text.is_ascii()).then_some(text)
}

fn plain(text: &str) -> String {
    let inert = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.trim_end_matches('\0').chars().take(TEXT_CHARS_MAX).map(inert).collect()
}
