//! What is made here a real TPM opens: swtpm, driven with tpm2-tools, which are nobody's code of ours.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// How long a software TPM may take to listen, on a busy host.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The branches of the policy of a key of the high range. Source: TCG EK Credential Profile, version 2.5, section B.6.
const BRANCHES: [(&str, &str); 2] = [
    ("a", "8bbf2266537c171cb56e403c4dc1d4b64f432611dc386e6f532050c3278c930e143e8bb1133824ccb431053871c6db53"),
    ("c", "d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165"),
];

/// A software TPM with fresh state; ends when dropped.
pub(crate) struct Swtpm {
    process: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Swtpm {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().display().to_string();
        let setup = ["--tpm2", "--tpmstate", &state, "--pcr-banks", "sha256"];
        let made = Command::new("swtpm_setup").args(setup).output().expect("swtpm_setup is in package swtpm-tools");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        // The TSS wants the control port to be the one above the server's.
        let port = (0..100)
            .find_map(|_| {
                let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
                TcpListener::bind(("127.0.0.1", port.checked_add(1)?)).ok().map(|_| port)
            })
            .unwrap();
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--tpmstate", &format!("dir={state}")])
            .args(["--server", &format!("type=tcp,bindaddr=127.0.0.1,port={port}")])
            .args(["--ctrl", &format!("type=tcp,bindaddr=127.0.0.1,port={}", port + 1)])
            .stdin(Stdio::null())
            .spawn()
            .expect("swtpm is in package swtpm");
        let swtpm = Self { process, port, directory };
        let start = Instant::now();
        while !swtpm.tool("tpm2_pcrread sha256:0") {
            assert!(start.elapsed() < START_TIMEOUT, "swtpm does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        swtpm
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a line, without a shell.
    pub(crate) fn tool(&self, line: &str) -> bool {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        command.args(words).current_dir(self.directory());
        command.env("TPM2TOOLS_TCTI", format!("swtpm:host=127.0.0.1,port={}", self.port));
        let ran = command.output().expect("the tools are in package tpm2-tools");
        if !ran.status.success() {
            // Shown only if the test fails.
            println!("{line}: {}", String::from_utf8_lossy(&ran.stderr));
        }
        ran.status.success()
    }

    /// Without a resource manager, what a tool leaves loaded stays.
    pub(crate) fn must(&self, line: &str) {
        assert!(self.tool(line), "{line}");
        assert!(self.tool("tpm2_flushcontext -t"));
    }

    /// Makes both keys; the endorsement key and the attestation key's name.
    fn keys(&self, algorithm: &str) -> (EkPublic, [u8; 34]) {
        self.must(&format!("tpm2_createek -c ek.ctx -G {algorithm} -u ek.pub"));
        let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign";
        self.must(&format!("tpm2_createprimary -C e -g sha256 -G ecc256:ecdsa-sha256:null -a {attributes} -c ak.ctx"));
        self.must("tpm2_readpublic -c ak.ctx -n ak.name");
        let public = fs::read(self.directory().join("ek.pub")).unwrap();
        let name = fs::read(self.directory().join("ak.name")).unwrap();
        (EkPublic::parse(&public[2..]).unwrap(), name.try_into().unwrap())
    }

    /// What the TPM finds in a credential; `None` if it does not open it.
    pub(crate) fn open(&self, kind: EkKind, credential: &Credential) -> Option<Vec<u8>> {
        // How tpm2-tools keep credentials: a magic number, a version, both structures.
        let head = [0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1];
        let file = [&head[..], &credential.id_object.0, &credential.encrypted_secret.0].concat();
        fs::write(self.directory().join("credential"), file).unwrap();
        let hash = if kind == EkKind::P384 { "sha384" } else { "sha256" };
        self.must(&format!("tpm2_startauthsession --policy-session -S session -g {hash}"));
        self.must("tpm2_policysecret -S session -c e");
        if kind == EkKind::P384 {
            for (name, hex) in BRANCHES {
                let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
                fs::write(self.directory().join(name), (0..48).map(byte).collect::<Vec<_>>()).unwrap();
            }
            self.must("tpm2_policyor -S session -L both sha384:a,c");
        }
        let opened =
            self.tool("tpm2_activatecredential -c ak.ctx -C ek.ctx -i credential -o opened -P session:session");
        assert!(self.tool("tpm2_flushcontext -t") && self.tool("tpm2_flushcontext session"));
        opened.then(|| fs::read(self.directory().join("opened")).unwrap())
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn a_real_tpm_opens_what_is_for_its_keys_and_nothing_else() {
    let swtpm = Swtpm::start();
    for (algorithm, kind) in [("rsa", EkKind::Rsa2048), ("ecc", EkKind::P256), ("ecc384", EkKind::P384)] {
        let (key, name) = swtpm.keys(algorithm);
        assert_eq!(key.kind(), kind);
        let secret = *b"0123456789abcdef0123456789abcdef";
        let credential = make(&key, &name, &secret, getrandom::fill).unwrap();
        assert_eq!(swtpm.open(kind, &credential).as_deref(), Some(&secret[..]), "{algorithm}");
        // Made again it is another one, and as good.
        let again = make(&key, &name, &secret, getrandom::fill).unwrap();
        assert_ne!((&again.id_object, &again.encrypted_secret), (&credential.id_object, &credential.encrypted_secret));
        assert_eq!(swtpm.open(kind, &again).as_deref(), Some(&secret[..]), "{algorithm}");
        // For an attestation key of another name; the seed of the one with the secret of the other.
        let mut other = name;
        other[33] ^= 1;
        let foreign = make(&key, &other, &secret, getrandom::fill).unwrap();
        assert_eq!(swtpm.open(kind, &foreign), None, "{algorithm}");
        assert_eq!(swtpm.open(kind, &Credential { id_object: again.id_object, ..credential }), None, "{algorithm}");
    }
}

#[test]
fn a_key_that_is_none_and_a_kernel_without_randomness_make_no_credential() {
    use crate::authority::tests::endorsement::Endorsement;

    let mut public = Endorsement::of(1).public();
    let sound = EkPublic::parse(&public).unwrap();
    *public.last_mut().unwrap() ^= 1;
    let no_point = EkPublic::parse(&public).unwrap();
    let make = |key, random| make(key, &[0; 34], &[0; 32], random);
    assert!(matches!(make(&no_point, getrandom::fill), Err(CredentialError::Key)));
    assert!(matches!(make(&sound, |_| Err(getrandom::Error::UNSUPPORTED)), Err(CredentialError::Random { .. })));
    // Zero is no key: it is drawn again, and not for ever.
    let zero: Random = |bytes| {
        bytes.fill(0);
        Ok(())
    };
    assert!(matches!(make(&sound, zero), Err(CredentialError::Key)));
}
