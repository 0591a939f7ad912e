//! Reads what a machine left, for the verifier: every file, and nothing that is no plain file.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use kiln_formats::canonical;
use kiln_formats::challenge::Binding;
use kiln_formats::decision::Decision;
use kiln_formats::digest::{Digester, Sha256Digest};
use kiln_formats::dsse::Envelope;
use kiln_formats::manifest::{FILE_BYTES_MAX, FILES_MAX, path};
use kiln_verifier::{Bundle, Content};

use crate::exit::{Exit, OrExit as _, Problem, Result};

/// The deepest file of a bundle is `evidence/records/NAME`.
const DEPTH_MAX: usize = 3;
/// How much of a file is read at once.
const PIECE_BYTES: usize = 1 << 20;

/// Reads every file below `directory` but its `verdict.json` and `teardown.json`, which are no evidence.
pub(crate) fn read(directory: &Path) -> Result<Bundle> {
    let mut bundle = Bundle::new();
    read_directory(directory, "", 0, &mut bundle)?;
    Ok(bundle)
}

fn read_directory(directory: &Path, prefix: &str, depth: usize, bundle: &mut Bundle) -> Result<()> {
    let failed = |source| Problem::Io { action: "read", path: directory.to_owned(), source };
    // A directory that cannot be read at the top is the person's mistake.
    for entry in fs::read_dir(directory).map_err(failed).or_exit(Exit::Usage)? {
        let entry = entry.map_err(failed).or_exit(Exit::Infrastructure)?;
        let no_evidence = |why| Err(Problem::Bundle { path: entry.path(), why }).or_exit(Exit::NotVerified);
        let Ok(name) = entry.file_name().into_string() else { return no_evidence("its name is not text") };
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().map_err(failed).or_exit(Exit::Infrastructure)?;
        if [path::VERDICT, path::TEARDOWN].contains(&path.as_str()) {
            continue;
        } else if kind.is_dir() && depth + 1 < DEPTH_MAX {
            read_directory(&entry.path(), &format!("{path}/"), depth + 1, bundle)?;
        } else if !kind.is_file() {
            return no_evidence("it is neither a plain file nor a directory of a bundle");
        } else if bundle.paths().count() > FILES_MAX + path::CLOSING_FILES.len() {
            return no_evidence("there are more files than a bundle can have");
        } else {
            bundle.insert(path.clone(), read_file(&entry.path(), &path)?);
        }
    }
    Ok(())
}

/// The bytes of documents; digest and size of artifacts, which may be as large as a disk.
fn read_file(file: &Path, path: &str) -> Result<Content> {
    let failed = |source| Problem::Io { action: "read", path: file.to_owned(), source };
    let mut open = File::open(file).map_err(failed).or_exit(Exit::Infrastructure)?;
    let size = open.metadata().map_err(failed).or_exit(Exit::Infrastructure)?.len();
    let document = path.starts_with("evidence/") || path.ends_with(".intoto.jsonl");
    if document && size <= FILE_BYTES_MAX {
        let mut bytes = Vec::new();
        open.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed).or_exit(Exit::Infrastructure)?;
        return Ok(Content::Bytes(bytes));
    }
    let (mut digester, mut piece) = (Digester::new(), vec![0; PIECE_BYTES]);
    loop {
        let read = open.read(&mut piece).map_err(failed).or_exit(Exit::Infrastructure)?;
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        digester.update(bytes);
    }
    let size = digester.bytes();
    Ok(Content::Digest { sha256: digester.finish(), size })
}

/// The trust bundle that the evidence claims to be made under: to find the one that it is then held against.
pub(crate) fn trust(bundle: &Bundle) -> Option<Sha256Digest> {
    let envelope = Envelope::from_slice_exact(bundle.bytes(path::DECISION)?).ok()?;
    let decision: Decision = canonical::from_slice_exact(&envelope.alleged_payload().ok()?).ok()?;
    Some(decision.trust_sha256)
}

/// The image that the evidence claims to be about: to find the reference values that it is then held against.
pub(crate) fn image(bundle: &Bundle) -> Option<Sha256Digest> {
    let binding: Binding = canonical::from_slice_exact(bundle.bytes(path::BINDING)?).ok()?;
    Some(binding.challenge.image_sha256)
}
