//! The commands, in the order in which a person meets them.

mod attestor;
mod audit;
mod bench;
mod build;
mod demo;
mod doctor;
mod host;
mod keygen;
mod lint;
mod logs;
mod metal;
mod reference;
mod run;
mod secure_boot;
mod setup;
mod sign;
mod test;
mod trust;
mod verify;

use clap::{Parser, Subcommand};

use crate::exit::Result;
use crate::screen::Screen;

/// A build machine that exists for one build.
///
/// A measured VM boots, proves to an authority which image it runs, takes one signed job, runs its steps in a sandbox without a
/// network, signs what it observed, and powers off. Anyone with the site's root, policy and reference values can check the result.
///
/// Exit codes: 0 done, 2 usage, 10 job refused, 11 attestation failed, 12 step failed, 13 verification failed, 14 nothing to
/// prove a log with, 15 image refused, 20 infrastructure, 130 interrupted. KILN_LOG=debug shows what goes on.
#[derive(Debug, Parser)]
#[command(
    name = "kiln",
    version,
    max_term_width = 120,
    after_long_help = "\
Examples:
  kiln demo --out demo                              build the real zlib in a measured VM, and verify it
  kiln keygen --site site                           make a site
  kiln run job.toml --site site --out out           one machine, one build
  kiln verify out --site site                       check what came out, offline
  kiln audit out --html boot.html                   what the machine measured, as a page"
)]
pub(crate) struct Kiln {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Setup(setup::Setup),
    Build(build::Build),
    Keygen(keygen::Keygen),
    Lint(lint::Lint),
    Sign(sign::Sign),
    Run(run::Run),
    Verify(verify::Verify),
    Audit(audit::AuditCommand),
    Logs(logs::Logs),
    Attestor(attestor::AttestorCommand),
    Reference(reference::ReferenceCommand),
    Trust(trust::TrustCommand),
    SecureBoot(secure_boot::SecureBootCommand),
    Metal(metal::Metal),
    Host(host::HostCommand),
    Doctor(doctor::Doctor),
    Demo(demo::Demo),
    Test(test::Test),
    Bench(bench::Bench),
}

impl Kiln {
    /// Whether it is a service, whose log is for programs.
    pub(crate) fn is_service(&self) -> bool {
        matches!(&self.command, Command::Attestor(attestor) if attestor.is_service())
    }

    /// Does what was asked for.
    pub(crate) fn run(self, screen: &Screen) -> Result {
        match self.command {
            Command::Setup(setup) => setup.run(screen),
            Command::Build(build) => build.run(screen),
            Command::Keygen(keygen) => keygen.run(),
            Command::Lint(lint) => lint.run(),
            Command::Sign(sign) => sign.run(),
            Command::Run(run) => run.run(screen),
            Command::Verify(verify) => verify.run(),
            Command::Audit(audit) => audit.run(),
            Command::Logs(logs) => logs.run(),
            Command::Attestor(attestor) => attestor.run(),
            Command::Reference(reference) => reference.run(),
            Command::Trust(trust) => trust.run(),
            Command::SecureBoot(command) => command.run(screen),
            Command::Metal(metal) => metal.run(screen),
            Command::Host(host) => host.run(),
            Command::Doctor(doctor) => doctor.run(screen),
            Command::Demo(demo) => demo.run(screen),
            Command::Test(test) => test.run(screen),
            Command::Bench(bench) => bench.run(screen),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_is_sound_and_shows_examples() {
        let mut kiln = Kiln::command();
        kiln.build();
        kiln.clone().debug_assert();
        for command in kiln.get_subcommands_mut().filter(|command| command.get_name() != "help") {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Examples:\n  kiln "), "{}", command.get_name());
        }
    }
}
