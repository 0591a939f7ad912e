//! `kiln doctor`: what this host has, and what it lacks.

use clap::Args;
use kiln_image::packages;
use kiln_image::progress::Silent;
use kiln_qemu::{Accelerator, Tools, probe};
use serde::Serialize;

use crate::exit::{Exit, Result};
use crate::order::unless_interrupted;
use crate::screen::Screen;
use crate::{document, host};

/// What the kernel's source, its objects and the images take together, in bytes: 6 GiB were seen.
const DISK_BYTES_MIN: u64 = 10 << 30;

/// Look at this host: packages, QEMU, TPM, firmware, whether KVM really runs a guest, disk space. Changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln doctor
  kiln doctor --json")]
pub(crate) struct Doctor {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Look {
    what: &'static str,
    good: bool,
    found: String,
}

impl Doctor {
    pub(crate) fn run(self, screen: &Screen) -> Result {
        let looks = [packages_installed(), machine_tools(), accelerator(screen)?, checkout(), space()];
        if self.json {
            document::print_json(&looks)?;
        } else {
            for Look { what, good, found } in &looks {
                println!("{} {what:<12} {found}", if *good { "ok  " } else { "LACK" });
            }
        }
        Ok(if looks.iter().all(|look| look.good) { Exit::Done } else { Exit::Infrastructure })
    }
}

fn packages_installed() -> Look {
    let what = "packages";
    match packages::missing(&Silent, &packages::HOST_PACKAGES) {
        Ok(missing) if missing.is_empty() => Look { what, good: true, found: "all installed".to_owned() },
        Ok(missing) => {
            let names: Vec<_> = missing.iter().map(|package| package.name).collect();
            let found = format!("missing; as root: apt-get install --no-install-recommends {}", names.join(" "));
            Look { what, good: false, found }
        }
        Err(error) => Look { what, good: false, found: error.to_string() },
    }
}

fn tools() -> std::result::Result<Tools, kiln_qemu::MissingTools> {
    Tools::find(&std::env::var_os("PATH").unwrap_or_default())
}

fn machine_tools() -> Look {
    let what = "machines";
    match tools() {
        Ok(tools) => {
            let found = [&tools.qemu, &tools.swtpm, &tools.firmware_code].map(|path| path.display().to_string());
            Look { what, good: true, found: found.join(", ") }
        }
        Err(error) => Look { what, good: false, found: error.to_string() },
    }
}

/// TCG is no lack: it is slow, and that is said.
fn accelerator(screen: &Screen) -> Result<Look> {
    let what = "accelerator";
    let Ok(tools) = tools() else {
        return Ok(Look { what, good: false, found: "not probed: there is no QEMU to probe it with".to_owned() });
    };
    let choice = unless_interrupted(async { Ok(probe(&tools).await) })?;
    screen.clear();
    let slow = if choice.accelerator == Accelerator::Tcg { " (about 15 times slower)" } else { "" };
    Ok(Look { what, good: true, found: format!("{choice}{slow}") })
}

fn checkout() -> Look {
    match host::checkout() {
        Ok(checkout) => Look { what: "checkout", good: true, found: checkout.root().display().to_string() },
        Err(failure) => Look { what: "checkout", good: false, found: failure.report.to_string() },
    }
}

fn space() -> Look {
    let what = "disk space";
    let cache = match host::cache() {
        Ok(cache) => cache,
        Err(failure) => return Look { what, good: false, found: failure.report.to_string() },
    };
    match rustix::fs::statvfs(cache.root()) {
        Ok(found) => {
            let bytes = found.f_bavail.saturating_mul(found.f_frsize);
            let found =
                format!("{} GiB free at {}, {} are enough", bytes >> 30, cache.root().display(), DISK_BYTES_MIN >> 30);
            Look { what, good: bytes >= DISK_BYTES_MIN, found }
        }
        Err(error) => Look { what, good: false, found: format!("{}: {error}", cache.root().display()) },
    }
}
