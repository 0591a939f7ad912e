//! `kiln-confine`: runs one command under every layer of kiln-sandbox, from anyone's script. docs/kiln-confine.md is its manual.
//!
//! In reading order: [`arguments`] is what a person types and [`document`] what a policy file says, with [`quantity`] and [`bind`]
//! for the words in both; [`effective`] puts the two together and makes a policy of them; [`run`] takes a [`slot`], starts the
//! step, passes on what it says ([`relay`]) and the signals that come ([`signals`]), and waits; [`end`] names how it ended, in a
//! number and in words; [`report`] and [`status`] tell programs, the first in a [`place`] that was opened before anything ran, and
//! [`say`] tells people; [`refusal`] is every reason for not running, with its remedy, in which [`kind`] names what a file is.
//! [`write`] is how relay and status lines get rid of bytes.
//!
//! Deliberately absent: standard input, terminals and inherited descriptors for the command, networks, and any fallback. What this
//! kernel cannot give is refused, unless it was given up by name.

#![forbid(unsafe_code)]

mod arguments;
mod bind;
mod document;
mod effective;
mod end;
mod kind;
mod place;
mod quantity;
mod refusal;
mod relay;
mod report;
mod run;
mod say;
mod signals;
mod slot;
mod status;
mod write;

use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::Arguments;

fn main() -> ExitCode {
    run::main(Arguments::parse())
}
