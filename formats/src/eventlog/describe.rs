//! An event in one line, for messages to people. Never a basis for a decision.

use super::Event;
use super::decode::Decoded;

/// The event's type, and what its data says where it says anything. Control and directional characters are shown as `?`.
#[must_use]
pub fn describe(event: &Event<'_>) -> String {
    let content = event.content();
    match content.alleged() {
        Decoded::Empty | Decoded::Opaque(_) => event.event_type.to_string(),
        _ => format!("{} \"{content}\"", event.event_type),
    }
}
