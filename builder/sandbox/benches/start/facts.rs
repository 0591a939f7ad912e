//! What the kernel says of a process inside each contender: so that nobody has to take a table's word for who confines more.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::Stdio;

use serde::Serialize;

use crate::contenders::{Contender, Start, step};
use crate::scene::Payload;

/// Facts of one process.
#[derive(Debug, Serialize)]
pub(crate) struct Facts {
    /// Lines of `/proc/self/mountinfo`.
    pub(crate) mounts: usize,
    /// Namespaces that are not ours.
    pub(crate) namespaces: usize,
    /// Of `/proc/self/status`.
    pub(crate) bounding_set: String,
    pub(crate) no_new_privs: String,
    pub(crate) seccomp_filters: String,
}

/// Asks from inside; `None` if this machine has no program to ask with.
pub(crate) fn inside(contender: &Contender<'_>) -> Option<Facts> {
    if !std::path::Path::new("/usr/bin/cat").exists() {
        return None;
    }
    let cat = |file: &str| read(contender, &["/usr/bin/cat", file]);
    let status = cat("/proc/self/status");
    let fields: BTreeMap<&str, &str> = status.lines().filter_map(|line| line.split_once(":\t")).collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or("?").to_owned();
    let links = read(
        contender,
        &[
            "/usr/bin/readlink",
            "/proc/self/ns/cgroup",
            "/proc/self/ns/ipc",
            "/proc/self/ns/mnt",
            "/proc/self/ns/net",
            "/proc/self/ns/pid",
            "/proc/self/ns/time",
            "/proc/self/ns/user",
            "/proc/self/ns/uts",
        ],
    );
    let ours = |link: &&str| {
        let kind = link.split(':').next().unwrap_or_default();
        std::fs::read_link(format!("/proc/self/ns/{kind}")).is_ok_and(|own| own.to_string_lossy() == **link)
    };
    Some(Facts {
        mounts: cat("/proc/self/mountinfo").lines().count(),
        namespaces: links.lines().filter(|link| !ours(link)).count(),
        bounding_set: field("CapBnd"),
        no_new_privs: field("NoNewPrivs"),
        seccomp_filters: field("Seccomp_filters"),
    })
}

/// What a program inside says.
fn read(contender: &Contender<'_>, argv: &[&str]) -> String {
    let argv = argv.iter().map(|word| (*word).to_owned()).collect();
    let payload = Payload { argv, ..Payload::noop() };
    match contender.start(&payload, 0) {
        Start::Step(launcher, policy) => {
            let (mut reader, writer) = std::io::pipe().expect("a pipe");
            let errors = writer.try_clone().expect("dup");
            step(launcher, &policy, writer.into(), errors.into());
            let mut text = String::new();
            reader.read_to_string(&mut text).expect("text");
            text
        }
        Start::Process(ready) => {
            let output = ready.command().stderr(Stdio::inherit()).output().expect("a process");
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
    }
}
