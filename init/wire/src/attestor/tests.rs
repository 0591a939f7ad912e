//! Servers under a root that OpenSSL made: the one of the authority for servers is taken, every other one is not.

use std::fs;
use std::process::Command;

use rustls::pki_types::pem::PemObject as _;

use super::*;

/// Who signs what, and with which extensions.
const EXTENSIONS: &str = "
[req]
distinguished_name = nobody
[nobody]
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[metal]
basicConstraints = critical, CA:TRUE, pathlen:1
keyUsage = critical, keyCertSign
subjectAltName = URI:https://kiln.example/builders/metal/v1
[direct]
basicConstraints = critical, CA:TRUE, pathlen:1
keyUsage = critical, keyCertSign
subjectAltName = URI:https://kiln.example/builders/vm-swtpm-direct/v1
[before]
basicConstraints = critical, CA:TRUE, pathlen:1
keyUsage = critical, keyCertSign
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:attestor.example, URI:spiffe://site.example/attestor
";

/// A site's certificates, and a server's under each of its authorities.
struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("extensions"), EXTENSIONS).unwrap();
        let site = Self(directory);
        site.make("root", "root", None);
        for authority in ["metal", "direct", "before"] {
            site.make(authority, authority, Some("root"));
            site.make(&format!("server-{authority}"), "server", Some(authority));
        }
        site
    }

    fn make(&self, name: &str, extensions: &str, issuer: Option<&str>) {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "2", "-config", "extensions"]);
        openssl.args(["-subj", &format!("/CN={name}"), "-extensions", extensions]);
        openssl.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")]);
        if let Some(issuer) = issuer {
            openssl.args(["-CA", &format!("{issuer}.pem"), "-CAkey", &format!("{issuer}.key")]);
        }
        let made = openssl.current_dir(self.0.path()).output().unwrap();
        assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
    }

    fn certificate(&self, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.0.path().join(format!("{name}.pem"))).unwrap()
    }

    /// What a machine with this root makes of a server that shows these certificates, the server's first.
    fn answers(&self, known_as: &str, shown: &[&str], now: UnixTime) -> Result<(), Error> {
        let root = fs::read(self.0.path().join("root.pem")).unwrap();
        let attestor = OfServers::new(Certificate::from_pem(&root).unwrap()).unwrap();
        let shown: Vec<_> = shown.iter().map(|name| self.certificate(name)).collect();
        let (server, above) = shown.split_first().unwrap();
        let name = ServerName::try_from(known_as.to_owned()).unwrap();
        attestor.verify_server_cert(server, above, &name, &[], now).map(drop)
    }
}

#[test]
fn only_the_authority_for_servers_vouches_for_an_attestor() {
    let (site, other) = (Site::new(), Site::new());
    let (name, now) = ("attestor.example", UnixTime::now());
    assert_eq!(site.answers(name, &["server-metal", "metal"], now), Ok(()));

    let development = site.answers(name, &["server-direct", "direct"], now).unwrap_err();
    assert_eq!(code(&development), "signer_of_other_mode");
    assert!(development.to_string().contains("vm-swtpm-direct"), "{development}");
    for shown in [
        // The right authority's certificate beside the one that signed, before it and behind it, and in its place.
        &["server-direct", "metal", "direct"][..],
        &["server-direct", "direct", "metal"],
        &["server-direct", "metal"],
        &["server-metal", "direct"],
        &["server-metal", "metal", "metal"],
        &["server-metal"],
        // As before each mode had a signer of its own.
        &["server-before", "before"],
        // An authority is no server.
        &["metal", "root"],
    ] {
        let refused = site.answers(name, shown, now).expect_err(&shown.join(" under "));
        assert_eq!(code(&refused), "tls", "{shown:?}: {refused}");
    }
    // What was checked before is still.
    let late = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_secs() + 3 * 86_400));
    for (site, known_as, at) in [(&site, "other.example", now), (&site, name, late)] {
        assert!(site.answers(known_as, &["server-metal", "metal"], at).is_err(), "{known_as}");
    }
    let root = fs::read(other.0.path().join("root.pem")).unwrap();
    fs::write(site.0.path().join("root.pem"), root).unwrap();
    assert!(site.answers(name, &["server-metal", "metal"], now).is_err());
}
