//! Makes a site: keys, certificates, policy, trust bundle. Whole or not at all.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use ed25519_dalek::SigningKey;
use kiln_formats::canonical;
use kiln_formats::certificate::{Authority, SERIAL_BYTES};
use kiln_formats::job::Profile;
use kiln_formats::names::{MACHINE_BUILDERS, Name};
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust::{Policy, PublicKey, TrustBundle, VERSION};
use kiln_formats::trust_list::{self, Minimum, Revoked, TrustList};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Serialize;

use super::files::{io_error, write_key, write_public_file};
use super::{Description, SiteError, path, signer, trust_lists};
use crate::certify::{Issuer, Purpose, ROOT_SECONDS, Request, spki_of};
use crate::state::{self, Owner};

/// What a site is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Its name.
    pub site: Name,
    /// The trust domain of its SPIFFE ids.
    pub trust_domain: Name,
}

/// What the steps of a site's jobs may do if nothing else is said.
pub const PROFILES: [Profile; 2] = [Profile::Strict, Profile::Loopback];

/// How long a trust list counts if nothing else is said, in seconds: 90 days. Who withholds a newer one gains no more than that.
pub const TRUST_LIST_SECONDS: u32 = 90 * 86_400;

/// Makes a site in `directory`, which must not exist yet. Its policy allows `profiles`; [`PROFILES`] unless it is for a desk.
///
/// `random` fills a buffer with bytes that nobody can guess.
///
/// # Errors
/// [`SiteError::Exists`]; [`SiteError::File`] if the system refuses; nothing is left behind.
pub fn create(
    directory: &Path,
    names: &Names,
    profiles: &[Profile],
    now: Timestamp,
    random: fn(&mut [u8]) -> Result<(), getrandom::Error>,
) -> Result<(), SiteError> {
    let exists = || SiteError::Exists { path: directory.to_owned() };
    if directory.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Gone again if anything fails.
    let private = fs::Permissions::from_mode(0o700);
    let draft = tempfile::Builder::new().prefix(".kiln-site-").permissions(private).tempdir_in(parent);
    let draft = draft.map_err(io_error("write", parent))?;
    write(draft.path(), names, profiles, now, random)?;
    match renameat_with(CWD, draft.path(), CWD, directory, RenameFlags::NOREPLACE) {
        Ok(()) => {
            // The directory has moved; there is nothing left to remove under its old name.
            let _moved = draft.keep();
            Ok(())
        }
        Err(rustix::io::Errno::EXIST) => Err(exists()),
        Err(error) => Err(io_error("write", directory)(error.into()).into()),
    }
}

fn write(
    draft: &Path,
    names: &Names,
    profiles: &[Profile],
    now: Timestamp,
    random: fn(&mut [u8]) -> Result<(), getrandom::Error>,
) -> Result<(), SiteError> {
    let new_key = || -> Result<SigningKey, SiteError> {
        let mut seed = [0; 32];
        random(&mut seed)?;
        Ok(SigningKey::from_bytes(&seed))
    };
    let new_serial = || -> Result<_, SiteError> {
        let mut serial = [0; SERIAL_BYTES];
        random(&mut serial)?;
        Ok(serial)
    };
    let (root_key, ledger_key, invoker_key) = (new_key()?, new_key()?, new_key()?);
    let image_key = new_key()?;

    let root_name = format!("{} root", names.site);
    let root = Issuer::named(&root_name, &root_key)?.issue(&Request {
        purpose: Purpose::Root,
        subject: &root_name,
        spki: &spki_of(&root_key),
        begin: now,
        seconds: ROOT_SECONDS,
        serial: new_serial()?,
    })?;
    let holds = |source| SiteError::Certificate { path: draft.to_owned(), source };
    let authorities = draft.join(path::AUTHORITIES);
    fs::DirBuilder::new().mode(0o700).create(&authorities).map_err(io_error("write", &authorities))?;
    for builder_id in MACHINE_BUILDERS {
        let key = new_key()?;
        let authority =
            signer::certify(&names.site, builder_id, &spki_of(&key), (&root, &root_key), now, new_serial()?)?;
        Authority::check(&root, &authority, now, builder_id).map_err(holds)?;
        let [certificate, private] = signer::paths(draft, builder_id)?;
        write_key(&private, &key)?;
        write_public_file(&certificate, authority.to_pem().map_err(holds)?.as_bytes())?;
    }

    let policy = Policy {
        version: VERSION,
        number: 1,
        builder_ids: MACHINE_BUILDERS.map(str::to_owned).into(),
        job_signers: vec![PublicKey(invoker_key.verifying_key())],
        profiles: profiles.to_vec(),
        image_producers: vec![PublicKey(image_key.verifying_key())],
        machines: None,
        hosts: Vec::new(),
    };
    let first = TrustList {
        version: trust_list::VERSION,
        site: names.site.clone(),
        number: 1,
        issued: now,
        expires: now.plus_seconds(TRUST_LIST_SECONDS),
        root: root.to_pem().map_err(holds)?,
        retired: Vec::new(),
        minimum: Minimum::default(),
        revoked: Revoked::default(),
    };
    let signed = first.sign(&root_key, None);
    let signed = signed.map_err(|source| SiteError::Document { path: draft.to_owned(), source })?;
    trust_lists::add(draft, &root, first.number, &signed)?;
    let root = root.to_pem().map_err(holds)?;
    let trust = TrustBundle { version: VERSION, root: root.clone(), policy: policy.clone() };
    let description =
        Description { version: VERSION, name: names.site.clone(), trust_domain: names.trust_domain.clone() };

    for (name, key) in [(path::ROOT_KEY, &root_key), (path::LEDGER_KEY, &ledger_key), (path::INVOKER_KEY, &invoker_key)]
    {
        write_key(&draft.join(name), key)?;
    }
    write_key(&draft.join(path::IMAGE_KEY), &image_key)?;
    write_public_file(&draft.join(path::ROOT), root.as_bytes())?;
    write_document(&draft.join(path::POLICY), &policy)?;
    write_document(&draft.join(path::TRUST), &trust)?;
    write_document(&draft.join(path::SITE), &description)?;
    let references = draft.join(path::REFERENCE);
    fs::DirBuilder::new().mode(0o700).create(&references).map_err(io_error("write", &references))?;
    let owner = Owner { site: names.site.clone(), trust_domain: names.trust_domain.clone(), key: ledger_key };
    Ok(state::begin(draft, &owner, now)?)
}

fn write_document<T: Serialize>(path: &Path, value: &T) -> Result<(), SiteError> {
    let bytes = canonical::to_vec(value).map_err(|source| SiteError::Document { path: path.to_owned(), source })?;
    Ok(write_public_file(path, &bytes)?)
}
