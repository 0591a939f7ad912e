//! Hostile steps in a real job of the real appliance: each gets what the sandbox's catalogue promises, the evidence names what was
//! refused, and nothing comes out but what was declared.

use std::fs;
use std::path::Path;

use kiln_formats::digest::Sha256Digest;
use serde_json::{Value, json};

use crate::fixture::{Hello, files, kiln, scratch, site};
use crate::hostile::compile;
use crate::steps::{ARGV, payload, predicate};

/// What each attack gets: the sandbox's own table.
const CATALOGUE: &str = include_str!("../../builder/sandbox/tests/steps/catalogue.toml");

/// Attacks that need nothing of the harness's own image, at least one of each group of the catalogue.
const STRICT: &str = "
    host_names identity mask monotonic
    inet raw netlink packet xdp alg vsock vsock_host uring_setup interface_up unix_in_work unix_of_host forged_sender
    kill_init queue_to_init limit_init nice_init service_sockets posix_queue find_any_ipc
    bpf_map perf userfault keyring traceme ptrace_init pidfd_steal read_init write_init init_environ init_mem unshare_user
    clone_user clone3_user set_own kexec module reboot_wrong io_ports kernel_log handle_open notify_init read_implies_exec
    i386_call x32_call elf_32 memfd_exec memfd_by_name secret_memory listener looser_filter become_root all_capabilities
    new_privileges terminal_high entropy set_clock host_name real_time spare_me raise_files core_dump bind_memory
    unknown_call
    write_root write_usr write_scaffold write_dev write_proc mount_tmpfs mount_bind umount_proc fs_open tree_open
    mount_attributes open_more write_input truncate_input map_input reopen_input chmod_input splice_into_input magic_cwd
    climb climb_deleted devices device_listing node_null node_tpm fifo_in_work dir_in_shm core_pattern proc_files sysfs
    cgroups security descriptors exec_in_shm script_in_shm map_exec_shm set_id set_id_openat attribute immutable
    whiteout_in_work give_away
    big_file descriptors_all signals_queued huge_arguments
    log_ansi
    out_names
    landlock_quiet pidfd_namespaces_init pidfd_enter_own pidfd_owner clone_for_init socket_namespace mapped_file
    own_cgroup own_network page_frame copy_over_input merge_all filter_logs filter_refuses instructions check_shm
";
/// With TCP and UDP among its own: that, and nothing more.
const LOOPBACK: &str = "beyond_loopback beyond_loopback6 datagram_out multicast_out raw netlink vsock unshare_net";
/// What a whole `/proc` must not open either.
const MASKED: &str = "init_environ init_mem core_pattern write_proc proc_write_walk own_mem";
/// Where a real job's answer is another than at the catalogue's bench.
const OTHERWISE: [(&str, &str); 3] = [
    // The collector's words are not asked for here.
    ("out_names", "OK"),
    // A whole procfs was looked through when it was masked, so that the kernel knows the name and refuses what is below it.
    ("init_environ", "EPERM"),
    ("init_mem", "EPERM"),
];
/// Refusals of each layer that can refuse, as the trace must name them.
const NAMED: [(&str, &str, &str); 9] = [
    ("seccomp", "socket", "domain=2 type=0x1 protocol=0"),
    ("seccomp", "unshare", "flags=0x10000000"),
    ("seccomp", "bpf", "command=0"),
    ("landlock", "fs.make_fifo", "/work/out"),
    ("landlock", "fs.make_dir", "/dev/shm"),
    ("view", "openat", "/evil"),
    ("identity", "kill", "process 1"),
    ("process_limits", "prlimit64", "process 0"),
    ("capabilities", "capset", ""),
];

/// A step's script: a copy of the probe runs once for each attack, and says what it got, or how it ended.
fn script(attacks: &str, then: &str) -> String {
    let attacks = attacks.split_whitespace().collect::<Vec<_>>().join(" ");
    let script = format!(
        "cp /inputs/probe /tmp/p; chmod 755 /tmp/p; for n in {attacks}; do /tmp/p $n || echo $n exit $?; done{then}"
    );
    format!("argv = [\"sh\", \"-c\", {script:?}]")
}

/// A job whose three steps try everything, one of which builds something as well.
fn hostile() -> Hello {
    let hello = Hello::new();
    compile("probe", &hello.path("probe"));
    fs::write(hello.path("data"), "input\n").unwrap();
    let input = |name: &str| {
        let bytes = fs::read(hello.path(name)).unwrap();
        let (sha256, size) = (Sha256Digest::of(&bytes), bytes.len());
        format!(
            "[[input]]\nname = \"{name}\"\nuri = \"https://downloads.example/{name}\"\nsha256 = \"{sha256}\"\nsize = {size}\n\n"
        )
    };
    let step = |name: &str, attacks: &str, more: &str| {
        let argv = script(attacks, "");
        format!(
            "[[step]]\nname = \"{name}\"\nimage = \"c\"\n{argv}\nenv = {{ PATH = \"/usr/bin\" }}\nworkdir = \"/tmp\"\n\
            inputs = [\"probe\"]\n{more}\nlimits = {{ wall_ms = 600000 }}\n\n"
        )
    };
    let inputs = format!("{}{}[[workspace]]", input("probe"), input("data"));
    let steps = step("loopback", LOOPBACK, "profile = \"loopback\"") + &step("masked", MASKED, "proc = \"masked\"");
    let build = script(STRICT, "; cc -o hello /inputs/hello.c");
    hello
        .with(ARGV, &build)
        .with("inputs = [\"hello.c\"]", "inputs = [\"hello.c\", \"probe\", \"data\"]")
        .with("wall_ms = 120000", "wall_ms = 600000")
        .with("[[workspace]]", &inputs)
        .with("[[output]]", &format!("{steps}[[output]]"))
}

/// The answers that the table allows, or else [`OTHERWISE`].
fn promised(attack: &str) -> Vec<String> {
    let otherwise = OTHERWISE.iter().filter(|(other, _)| *other == attack).map(|(_, answer)| (*answer).to_owned());
    let line = CATALOGUE.lines().find_map(|line| line.strip_prefix(attack)?.strip_prefix(" = \""));
    let line = line.unwrap_or_else(|| panic!("{attack} is not in the catalogue"));
    line.trim_end_matches('"').split('|').map(str::to_owned).chain(otherwise).collect()
}

/// What a step's log says came of an attack, in the table's words.
fn answer<'a>(log: &'a str, attack: &str) -> &'a str {
    let line = log.lines().find_map(|line| line.strip_prefix(attack)?.strip_prefix(' ')).unwrap_or("(nothing)");
    match line {
        "exit 159" => "killed",
        "exit 139" => "signal 11",
        line => line,
    }
}

#[test]
fn hostile_steps_of_a_real_job_get_what_is_promised_and_are_named() {
    let hello = hostile();
    let inputs = ["probe", "data"].map(|name| format!("{name}={}", hello.path(name).display()));
    let notices = hello.path("notices.jsonl");
    let to = ["--notices", notices.to_str().unwrap()];
    hello.run(&[&["--boot", "direct", "--input", &inputs[0], "--input", &inputs[1]][..], &to].concat()).expect(0);
    let out = hello.out();
    let mut wrong = Vec::new();
    for (step, attacks) in [("compile", STRICT), ("loopback", LOOPBACK), ("masked", MASKED)] {
        let log = kiln(["logs".as_ref(), out.as_os_str(), "--step".as_ref(), step.as_ref(), "--raw".as_ref()])
            .expect(0)
            .stdout;
        let got = attacks.split_whitespace().map(|attack| (attack, answer(&log, attack)));
        let others = got.filter(|(attack, got)| !promised(attack).iter().any(|promised| promised == got));
        wrong.extend(others.map(|(attack, got)| format!("{step}: {attack}: {got} instead of {:?}", promised(attack))));
    }
    assert_eq!(wrong, [""; 0]);
    // Nothing came out but what was declared.
    let artifacts: Vec<_> = files(&out.join("artifacts")).into_iter().map(|(name, _)| name).collect();
    assert_eq!(artifacts, ["hello", "hello.intoto.jsonl"]);
    for (at, step) in ["compile", "loopback", "masked"].iter().enumerate() {
        let record = predicate(&out, &format!("evidence/records/{at:02}-{step}.dsse.json"));
        let enforced = &record["enforced"];
        assert_eq!(enforced["given_up"], json!([]), "{step}");
        assert_eq!(
            (&enforced["process"]["capabilities"], &enforced["process"]["seccomp_mode"]),
            (&json!(0), &json!(2)),
            "{step}"
        );
    }
    let log = predicate(&out, "evidence/traces/00-compile.dsse.json")["monitorLog"].clone();
    assert_eq!(log["network"], json!([]));
    let denials = log["kiln_denials"].as_array().unwrap_or_else(|| panic!("no denials in {log}"));
    for (layer, operation, object) in NAMED {
        let same = |denial: &&Value| {
            denial["layer"] == layer && denial["operation"] == operation && denial["object"] == object
        };
        assert!(denials.iter().any(|denial| same(&denial)), "{layer} {operation} {object} is not among {denials:#?}");
    }
    kiln(["verify".as_ref(), out.as_os_str(), "--site".as_ref(), site().as_os_str()]).expect(0);
    told_while_it_ran(&notices, &out);
}

/// Whoever listened has heard of each denial of the evidence, in its order and with its count, and of nothing else; what was signed is
/// named by the digest that it has in the evidence.
fn told_while_it_ran(notices: &Path, out: &Path) {
    let lines = fs::read_to_string(notices).unwrap();
    let told: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["notice"].clone()).collect();
    let of_kind = |kind: &str| told.iter().filter(|notice| notice["kind"] == kind).cloned().collect::<Vec<_>>();
    let mut denied = Vec::new();
    for (at, step) in ["compile", "loopback", "masked"].iter().enumerate() {
        let file = format!("evidence/traces/{at:02}-{step}.dsse.json");
        let payload_sha256 = Sha256Digest::of(&payload(out, &file));
        for denial in predicate(out, &file)["monitorLog"]["kiln_denials"].as_array().unwrap() {
            let mut notice = denial.clone();
            for (field, value) in
                [("kind", json!("denied")), ("step", json!(step)), ("payload_sha256", json!(payload_sha256))]
            {
                notice[field] = value;
            }
            denied.push(notice);
        }
        let record = Sha256Digest::of(&payload(out, &format!("evidence/records/{at:02}-{step}.dsse.json")));
        assert_eq!(of_kind("step_recorded")[at]["payload_sha256"], json!(record), "{step}");
    }
    assert!(!denied.is_empty());
    assert_eq!(of_kind("denied"), denied);
    assert_eq!(told.last(), Some(&json!({ "kind": "ended", "outcome": "built" })));
}

/// The appliance's kernel lets nobody trace, so a policy that allows it changes nothing: the job is refused before anything runs.
#[test]
fn a_step_that_would_trace_is_refused_whatever_the_policy_says() {
    let dir = scratch();
    let desk = dir.path().join("desk");
    kiln(["keygen".as_ref(), "--site".as_ref(), desk.as_os_str(), "--allow-debug".as_ref()]).expect(0);
    let hello = Hello::new().with("workdir = ", "profile = \"debug\"\nworkdir = ");
    fs::write(hello.path("job.toml"), &hello.draft).unwrap();
    let mut arguments = hello.arguments("job.toml", &["--boot", "direct", "--json"]);
    *arguments.iter_mut().find(|argument| *argument == site().as_os_str()).unwrap() = desk.into();
    let refusal = kiln(arguments).expect(10).json()["refusal"].clone();
    assert_eq!((&refusal["code"], &refusal["object"]), (&json!("profile"), &json!("step[0].profile")), "{refusal}");
    assert!(refusal["reason"].as_str().unwrap().contains("kernel.yama.ptrace_scope must be 0 or 1"), "{refusal}");
}
