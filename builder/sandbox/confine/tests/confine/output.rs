//! Standard streams: whole, in order, bounded, and never the caller's own.

use std::fs::File;
use std::io::{IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::bench::{confine, run, scratch, script, text, until};

/// What the command of the flood tests writes.
const FLOOD_BYTES: usize = 64 << 20;

#[test]
fn both_streams_arrive_whole_and_apart() {
    let scratch = scratch();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(scratch.path().join("bytes"), &bytes).expect("bytes");
    let bind = format!("{}:/tmp/in", text(scratch.path()));
    let output =
        confine(&["--tmp", "1M", "--ro", &bind, "--", "sh", "-c", "cat /tmp/in/bytes & cat /tmp/in/bytes >&2; wait"])
            .output();
    let output = output.expect("the program");
    assert!(output.stdout == bytes, "standard output differs");
    let head = b"kiln-confine: given up: limits\nkiln-confine: given up: trace\n";
    assert!(output.stderr == [head.as_slice(), &bytes].concat(), "standard error differs");
}

#[test]
fn nothing_of_the_callers_streams_is_handed_on() {
    let mut command =
        confine(&["--", "sh", "-c", "cat; test -t 0 -o -t 1 -o -t 2 || echo none; ls /proc/self/fd | wc -l"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program");
    child.stdin.take().expect("input").write_all(b"typed\n").expect("input");
    let mut said = String::new();
    child.stdout.take().expect("output").read_to_string(&mut said).expect("text");
    assert_eq!(said, "none\n4\n", "0, 1, 2, and the directory itself");
    assert!(child.wait().expect("status").success());
}

#[test]
fn a_flood_is_passed_on_in_little_memory_to_a_slow_reader() {
    let mut child = confine(&["--", "head", "-c", &FLOOD_BYTES.to_string(), "/dev/zero"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut output = child.stdout.take().expect("output");
    let (mut buffer, mut taken, mut peak) = (vec![1; 1 << 20], 0, 0);
    loop {
        let read = output.read(&mut buffer).expect("output");
        assert!(buffer[..read].iter().all(|byte| *byte == 0));
        taken += read;
        if read == 0 {
            break;
        }
        if taken < 4 << 20 {
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", child.id())) {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            peak = peak.max(kib.unwrap_or(0));
        }
    }
    assert!(child.wait().expect("status").success());
    assert_eq!(taken, FLOOD_BYTES);
    assert!((1..32 * 1024).contains(&peak), "{peak} KiB at most");
}

#[test]
fn a_reader_who_leaves_is_a_broken_pipe_for_the_command() {
    let mut child = confine(&["--timeout", "1m", "--", "yes"]).stdout(Stdio::piped()).spawn().expect("the program");
    let mut few = [0; 4];
    child.stdout.take().expect("output").read_exact(&mut few).expect("output");
    assert_eq!(child.wait().expect("status").code(), Some(128 + 13));
}

#[test]
fn output_that_cannot_be_written_is_no_success() {
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let output = confine(&["--", "echo", "lost"]).stdout(full).stderr(Stdio::piped()).output().expect("the program");
    let complained = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(125), "{complained}");
    assert!(complained.contains("standard output could not be passed on"), "{complained}");
}

#[test]
fn words_that_nobody_takes_change_no_status() {
    let full = || File::options().write(true).open("/dev/full").expect("/dev/full");
    let status = |command: &mut std::process::Command| command.status().expect("the program").code();
    assert_eq!(status(confine(&["--", "sh", "-c", "exit 3"]).stderr(full())), Some(3));
    assert_eq!(status(confine(&["--chdir", "/not/there", "--", "true"]).stderr(full())), Some(125));
    let (reader, closed) = std::io::pipe().expect("pipe");
    drop(reader);
    assert_eq!(status(confine(&["--", "sh", "-c", "exit 3"]).stderr(closed)), Some(3));
}

#[test]
fn a_policy_that_cannot_be_printed_is_refused() {
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let output = confine(&["--print-policy"]).stdout(full).stderr(Stdio::piped()).output().expect("the program");
    let complained = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(125), "{complained}");
    assert!(complained.contains("cannot write the policy"), "{complained}");
}

/// What a step does that gives its standard output away through the socket `there`, after saying as much as a pipe holds.
const GIVE_AWAY: &str = "
import array, os, socket, time
open('here', 'w').close()
there = socket.socket(socket.AF_UNIX)
while there.connect_ex('there'): time.sleep(0.01)
there.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [1]))])
there.recv(1)
os.write(1, b'y' * 65536)
";

/// Takes the descriptor that comes with the next message.
fn received(socket: &UnixStream) -> OwnedFd {
    let mut bytes = [0; 1];
    let mut buffer = nix::cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut buffer), MsgFlags::MSG_CMSG_CLOEXEC).expect("message");
    let number = message.cmsgs().expect("rights").find_map(|rights| match rights {
        ControlMessageOwned::ScmRights(numbers) => numbers.first().copied(),
        _ => None,
    });
    // By its name in /proc, as nothing here may take a number for a descriptor.
    let opened = File::options().write(true).open(format!("/proc/self/fd/{}", number.expect("a descriptor")));
    opened.expect("the pipe").into()
}

#[test]
fn output_that_was_given_away_is_not_waited_for() {
    let scratch = scratch();
    let flags = ["--rw", text(scratch.path()), "--chdir", text(scratch.path()), "--timeout", "1m"];
    let mut command = confine(&[&flags, &["--", "/usr/bin/python3", "-c", GIVE_AWAY][..]].concat());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the program");
    // A socket that were there before would have been found.
    until("the step runs", || scratch.path().join("here").exists());
    let listener = UnixListener::bind(scratch.path().join("there")).expect("socket");
    let (mut socket, _) = listener.accept().expect("the step");
    let held = received(&socket);
    socket.write_all(b"x").expect("the step goes on");
    // As much as fits into the pipe to us as well.
    until("the program ends", || child.try_wait().expect("status").is_some());
    let mut said = Vec::new();
    child.stdout.take().expect("output").read_to_end(&mut said).expect("output");
    assert!(child.wait().expect("status").success());
    assert!(said == vec![b'y'; 65536], "{} bytes", said.len());
    drop(held);
}

#[test]
fn files_are_written_at_their_end() {
    let scratch = scratch();
    let path = scratch.path().join("log");
    for line in ["first", "second"] {
        let log = File::options().append(true).create(true).open(&path).expect("log");
        let status = confine(&["--", "echo", line]).stdout(log).status().expect("the program");
        assert!(status.success());
    }
    assert_eq!(std::fs::read_to_string(&path).expect("log"), "first\nsecond\n");
}

#[test]
fn a_command_opens_its_streams_by_name() {
    let ran = script(&[], "echo a > /dev/stdout; echo b > /dev/stderr");
    assert_eq!((ran.status, ran.said.as_str()), (0, "a\n"));
    assert!(ran.complained.ends_with("\nb\n"), "{}", ran.complained);
    let mut silent = confine(&["--", "true"]);
    assert_eq!(run(&mut silent).said, "");
}
