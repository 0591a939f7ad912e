//! The hostile suite inside the appliance's kernel: the sandbox's own harness as the machine's only program, with every layer and
//! every limit, booted once for all of it. The harness is `builder/sandbox/tests/steps`; what it says on the console is the result.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::fixture::{build, scratch};

/// The platform of the appliance's program, which links statically.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// How long the machine may take: a guard against one that hangs. Emulated, it takes five minutes of two processors.
const LIFE_MAX: Duration = Duration::from_secs(3000);
/// Ends a cpio archive.
const TRAILER: &str = "TRAILER!!!";

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn the_whole_catalogue_holds_in_the_appliances_kernel() {
    let dir = scratch();
    let init = fs::read(harness()).unwrap();
    let compiled = |name: &str| {
        let to = dir.path().join(name);
        compile(name, &to);
        fs::read(to).unwrap()
    };
    let sysctl = settings();
    let files = [
        ("init", 0o100_755, &init[..]),
        ("probe", 0o100_755, &compiled("probe")),
        ("traced", 0o100_755, &compiled("traced")),
        ("ask", 0o100_755, &compiled("ask")),
        ("sysctl", 0o100_644, sysctl.as_bytes()),
    ];
    let initrd = dir.path().join("initrd");
    fs::write(&initrd, pack(&files)).unwrap();
    let said = boot(&initrd, &dir.path().join("console"));
    let told = ["test ", "answer:", "catalogue:", "  not covered:", "mutations:", "hostile:"];
    said.lines().filter(|line| told.iter().any(|word| line.starts_with(word))).for_each(|line| println!("{line}"));
    assert!(said.contains(" not covered\n"), "the catalogue was not counted:\n{said}");
    assert!(said.lines().any(|line| line.starts_with("hostile: ") && line.ends_with(" passed, 0 failed []")), "{said}");
}

/// Builds the harness as the appliance's program is built: static.
fn harness() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let words = ["test", "--locked", "--release", "--package", "kiln-sandbox", "--test", "steps", "--no-run"];
    let built = Command::new(cargo)
        .args(words)
        .args(["--target", TARGET, "--message-format", "json"])
        .current_dir(root())
        .env("CARGO_TARGET_DIR", env!("CARGO_TARGET_TMPDIR"))
        // What it spends its time in is the kernel: not worth a longer build.
        .envs([("CARGO_PROFILE_RELEASE_LTO", "off"), ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")])
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static -Cstrip=symbols")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(built.status.success(), "the harness does not build");
    let messages = String::from_utf8(built.stdout).unwrap();
    let programs = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = programs.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    programs.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("steps-")).unwrap()
}

/// Compiles the C sources in one directory of the suite.
pub(crate) fn compile(directory: &str, to: &Path) {
    let names = fs::read_dir(root().join("builder/sandbox/tests/steps").join(directory)).unwrap();
    let mut sources: Vec<_> = names
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "c"))
        .collect();
    sources.sort();
    let status = Command::new("cc").args(["-static", "-O1", "-o"]).arg(to).args(sources).status().unwrap();
    assert!(status.success(), "{directory} must compile");
}

/// The appliance's own settings, out of the table in its source.
fn settings() -> String {
    let source = fs::read_to_string(root().join("init/src/sysctl.rs")).unwrap();
    let table = source.split("TABLE").nth(1).unwrap().split("];").next().unwrap();
    let rows = table.lines().filter_map(|line| {
        let mut texts = line.trim().split('"');
        (["always(", "unless_absent("].contains(&texts.next()?)).then(|| {
            let (path, value) = (texts.next().unwrap(), texts.nth(1).unwrap());
            format!("{path} {value}\n")
        })
    });
    let rows: Vec<String> = rows.collect();
    assert!(rows.len() > 10, "the table of settings reads differently: {rows:?}");
    rows.concat()
}

/// An archive in cpio's `newc` format. Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
fn pack(files: &[(&str, usize, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (inode, (name, mode, content)) in files.iter().chain([&(TRAILER, 0, &[][..])]).enumerate() {
        let numbers = [inode, *mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        archive.extend_from_slice(b"070701");
        archive.extend(numbers.iter().flat_map(|number| format!("{number:08x}").into_bytes()));
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

/// Boots it and returns what its console said until it switched itself off.
fn boot(initrd: &Path, console: &Path) -> String {
    let kernel = build("kernel")["path"].as_str().unwrap().to_owned();
    let cmdline = fs::read_to_string(root().join("image/cmdline")).unwrap();
    let mut machine = Command::new("qemu-system-x86_64");
    machine.args(["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-machine", "q35"]);
    machine.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024M", "-smp", "2", "-no-reboot"]);
    machine.args(["-serial", "stdio", "-kernel", &kernel, "-append", cmdline.trim(), "-initrd"]).arg(initrd);
    let begin = Instant::now();
    let mut running = machine
        .stdin(Stdio::null())
        .stdout(fs::File::create(console).unwrap())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let ended = loop {
        match running.try_wait().unwrap() {
            Some(status) => break status.success(),
            None if begin.elapsed() > LIFE_MAX => {
                running.kill().unwrap();
                running.wait().unwrap();
                break false;
            }
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    let said = String::from_utf8_lossy(&fs::read(console).unwrap()).replace('\r', "");
    println!("the machine ran for {} s", begin.elapsed().as_secs());
    assert!(ended, "the machine did not switch itself off:\n{said}");
    said
}
