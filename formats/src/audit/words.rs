//! What changed, said so that a person knows what to look at.
//!
//! A sentence states as a fact only what hashes to its digest. Where the log merely claims what was measured, the sentence says
//! that something changed and calls it by the log's name for it.

use super::diff::{Change, Placed, hex};
use crate::boot::BootEvent;
use crate::event::Event as Word;
use crate::eventlog::decode::{Decoded, Image, Loader, Separator, Signature, Variable, VariableValue, plain};
use crate::eventlog::{Content, EventType};
use crate::pcr::{Bank, PcrIndex};

/// How many characters of a text are quoted.
const QUOTE_CHARS_MAX: usize = 160;
/// How many tokens or entries of a list are named.
const NAMED_MAX: usize = 8;

/// What sentences may draw on beside the two events.
pub(super) struct Context<'c> {
    pub(super) bank: Bank,
    pub(super) command_lines: &'c [&'c str],
    pub(super) network_devices: &'c [String],
}

/// One difference as a sentence.
pub(super) fn difference(
    change: Change,
    register: PcrIndex,
    before: Option<&Placed<'_, '_>>,
    after: Option<&Placed<'_, '_>>,
    context: &Context<'_>,
) -> String {
    match (change, before, after) {
        (Change::Changed, Some(a), Some(b)) => changed(a.event, b.event, context),
        (Change::Reordered, Some(a), Some(b)) => {
            let (from, to, name) = (a.number, b.number, name(b.event, context));
            format!("{name} was measured at another place: it is event {to}, it was event {from}")
        }
        (Change::Relabelled, Some(a), Some(b)) => {
            format!(
                "the same was measured, and described otherwise: \"{}\", it was \"{}\"",
                inert(b.event),
                inert(a.event)
            )
        }
        (_, None, Some(b)) => format!("{register} gained an event: {}", gained(b.event, context)),
        (_, Some(a), None) => format!("{register} lost an event: {}", name(a.event, context)),
        _ => "the boots cannot be compared".to_owned(),
    }
}

fn inert(event: &BootEvent<'_>) -> String {
    plain(&event.to_string(), QUOTE_CHARS_MAX)
}

/// An event that is new.
fn gained(event: &BootEvent<'_>, context: &Context<'_>) -> String {
    match event.content().as_ref().map(Content::alleged) {
        Some(Decoded::Image(image)) => format!("{} was loaded", loaded(image, event.event_type(), context)),
        _ => name(event, context),
    }
}

/// What an image is: an option ROM, of a network card or of another device; a program.
pub(super) fn loaded(image: &Image<'_>, event_type: Option<EventType>, context: &Context<'_>) -> String {
    let device = image.path.pci_device();
    let is_network = image.path.is_network() || device.as_ref().is_some_and(|d| context.network_devices.contains(d));
    let path = match image.path.to_string() {
        empty if empty.is_empty() => "from memory, as the log says".to_owned(),
        path => format!("{}, as the log says", plain(&path, QUOTE_CHARS_MAX)),
    };
    let is_driver = event_type != Some(EventType::BOOT_SERVICES_APPLICATION);
    match (image.path.is_option_rom(), is_driver, is_network) {
        (true, _, true) | (false, true, true) => format!("an option ROM of a network card ({path})"),
        (true, _, false) => format!("an option ROM of a device ({path})"),
        (false, true, false) => format!("a driver ({path})"),
        (false, false, true) => format!("a program from the network ({path})"),
        (false, false, false) => format!("a program ({path})"),
    }
}

/// An event by a name that people use.
pub(super) fn name(event: &BootEvent<'_>, context: &Context<'_>) -> String {
    if let Some(line) = known_line(event, context) {
        return format!("the kernel command line `{}`", plain(line, QUOTE_CHARS_MAX));
    }
    let Some(content) = event.content() else { return runtime_name(event) };
    match content.alleged() {
        Decoded::Loader(Loader::Section(section)) => match &content {
            Content::Verified(_) => format!("the name of the image's section {section}"),
            _ => section_name(section),
        },
        Decoded::Tag(tag) => match tag.name {
            Some("initrd") => "the initrd that the kernel was given".to_owned(),
            Some("kernel command line") => "the kernel command line".to_owned(),
            Some(name) => format!("the {name}"),
            None => inert(event),
        },
        Decoded::Image(image) => loaded(image, event.event_type(), context),
        _ => format!("\"{}\"", inert(event)),
    }
}

fn section_name(section: &str) -> String {
    match section {
        ".linux" => "the kernel in the image (.linux)".to_owned(),
        ".initrd" => "the initrd in the image (.initrd)".to_owned(),
        ".cmdline" => "the kernel command line in the image (.cmdline)".to_owned(),
        other => format!("the image's section {other}"),
    }
}

/// A word of the running system. Its text is a fact if it hashes to the digest.
fn runtime_name(event: &BootEvent<'_>) -> String {
    match event.text().map(str::parse::<Word>) {
        Some(Ok(word)) => word_name(&word),
        _ => format!("\"{}\" by the running system", inert(event)),
    }
}

fn word_name(word: &Word) -> String {
    match word {
        Word::Init(_) => "PID 1's program".to_owned(),
        Word::Uplink(_) => "how the server reaches its authority".to_owned(),
        Word::Configuration(_) => "the site's configuration".to_owned(),
        Word::Trust(_) => "the trust bundle".to_owned(),
        Word::Job(_) => "the job".to_owned(),
        Word::Decision(_) => "the decision on the job".to_owned(),
        Word::Input(name, _) => format!("the input {name}"),
        Word::StepBegin(name, _) => format!("the start of step {name}"),
        Word::StepTrace(name, _) => format!("the trace of step {name}"),
        Word::StepEnd(name, _) => format!("the end of step {name}"),
        Word::Output(name, _) => format!("the output {name}"),
        Word::Provenance(_) => "the provenance".to_owned(),
        Word::Manifest(_) => "the manifest of the evidence".to_owned(),
        Word::Final => "the end of the log".to_owned(),
    }
}

/// The command line that hashes to the event's digest, among those that are known.
pub(super) fn known_line<'l>(event: &BootEvent<'_>, context: &Context<'l>) -> Option<&'l str> {
    let digest = event.digest(context.bank)?;
    let measured_as = |line: &str| {
        let wide: Vec<u8> = line.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let narrow = [line.as_bytes(), b"\0"].concat();
        [context.bank.hash(&wide), context.bank.hash(line.as_bytes()), context.bank.hash(&narrow)]
    };
    context.command_lines.iter().find(|line| measured_as(line).contains(&Some(digest))).copied()
}

/// The command line that an event proves, by its own data or as one that is known.
fn command_line(event: &BootEvent<'_>, context: &Context<'_>) -> Option<String> {
    if let Some(line) = known_line(event, context) {
        return Some(line.to_owned());
    }
    match event.content()?.fact()? {
        Decoded::Loader(Loader::Text(text)) => Some(text.clone()),
        Decoded::Loader(Loader::Grub { text, .. }) => Some(text.clone()),
        _ => None,
    }
}

/// The same thing, measured with another digest.
fn changed(before: &BootEvent<'_>, after: &BootEvent<'_>, context: &Context<'_>) -> String {
    let lines = command_line(before, context).zip(command_line(after, context));
    if let Some(words) = lines.and_then(|(a, b)| tokens(&label(after), &a, &b)) {
        return words;
    }
    let (content_before, content_after) = (before.content(), after.content());
    let facts = content_before.as_ref().and_then(Content::fact).zip(content_after.as_ref().and_then(Content::fact));
    facts.and_then(|(a, b)| fact_changed(a, b)).unwrap_or_else(|| {
        let altered = matches!(content_after, Some(Content::Mismatched(_)));
        let doubt = if altered { "; what the log says of it is not what was measured" } else { "" };
        let (from, to) = (hex(before.digest(context.bank)), hex(after.digest(context.bank)));
        format!("{} changed: {to}, it was {from}{doubt}", name(after, context))
    })
}

/// What kind of line an event has. GRUB's commands are lines too.
fn label(event: &BootEvent<'_>) -> String {
    match event.content().as_ref().map(Content::alleged) {
        Some(Decoded::Loader(Loader::Grub { word: crate::eventlog::decode::Word::Command, .. })) => {
            "the GRUB command".to_owned()
        }
        _ => "the kernel command line".to_owned(),
    }
}

/// Which tokens a line gained and lost; `None` if none, as when only their order changed.
fn tokens(label: &str, before: &str, after: &str) -> Option<String> {
    let missing = |from: &str, of: &str| {
        let mut left: Vec<&str> = of.split_whitespace().collect();
        let mut missing = Vec::new();
        for token in from.split_whitespace() {
            match left.iter().position(|other| *other == token) {
                Some(at) => drop(left.swap_remove(at)),
                None => missing.push(format!("`{}`", plain(token, QUOTE_CHARS_MAX))),
            }
        }
        missing.truncate(NAMED_MAX);
        missing.join(" and ")
    };
    let (gained, lost) = (missing(after, before), missing(before, after));
    match (gained.is_empty(), lost.is_empty()) {
        (true, true) => None,
        (false, true) => Some(format!("{label} gained {gained}")),
        (true, false) => Some(format!("{label} lost {lost}")),
        (false, false) => Some(format!("{label} gained {gained} and lost {lost}")),
    }
}

/// Two facts of one kind.
fn fact_changed(before: &Decoded<'_>, after: &Decoded<'_>) -> Option<String> {
    match (before, after) {
        (Decoded::Variable(a), Decoded::Variable(b)) => variable_changed(a, b),
        (Decoded::Text(a), Decoded::Text(b)) => Some(format!(
            "the firmware says \"{}\", it said \"{}\"",
            plain(b, QUOTE_CHARS_MAX),
            plain(a, QUOTE_CHARS_MAX)
        )),
        (_, Decoded::Separator(Separator::Error(code))) => {
            Some(format!("the firmware reports error {code:#x} and hands over without having measured"))
        }
        (Decoded::Partitions(_), Decoded::Partitions(_)) => {
            Some(format!("the partition table changed: {}, it was {}", shown(after), shown(before)))
        }
        (Decoded::Windows(_), Decoded::Windows(_)) => Some("what Windows measured of itself changed".to_owned()),
        _ => None,
    }
}

fn shown(decoded: &Decoded<'_>) -> String {
    plain(&decoded.to_string(), QUOTE_CHARS_MAX)
}

fn variable_changed(before: &Variable<'_>, after: &Variable<'_>) -> Option<String> {
    let name = plain(&after.name, QUOTE_CHARS_MAX);
    let state = |on: bool| if on { "on" } else { "off" };
    Some(match (&before.value, &after.value) {
        (_, VariableValue::Switch(on)) if name == "SecureBoot" => {
            let was = if let VariableValue::Switch(was) = before.value { state(was) } else { "not set" };
            format!("Secure Boot is {}, it was {was}", state(*on))
        }
        (_, VariableValue::Unset) if name == "SecureBoot" => "Secure Boot is off: the variable is not set".to_owned(),
        (VariableValue::Switch(was), VariableValue::Switch(on)) => {
            format!("the variable {name} is {}, it was {}", state(*on), state(*was))
        }
        (_, VariableValue::Unset) => format!("the variable {name} is not set, it was"),
        (VariableValue::Unset | VariableValue::Database(_), VariableValue::Database(database)) => {
            let was: Vec<Signature<'_>> =
                if let VariableValue::Database(was) = before.value { was.iter().collect() } else { Vec::new() };
            entries(&name, &was, &database.iter().collect::<Vec<_>>())
        }
        (VariableValue::LoadOption(a), VariableValue::LoadOption(b)) => {
            let options = if a.options == b.options { "" } else { ", with other options" };
            let (was, is) = (plain(&a.description, QUOTE_CHARS_MAX), plain(&b.description, QUOTE_CHARS_MAX));
            format!("{name} starts \"{is}\" from {}{options}; it started \"{was}\" from {}", b.path, a.path)
        }
        (VariableValue::Authority(_) | VariableValue::Certificate { .. }, _) => {
            let (is, was) = (shown(&Decoded::Variable(after.clone())), shown(&Decoded::Variable(before.clone())));
            format!("another key vouched for what was started: {is}; it was {was}")
        }
        _ => {
            let (is, was) = (shown(&Decoded::Variable(after.clone())), shown(&Decoded::Variable(before.clone())));
            format!("the variable {name} changed: {is}; it was {was}")
        }
    })
}

/// Which entries a database gained and lost.
fn entries(name: &str, before: &[Signature<'_>], after: &[Signature<'_>]) -> String {
    let missing = |from: &[Signature<'_>], of: &[Signature<'_>]| {
        let new: Vec<_> = from.iter().filter(|entry| !of.contains(entry)).map(ToString::to_string).collect();
        let more = if new.len() > NAMED_MAX {
            format!(" and {} more", new.len().saturating_sub(NAMED_MAX))
        } else {
            String::new()
        };
        format!("{}{more}", new.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(" and "))
    };
    let (gained, lost) = (missing(after, before), missing(before, after));
    match (gained.is_empty(), lost.is_empty()) {
        (false, true) => format!("the database {name} gained {gained}"),
        (true, false) => format!("the database {name} lost {lost}"),
        (false, false) => format!("the database {name} gained {gained} and lost {lost}"),
        (true, true) => format!("the entries of the database {name} are in another order"),
    }
}
