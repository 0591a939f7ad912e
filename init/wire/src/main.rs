//! A server's only program: PID 1, the builder, or the wire. What each does is in its package's `lib.rs`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use kiln_init::Machine;

fn main() -> ExitCode {
    kiln_init::start(Machine::Metal { builder: kiln_builder::main_over, wire: kiln_wire::main })
}
