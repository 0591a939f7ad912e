//! The second wall of the file view, and the only one for signals and abstract sockets: a Landlock ruleset.
//!
//! Pinned to ABI 7 as a hard requirement: an older kernel is a refusal, a newer one gives the same rights. What Landlock does not
//! mediate (stat, chdir, chmod, chown, times, attributes) rests on the mounts and the user alone.
//! Source: Documentation/userspace-api/landlock.rst.

use std::fmt::Write;
use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, open};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::{At, Staged};
use crate::enforced::Landlock;
use crate::launcher::order::{Failed, Order};
use crate::layer::Layer;
use crate::policy::Profile;
use crate::view::{Kind, TreeAccess};

/// The pinned version.
const PINNED: ABI = ABI::V7;
/// Its number.
pub(crate) const PINNED_NUMBER: u8 = 7;
/// A directory that only Landlock forbids to make: the step may make files in /dev/shm, and mode and mount allow directories.
const FORBIDDEN: &str = "/dev/shm/landlock";

/// Confines the calling process, then asks the kernel for one forbidden thing to see that it is alive.
pub(super) fn confine(order: &Order) -> Staged<Landlock> {
    let description = describe(order);
    let mut beneath = Vec::new();
    for (path, rights) in rules(order) {
        let fd =
            open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).at(Layer::Landlock, &format!("open {path}"))?;
        beneath.push(PathBeneath::new(fd, rights));
    }
    let enforced = build(order.profile == Profile::Loopback, beneath).map_err(|error| Failed {
        layer: Layer::Landlock,
        operation: error.to_string(),
        errno: 0,
    })?;
    if !enforced {
        return Err(Errno::NOTRECOVERABLE).at(Layer::Landlock, "full enforcement");
    }
    try_forbidden()?;
    Ok(Landlock { abi: PINNED_NUMBER, ruleset_sha256: hex::encode(Sha256::digest(description)) })
}

/// Asks for what is forbidden: the refusal shows that the ruleset is alive, and its record that denials are heard.
pub(super) fn try_forbidden() -> Staged<()> {
    match mkdirat(CWD, FORBIDDEN, Mode::from_raw_mode(0o700)) {
        Err(Errno::ACCESS) => Ok(()),
        Err(error) => Err(error).at(Layer::Landlock, "forbidden mkdir"),
        Ok(()) => Err(Errno::NOTRECOVERABLE).at(Layer::Landlock, "forbidden mkdir succeeded"),
    }
}

/// Whether the whole ruleset is enforced on this process from here on.
fn build(loopback: bool, beneath: Vec<PathBeneath<OwnedFd>>) -> Result<bool, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(PINNED))?
        .scope(Scope::from_all(PINNED))?;
    // Ports cannot be allowed wholesale, so with loopback the network namespace alone has the say.
    if !loopback {
        ruleset = ruleset.handle_access(AccessNet::from_all(PINNED))?;
    }
    let mut created = ruleset.create()?;
    for rule in beneath {
        created = created.add_rule(rule)?;
    }
    let status = created.log_new_exec(true)?.restrict_self()?;
    Ok(status.ruleset == RulesetStatus::FullyEnforced && status.no_new_privs)
}

/// Where the step has which rights; what is in no rule is forbidden.
fn rules(order: &Order) -> Vec<(&str, BitFlags<AccessFs>)> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let change = AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg | AccessFs::RemoveFile;
    let all = read
        | change
        | AccessFs::Execute
        | AccessFs::MakeDir
        | AccessFs::RemoveDir
        | AccessFs::MakeSym
        | AccessFs::Refer;
    order
        .places
        .iter()
        .filter_map(|place| {
            let rights = match &place.kind {
                Kind::Root => read | AccessFs::Execute,
                Kind::Tree { access: TreeAccess::ReadWrite, .. } => all,
                // Build daemons and job servers put their sockets and fifos there.
                Kind::Temporary { .. } => all | AccessFs::MakeSock | AccessFs::MakeFifo,
                Kind::SharedMemory => read | change,
                Kind::Devices => read | AccessFs::WriteFile,
                // Under the rule of the root.
                Kind::Tree { access: TreeAccess::ReadOnly, .. }
                | Kind::Scaffold { .. }
                | Kind::Proc { .. }
                | Kind::Cover { .. } => return None,
            };
            Some((place.target.as_str(), rights))
        })
        .collect()
}

/// The ruleset in words: what its digest in the evidence is over.
fn describe(order: &Order) -> String {
    let net = if order.profile == Profile::Loopback { BitFlags::EMPTY } else { AccessNet::from_all(PINNED) };
    let handled = AccessFs::from_all(PINNED).bits();
    let scoped = Scope::from_all(PINNED).bits();
    let mut text = format!("abi {PINNED_NUMBER}\nfs {handled:#x}\nnet {:#x}\nscope {scoped:#x}\n", net.bits());
    for (path, rights) in rules(order) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "beneath {:#x} {path}", rights.bits());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_lets_a_step_make_devices_or_use_their_ioctls() {
        let everywhere = [
            Kind::Root,
            Kind::Tree { number: 1, access: TreeAccess::ReadWrite },
            Kind::Temporary { size_bytes_max: 1, inodes_max: 1 },
            Kind::Devices,
            Kind::SharedMemory,
        ];
        let place = |kind| crate::view::Place { target: "/x".into(), kind, make: false };
        let order = Order {
            places: everywhere.into_iter().map(place).collect(),
            argv: vec![],
            env: vec![],
            path: vec![],
            workdir: "/".into(),
            hostname: "h".into(),
            profile: Profile::Strict,
            host_id: 0,
            file_bytes: 0,
            open_files: 0,
            left_out: Default::default(),
        };
        let never = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
        assert_eq!(rules(&order).len(), 5);
        assert!(rules(&order).iter().all(|(_, rights)| (*rights & never).is_empty()));
        let loopback = Order { profile: Profile::Loopback, ..order.clone() };
        assert_ne!(describe(&order), describe(&loopback));
    }
}
