//! A server as hardware would be: firmware that enforces Secure Boot, an NVMe disk, a network card, a TPM with a FIFO interface; no
//! kernel on QEMU's command line, no virtio, nothing that QEMU passes in.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use kiln_formats::names::BUILDER_METAL;
use tempfile::TempDir;

use crate::capture::{Capture, Kind, Packet};
use crate::fixture::{Hello, kiln, scratch};
use crate::maker::{self, tools};

/// The longest life of a server here, emulated and beside other tests: several times what it takes.
pub(crate) const LIFE_MAX: Duration = Duration::from_secs(600);
/// Where QEMU's user network shows the host's loopback. Source: QEMU, "User mode networking".
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The name in the attestor's certificate; nobody looks it up.
const NAME: &str = "attestor.example";
/// How far the clocks of QEMU's capture and of its console are apart at most.
const CLOCKS: Duration = Duration::from_millis(500);

/// A server that is switched on; switched off when this goes.
pub(crate) struct Server {
    pub(crate) directory: TempDir,
    qemu: Option<Child>,
}

impl Server {
    /// A site of its own, the disk of `kiln metal`, and a TPM of a maker whom the site has enrolled.
    pub(crate) fn new(attestor: &str, more: &[&str]) -> Self {
        let server = Self { directory: scratch(), qemu: None };
        let (site, disk) = (server.path("site"), server.path("disk"));
        kiln(["keygen".as_ref(), "--site".as_ref(), site.as_os_str()]).expect(0);
        let arguments = ["metal", "--attestor", attestor, "--name", NAME, "--json"];
        let places = ["--site".as_ref(), site.as_os_str(), "--out".as_ref(), disk.as_os_str()];
        kiln(arguments.iter().chain(more).map(AsRef::as_ref).chain(places)).expect(0);
        maker::manufacture(server.directory.path());
        maker::enrol(server.directory.path(), &server.path("site"));
        server
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.path("disk/disk.img")
    }

    /// Switches it on. The console comes line by line, to the end of its life.
    pub(crate) fn switch_on(&mut self, memory_mib: u32) -> Console {
        let tools = tools();
        let at = |name: &str| self.path(name).display().to_string();
        fs::copy(self.path("disk/variables.fd"), self.path("variables.fd")).unwrap();
        let socket = self.path("tpm.sock");
        let mut tpm = Command::new(&tools.swtpm);
        tpm.args(["socket", "--tpm2", "--terminate", "--daemon", "--tpmstate"]);
        tpm.arg(format!("dir={}", at("tpm"))).arg("--ctrl").arg(format!("type=unixio,path={}", socket.display()));
        let started = tpm.output().unwrap();
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        // It ends by itself, and QEMU with it the TPM, if nobody ends it before.
        let mut qemu = Command::new("timeout");
        qemu.args(["-k", "5", &LIFE_MAX.as_secs().to_string()]).arg(&tools.qemu);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,smm=on"]);
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", &format!("{memory_mib}M")]);
        qemu.args(["-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1"]);
        let code = tools.secure_firmware_code.display();
        qemu.args(["-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={code}")]);
        qemu.args(["-drive", &format!("if=pflash,unit=1,format=raw,file={}", at("variables.fd"))]);
        qemu.args(["-drive", &format!("if=none,id=disk,format=raw,file={}", self.disk().display())]);
        qemu.args(["-device", "nvme,drive=disk,serial=kiln,bootindex=0"]);
        qemu.args(["-netdev", "user,id=net", "-device", "e1000e,netdev=net,romfile="]);
        qemu.args(["-object", &format!("filter-dump,id=dump,netdev=net,file={}", at("net.pcap"))]);
        qemu.args(["-chardev", &format!("socket,id=tpm,path={}", socket.display())]);
        qemu.args(["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0"]);
        qemu.args(["-serial", "stdio", "-no-reboot"]);
        let mut qemu = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let lines = BufReader::new(qemu.stdout.take().unwrap());
        self.qemu = Some(qemu);
        Console { lines: Box::new(lines.split(b'\n').map_while(Result::ok)), seen: Vec::new() }
    }

    /// Pulls the plug: not even QEMU has time for anything.
    pub(crate) fn pull_the_plug(&mut self) {
        if let Some(mut qemu) = self.qemu.take() {
            // The child is `timeout`, whose own child is QEMU: both go with the group that it made.
            let group = format!("-{}", qemu.id());
            let _ended = Command::new("kill").args(["-KILL", "--", &group]).status();
            let _ended = qemu.wait();
        }
    }

    pub(crate) fn capture(&self) -> Capture {
        Capture::read(&self.path("net.pcap"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.pull_the_plug();
    }
}

/// What a server says on its serial port.
pub(crate) struct Console {
    lines: Box<dyn Iterator<Item = Vec<u8>>>,
    seen: Vec<String>,
}

impl Console {
    /// Reads on to a line with these words.
    pub(crate) fn until(&mut self, words: &str) {
        for line in self.lines.by_ref() {
            let line = String::from_utf8_lossy(&line).into_owned();
            let found = line.contains(words);
            self.seen.push(line);
            if found {
                return;
            }
        }
        panic!("{words:?} was never said:\n{}", self.seen.join("\n"));
    }

    /// Reads to the end, where these words are in the last line of ours.
    pub(crate) fn ends_with(&mut self, words: &str) {
        self.seen.extend(self.lines.by_ref().map(|line| String::from_utf8_lossy(&line).into_owned()));
        let ours: Vec<_> = self.seen.iter().filter(|line| line.contains("kiln: ")).collect();
        assert!(ours.last().is_some_and(|line| line.contains(words)), "{words:?}:\n{}", self.seen.join("\n"));
    }
}

/// `kiln attestor serve` on a port of its own, for one job.
pub(crate) struct Attestor {
    child: Child,
}

impl Attestor {
    pub(crate) fn serve(server: &Server, hello: &Hello, port: u16) -> Self {
        fs::write(hello.path("job.toml"), &hello.draft).unwrap();
        let mut child = Command::new(crate::fixture::tool());
        child
            .args(["attestor", "serve", "--metal", "--name", NAME, "--listen", &format!("127.0.0.1:{port}")])
            .arg("--site")
            .arg(server.path("site"));
        child.arg("--job").arg(hello.path("job.toml")).arg("--out").arg(hello.out());
        for input in ["hello.c", "large", "zlib.tar"].into_iter().filter(|name| hello.path(name).exists()) {
            child.arg("--input").arg(format!("{input}={}", hello.path(input).display()));
        }
        let mut child = child.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("serving") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "it does not listen");
        }
        // Nobody reads the rest of the log, and the service must not wait for that.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::stderr()));
        Self { child }
    }

    /// Tells it to take nobody new, and waits until it has done with those who are there.
    pub(crate) fn told_to_end(self) -> (i32, String) {
        let told = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(told.success());
        self.finish()
    }

    /// Waits until every job is done; what it printed, and how it ended.
    pub(crate) fn finish(mut self) -> (i32, String) {
        let mut said = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code().unwrap(), said)
    }
}

impl Drop for Attestor {
    fn drop(&mut self) {
        let _ended = (self.child.kill(), self.child.wait());
    }
}

/// A port of the loopback that nobody has.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn attestor_at(port: u16) -> String {
    format!("{HOST}:{port}")
}

#[test]
fn a_server_without_an_uplink_says_what_is_missing() {
    let mut server = Server::new(&attestor_at(8443), &["--scratch-mib", "0"]);
    let disk = server.disk();
    let mdel =
        Command::new("mdel").arg("-i").arg(format!("{}@@1M", disk.display())).arg("::/kiln/uplink.json").output();
    assert!(mdel.unwrap().status.success());
    server
        .switch_on(512)
        .ends_with("kiln: fault: uplink_missing: the EFI system partition has no file kiln/uplink.json");
    assert!(server.capture().0.is_empty());
}

/// The demonstration's job, with its input.
fn zlib() -> Hello {
    let made = crate::fixture::build("zlib");
    let hello = Hello { dir: scratch(), draft: made["draft"].as_str().unwrap().to_owned() };
    fs::copy(made["input"].as_str().unwrap(), hello.path("zlib.tar")).unwrap();
    hello
}

/// One whole life: it gets an address, enrols, pulls the job, builds with its network down, emits, powers off; and what it leaves
/// verifies. On the wire there is nobody but the attestor, and what leads to it.
#[test]
fn a_server_pulls_its_job_builds_it_and_hands_it_out() {
    let (job, port) = (zlib(), free_port());
    let mut server = Server::new(&attestor_at(port), &["--scratch-mib", "64"]);
    let attestor = Attestor::serve(&server, &job, port);
    let mut console = server.switch_on(768);
    let steps = ["unpack", "build"].map(|_| {
        console.until("kiln: network down");
        let down = SystemTime::now();
        console.until("kiln: network up");
        // The clocks of the console and the capture are not quite the same.
        (down + CLOCKS, SystemTime::now() - CLOCKS)
    });
    console.ends_with("kiln: done: Built");
    let (code, said) = attestor.finish();
    assert_eq!(code, 0, "{said}");
    let out = job.out().join("01-job");
    let site = server.path("site");
    let verdict = kiln(["verify".as_ref(), out.as_os_str(), "--site".as_ref(), site.as_os_str(), "--json".as_ref()]);
    assert_eq!(verdict.expect(0).json()["builder_id"], BUILDER_METAL);
    assert!(fs::read(out.join("artifacts/libz.a")).unwrap().starts_with(b"!<arch>\n"));

    let Capture(packets) = server.capture();
    let attestor = (HOST, port);
    let allowed = |packet: &Packet| match &packet.kind {
        Kind::Arp(from, to) => [from, to].contains(&&HOST),
        Kind::Dhcp => true,
        Kind::Tcp(from, to) => *from == attestor || *to == attestor,
        Kind::Other(_) => false,
    };
    let stranger = packets.iter().find(|packet| !allowed(packet));
    assert!(stranger.is_none(), "{stranger:?}");
    assert!(packets.iter().any(|packet| packet.kind == Kind::Dhcp));
    let [(begin, _), (build, end)] = steps;
    assert!(end > build + CLOCKS, "the compiler took no time");
    let is_during = |at| steps.iter().any(|(begin, end)| (*begin..*end).contains(&at));
    let during: Vec<_> = packets.iter().filter(|packet| is_during(packet.at)).collect();
    assert!(during.is_empty(), "{during:?}");
    assert!(packets.iter().any(|packet| packet.at < begin) && packets.iter().any(|packet| packet.at > end));
}
