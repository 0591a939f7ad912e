//! `kiln test`: every check and test of this checkout.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use kiln_image::flavour::Flavour;
use kiln_image::progress::Progress as _;
use kiln_image::tools::ImageTools;
use kiln_image::{build, clients, packages, toolchain};

use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::screen::Screen;
use crate::{host, image};

/// Make this host ready, then run everything: formatting, lints, and the tests of the whole workspace, real machines included.
///
/// Nothing is skipped. Words behind `--` go to `cargo test`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln test
  kiln test -- --package kiln-verifier")]
pub(crate) struct Test {
    /// For `cargo test`, instead of the whole workspace
    #[arg(last = true, value_name = "CARGO TEST ARGUMENT")]
    cargo: Vec<String>,
}

impl Test {
    pub(crate) fn run(self, screen: &Screen) -> Result {
        // The tests take what they boot from the cache, which is filled here, where its making can be watched. What they link is
        // the host's TPM library, which reaches a software TPM; the appliance has its own.
        packages::ensure(screen, &packages::TEST_PACKAGES, host::is_root()).or_exit(Exit::Infrastructure)?;
        let others = image::in_workshop(screen, |shop| {
            for flavour in [Flavour::Vm, Flavour::Metal] {
                build::image(shop, flavour).or_exit(Exit::Infrastructure)?;
            }
            toolchain::build(shop, "c").or_exit(Exit::Infrastructure)?;
            Ok([
                ("COSIGN", clients::cosign(shop).or_exit(Exit::Infrastructure)?),
                ("SYSTEMD_MEASURE", clients::systemd_measure(shop).or_exit(Exit::Infrastructure)?),
                ("IMAGE_TOOLS", ImageTools::fetch(shop).or_exit(Exit::Infrastructure)?.root().to_owned()),
            ])
        })?;
        let checkout = host::checkout()?;
        let all = ["--workspace".to_owned(), "--all-targets".to_owned()];
        let tests = if self.cargo.is_empty() { vec!["--workspace".to_owned()] } else { self.cargo };
        let deny = ["--".to_owned(), "-D".to_owned(), "warnings".to_owned()];
        let stages: [(&str, Vec<String>); 3] = [
            ("fmt", vec!["--all".to_owned(), "--check".to_owned()]),
            ("clippy", [&["--locked".to_owned()], &all[..], &deny[..]].concat()),
            ("test", [&["--locked".to_owned(), "--no-fail-fast".to_owned()], &tests[..]].concat()),
        ];
        for (stage, arguments) in stages {
            screen.say(&format!("kiln: cargo {stage} {}", arguments.join(" ")));
            cargo(checkout.root(), stage, &arguments, &others)?;
        }
        screen.note("cargo fmt, cargo clippy and cargo test passed");
        Ok(Exit::Done)
    }
}

/// Runs cargo where the person sees what it says.
fn cargo(checkout: &Path, stage: &str, arguments: &[String], others: &[(&str, PathBuf)]) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg(stage).args(arguments).current_dir(checkout).stdin(Stdio::null());
    // Whole machines are tested with this very tool, what they leave and what is predicted of them with the tools of others.
    cargo.env("KILN", std::env::current_exe().or_exit(Exit::Infrastructure)?).envs(others.iter().cloned());
    let status = cargo.status().or_exit(Exit::Infrastructure)?;
    if status.success() {
        return Ok(());
    }
    Err(Problem::Command { command: format!("cargo {stage}"), status }).or_exit(Exit::Infrastructure)
}
