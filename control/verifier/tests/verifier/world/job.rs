//! The job that the machine is given, if no test changes it: two steps, one of which writes what the other reads.

use std::collections::BTreeMap;

use kiln_formats::job::{
    Access, Image, Input, Job, Limits, Output, OutputKind, Proc, Profile, Step, Workspace, WorkspaceUse,
};
use kiln_formats::names::Name;

use super::{at, digest, name};

pub(crate) fn job() -> Job {
    let usage = |name_: &str, access| WorkspaceUse { name: name(name_), access };
    let step = |step: &str, inputs: Vec<Name>, workspaces| Step {
        name: name(step),
        image: name("c"),
        argv: vec!["make".into(), step.into()],
        env: BTreeMap::from([("PATH".into(), "/usr/bin".into())]),
        workdir: "/work/src".into(),
        inputs,
        workspaces,
        profile: Profile::Strict,
        proc: Proc::Minimal,
        limits: Limits { memory_bytes: 64 << 20, ..Limits::default() },
    };
    Job {
        version: 1,
        name: name("zlib"),
        expires: at(3600),
        image: vec![Image { name: name("c"), root_hash: digest("toolchain") }],
        input: vec![Input {
            name: name("zlib.tar"),
            uri: "https://zlib.example/zlib.tar".into(),
            sha256: digest("zlib.tar"),
            size: 8,
        }],
        workspace: vec![
            Workspace { name: name("src"), size_bytes_max: 1 << 20 },
            Workspace { name: name("out"), size_bytes_max: 1 << 20 },
        ],
        step: vec![
            step("unpack", vec![name("zlib.tar")], vec![usage("src", Access::Rw)]),
            step("build", vec![], vec![usage("src", Access::Ro), usage("out", Access::Rw)]),
        ],
        output: vec![Output {
            name: name("libz.a"),
            workspace: name("out"),
            path: "libz.a".into(),
            kind: OutputKind::File,
            size_bytes_max: 4096,
        }],
    }
}
