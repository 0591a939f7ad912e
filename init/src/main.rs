//! PID 1 of the build machine and its only program.

fn main() {}
