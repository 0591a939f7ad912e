//! The end of the machine: whatever happened, it is powered off and says why.

use std::io::Write as _;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::system::{RebootCommand, reboot};

use crate::fault;

/// Makes a panic the fault that it is. Source: a PID 1 that exits is a kernel panic, whose message names no reason.
pub(crate) fn off_on_panic() {
    std::panic::set_hook(Box::new(|panic| off(&fault::line("panic", &panic.to_string()))));
}

/// Ends every process but PID 1.
pub(crate) fn end_everyone() {
    match kill(Pid::from_raw(-1), Signal::SIGKILL) {
        // The only error that PID 1 can get: there is nobody.
        Ok(()) | Err(_) => {}
    }
}

/// Ends every process, says `line` on the console and powers off.
pub(crate) fn off(line: &str) -> ! {
    end_everyone();
    let mut console = std::io::stderr();
    // On a line of its own, whatever was said before. There is nobody to tell that the console does not work.
    let said = write!(console, "\n{line}\n").and_then(|()| console.flush());
    let drained = rustix::termios::tcdrain(&console);
    drop((said, drained));
    rustix::fs::sync();
    for command in [RebootCommand::PowerOff, RebootCommand::Halt] {
        if let Err(error) = reboot(command) {
            drop(writeln!(console, "kiln: {command:?} failed: {error}"));
        }
    }
    loop {
        std::thread::sleep(Duration::MAX);
    }
}
