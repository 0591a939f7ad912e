//! How a site's trust changes: another trust list, another policy, another root. What was before is kept below `before/`.
//!
//! Each change is signed by the root, whose key a [`Root`] holds; nothing else of a site needs it. A change that is cut short leaves
//! a site that does not open, or the one that was: no half of it counts. Deliberately absent: another key of an authority. A new root
//! certifies the same ones, each for its own builder id, by their certificates alone: their keys may be elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use kiln_formats::canonical;
use kiln_formats::certificate::{Authority, SERIAL_BYTES};
use kiln_formats::names::MACHINE_BUILDERS;
use kiln_formats::timestamp::Timestamp;
use kiln_formats::trust::{Policy, TRUST_BYTES_MAX, TrustBundle, VERSION};
use kiln_formats::trust_list::{ReferenceTime, RetiredRoot, TrustList, VERSION as LIST_VERSION};

use super::files::{io_error, list, read_public_file, write_key, write_public_file};
use super::{Site, SiteError, boot_references, certificate, document, path, read_key, signer, trust_lists};
use crate::certify::{Issuer, Purpose, ROOT_SECONDS, Request, spki_of};

/// What was before a change, below the site's directory: a directory for each, by the number of the list that ended it.
const BEFORE: &str = "before";
/// The most changes that are looked through.
const CHANGES_MAX: usize = 640;

/// The root's key, and the site that it is the root of.
#[derive(Debug)]
pub struct Root<'a> {
    site: &'a Site,
    key: SigningKey,
}

impl<'a> Root<'a> {
    /// Reads the root's key, which may lie elsewhere than in the site's directory.
    ///
    /// # Errors
    /// [`SiteError::File`]; [`SiteError::Mismatch`] for the key of another root.
    pub fn open(site: &'a Site, key: Option<&Path>) -> Result<Self, SiteError> {
        let inside = site.directory().join(path::ROOT_KEY);
        let file = key.unwrap_or(&inside);
        let key = read_key(file)?;
        let holds = |source| SiteError::Certificate { path: site.directory().to_owned(), source };
        if site.root().spki().map_err(holds)? != spki_of(&key) {
            return Err(SiteError::Mismatch { path: file.to_owned(), rule: "is not the key of the site's root" });
        }
        Ok(Self { site, key })
    }

    /// Makes the next trust list: the newest one, for `seconds` from `now` on, changed by `change`.
    ///
    /// # Errors
    /// [`SiteError`]; a change that takes something back is one, and then nothing was added.
    pub fn issue(
        &self,
        now: Timestamp,
        seconds: u32,
        change: impl FnOnce(&mut TrustList),
    ) -> Result<TrustList, SiteError> {
        let mut next = self.next(now, seconds);
        change(&mut next);
        let file = self.signed(next.sign(&self.key, None))?;
        trust_lists::add(self.site.directory(), self.site.root(), next.number, &file)?;
        Ok(next)
    }

    /// Puts another policy in force, and makes the list that says so: with `only`, policies before it do not count any more.
    ///
    /// # Errors
    /// [`SiteError::Mismatch`] for a policy whose number is not higher; [`SiteError`].
    pub fn set_policy(&self, policy: Policy, only: bool, now: Timestamp, seconds: u32) -> Result<TrustList, SiteError> {
        if policy.version != VERSION || policy.number <= self.site.trust().policy.number {
            let path = self.site.directory().join(path::POLICY);
            return Err(SiteError::Mismatch { path, rule: "the new policy's number is not higher than its number" });
        }
        let number = policy.number;
        let trust = TrustBundle { policy, ..self.site.trust().clone() };
        self.keep(self.next(now, seconds).number)?;
        let list = self.issue(now, seconds, |list| {
            list.minimum.policy = if only { number } else { list.minimum.policy };
        })?;
        self.put_trust(&trust)?;
        Ok(list)
    }

    /// Makes a new root, which certifies the authorities anew, and the list by which the old root hands over to it.
    ///
    /// # Errors
    /// [`SiteError`].
    pub fn rotate(
        &self,
        now: Timestamp,
        seconds: u32,
        random: fn(&mut [u8]) -> Result<(), getrandom::Error>,
    ) -> Result<TrustList, SiteError> {
        let mut seed = [0; 32];
        random(&mut seed)?;
        let new_serial = || -> Result<_, SiteError> {
            let mut serial = [0; SERIAL_BYTES];
            random(&mut serial)?;
            Ok(serial)
        };
        let key = SigningKey::from_bytes(&seed);
        let (site, mut next) = (self.site, self.next(now, seconds));
        let name = format!("{} root {}", site.name(), next.number);
        let root = Issuer::named(&name, &key)?.issue(&Request {
            purpose: Purpose::Root,
            subject: &name,
            spki: &spki_of(&key),
            begin: now,
            seconds: ROOT_SECONDS,
            serial: new_serial()?,
        })?;
        let directory = site.directory();
        let holds = |source| SiteError::Certificate { path: directory.to_owned(), source };
        let mut authorities = Vec::new();
        for builder_id in MACHINE_BUILDERS {
            let [file, _] = signer::paths(directory, builder_id)?;
            // What the old root certified for these machines, and nothing that lies in its place.
            let certified = certificate(&file)?;
            let begun = Timestamp::from_unix(certified.begins()).unwrap_or(now);
            Authority::check(site.root(), &certified, begun, builder_id).map_err(holds)?;
            let spki = certified.spki().map_err(holds)?;
            let anew = signer::certify(site.name(), builder_id, &spki, (&root, &key), now, new_serial()?)?;
            authorities.push((file, anew.to_pem().map_err(holds)?));
        }
        let root_pem = root.to_pem().map_err(holds)?;
        next.retired.push(RetiredRoot { root: next.root.clone(), until: now });
        next.root.clone_from(&root_pem);
        let file = self.signed(next.sign(&key, Some(&self.key)))?;
        let kept = self.keep(next.number)?;
        // The new key first, under a name that nothing reads: from here on nothing that is needed can be lost.
        let draft = directory.join("root.key.new");
        write_key(&draft, &key)?;
        trust_lists::add(directory, &root, next.number, &file)?;
        let old = directory.join(path::ROOT_KEY);
        if old.exists() {
            fs::rename(&old, kept.join(path::ROOT_KEY)).map_err(io_error("write", &kept))?;
        }
        fs::rename(&draft, &old).map_err(io_error("write", &old))?;
        write_public_file(&directory.join(path::ROOT), root_pem.as_bytes())?;
        for (file, pem) in authorities {
            write_public_file(&file, pem.as_bytes())?;
        }
        self.put_trust(&TrustBundle { root: root_pem, ..site.trust().clone() })?;
        Ok(next)
    }

    /// Says what time it is.
    ///
    /// # Errors
    /// [`SiteError::Document`].
    pub fn time(&self, time: Timestamp) -> Result<Vec<u8>, SiteError> {
        let said = ReferenceTime { version: LIST_VERSION, site: self.site.name().clone(), time };
        self.signed(said.sign(&self.key))
    }

    fn next(&self, now: Timestamp, seconds: u32) -> TrustList {
        let newest = &self.site.trust_list().list;
        TrustList { number: newest.number + 1, issued: now, expires: now.plus_seconds(seconds), ..newest.clone() }
    }

    fn signed(&self, signed: Result<Vec<u8>, canonical::Error>) -> Result<Vec<u8>, SiteError> {
        signed.map_err(|source| SiteError::Document { path: self.site.directory().to_owned(), source })
    }

    /// Keeps the trust bundle that is about to change.
    fn keep(&self, number: u64) -> Result<PathBuf, SiteError> {
        let kept = self.site.directory().join(BEFORE).join(format!("{number:06}"));
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&kept).map_err(io_error("write", &kept))?;
        write_public_file(&kept.join(path::TRUST), self.site.trust_bytes())?;
        Ok(kept)
    }

    /// The trust bundle that machines measure from now on, and the reference values that follow from it.
    fn put_trust(&self, trust: &TrustBundle) -> Result<(), SiteError> {
        let directory = self.site.directory();
        let bytes = self.signed(canonical::to_vec(trust))?;
        for mut reference in self.site.references()? {
            boot_references(directory, trust, &mut reference)?;
            self.site.add_reference(&reference)?;
        }
        write_public_file(&directory.join(path::POLICY), &self.signed(canonical::to_vec(&trust.policy))?)?;
        Ok(write_public_file(&directory.join(path::TRUST), &bytes)?)
    }
}

/// The trust bundles of the site in `directory`: the one that is in force, and those before it. Reads no key.
///
/// # Errors
/// [`SiteError::File`], [`SiteError::Document`].
pub fn bundles(directory: &Path) -> Result<BTreeMap<PathBuf, TrustBundle>, SiteError> {
    let before = directory.join(BEFORE);
    let kept = if before.exists() { list(&before, CHANGES_MAX)? } else { Vec::new() };
    let files = kept.into_iter().chain([directory.to_owned()]).map(|directory| directory.join(path::TRUST));
    files.map(|file| Ok((file.clone(), document(&file, TRUST_BYTES_MAX)?.0))).collect()
}

/// Reads a policy that somebody wrote.
///
/// # Errors
/// [`SiteError::File`], [`SiteError::Document`].
pub fn read_policy(file: &Path) -> Result<Policy, SiteError> {
    let bytes = read_public_file(file, TRUST_BYTES_MAX)?;
    let syntax = |source| SiteError::Document { path: file.to_owned(), source };
    serde_json::from_slice(&bytes).map_err(|source| syntax(canonical::Error::Decode { source }))
}
