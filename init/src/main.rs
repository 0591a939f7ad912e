//! The appliance's only program. What it does is in `lib.rs`, in reading order.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    kiln_init::start(kiln_init::Machine::Virtual { builder: kiln_builder::main })
}
