//! An image that was made now against the one that was published: which parts differ, which of them are at fault, which inputs
//! were others.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use kiln_formats::digest::Sha256Digest;
use kiln_image::build::{Image, Published};
use kiln_image::check::{self, Bytes, Difference, InputDifference, Place};
use kiln_image::inputs::Input;
use kiln_image::{cpio, initrd, pe};
use serde::Serialize;

use crate::document;
use crate::exit::{Exit, OrExit as _, Problem, Result};

/// What a published directory calls the description of its image.
pub(crate) const DESCRIPTION: &str = "image.json";
/// The largest description in bytes: some hundreds of inputs and some dozens of parts.
const DESCRIPTION_BYTES_MAX: usize = 4 << 20;
/// The largest published file that is looked into: a disk has 64 MiB.
const FILE_BYTES_MAX: usize = 64 << 20;

/// A published image: its description, and where its files may lie.
#[derive(Debug)]
pub(crate) struct PublishedImage {
    description: Published,
    directory: PathBuf,
}

/// What came of the comparison.
#[derive(Debug, Serialize)]
pub(crate) struct Compared {
    /// Whether every part is the published one.
    same: bool,
    /// The parts that differ, causes first.
    differences: Vec<Explained>,
    /// What was made from or with something else.
    inputs: Vec<InputDifference>,
}

/// A part that differs, and where.
#[derive(Debug, Serialize)]
struct Explained {
    #[serde(flatten)]
    difference: Difference,
    /// Where its bytes differ; none if the published file is not at hand.
    bytes: Option<Bytes>,
}

/// Reads a description, and its bytes.
pub(crate) fn description(path: &Path) -> Result<(Published, Vec<u8>)> {
    let bytes = document::read(path, DESCRIPTION_BYTES_MAX)?;
    let described = serde_json::from_slice(&bytes);
    let described = described.map_err(|source| Problem::Json { path: path.to_owned(), source }).or_exit(Exit::Usage)?;
    Ok((described, bytes))
}

/// Reads what was published: a description, or a directory with one.
pub(crate) fn read(path: &Path) -> Result<PublishedImage> {
    let file = if path.is_dir() { path.join(DESCRIPTION) } else { path.to_owned() };
    let directory = file.parent().unwrap_or(Path::new(".")).to_owned();
    Ok(PublishedImage { description: description(&file)?.0, directory })
}

impl PublishedImage {
    /// Compares it with one that was made now.
    pub(crate) fn compare(&self, made: &Image) -> Result<Compared> {
        let found = check::compare(&self.description.parts, &made.parts);
        let mut differences = Vec::new();
        for difference in found {
            let bytes = if difference.place == Place::Cause { self.bytes(&difference, made)? } else { None };
            differences.push(Explained { difference, bytes });
        }
        let inputs = check::compare_inputs(&self.description.inputs, &made.inputs);
        Ok(Compared { same: differences.is_empty(), differences, inputs })
    }

    /// Where a part's bytes differ, if the published file is at hand and is what was published.
    fn bytes(&self, difference: &Difference, made: &Image) -> Result<Option<Bytes>> {
        let (file, inside) = difference.part.split_once('/').unwrap_or((&difference.part, ""));
        let of_file = |files: [(&'static str, PathBuf); 5]| files.into_iter().find(|(name, _)| *name == file);
        let published = self.description.files().map(|(name, file)| (name, self.at_hand(&file.path, file.sha256)));
        let made = made.files().named().map(|(name, path)| (name, path.to_owned()));
        let Some((_, Some(published))) = published.into_iter().find(|(name, _)| *name == file) else { return Ok(None) };
        let Some((_, made)) = of_file(made) else { return Ok(None) };
        let (published, made) = (part(file, inside, published)?, part(file, inside, read_file(&made)?)?);
        Ok(published.zip(made).and_then(|(published, made)| Bytes::of(&published, &made)))
    }

    /// The content of a published file: beside the description by its name, or where it was made.
    fn at_hand(&self, path: &Path, sha256: Sha256Digest) -> Option<Vec<u8>> {
        let beside = path.file_name().map(|name| self.directory.join(name));
        let contents = beside.into_iter().chain([path.to_owned()]).filter_map(|path| read_file(&path).ok());
        contents.into_iter().find(|content| Sha256Digest::of(content) == sha256)
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    document::read(path, FILE_BYTES_MAX)
}

/// The content of a part of a file; none if it has no such part.
fn part(file: &str, inside: &str, content: Vec<u8>) -> Result<Option<Vec<u8>>> {
    Ok(match (file, inside) {
        (_, "") => Some(content),
        ("initrd", name) => cpio::find(&initrd::unpack(&content).or_exit(Exit::Usage)?, name).map(<[u8]>::to_vec),
        ("uki", name) => {
            let sections = pe::Pe::parse(&content).and_then(|pe| pe.sections()).or_exit(Exit::Usage)?;
            sections.into_iter().find(|section| section.name == name).map(|section| section.content.to_vec())
        }
        _ => None,
    })
}

impl Compared {
    pub(crate) fn exit(&self) -> Exit {
        if self.same { Exit::Done } else { Exit::NotVerified }
    }

    /// For a person: causes, what follows from them, and the inputs that were others.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if self.same {
            text.push_str("the same: every part is the published one\n");
        }
        for Explained { difference, bytes } in &self.differences {
            let line = match &difference.place {
                Place::Cause => format!("{}  {}", difference.part, how(difference, *bytes)),
                Place::Follows(of) => format!("  {} differs because {of} does", difference.part),
            };
            let _ = writeln!(text, "{line}");
        }
        let version = |input: &Option<Input>| {
            input.as_ref().map_or_else(
                || "nothing".to_owned(),
                |input| {
                    let sha256 = input.sha256.map(|digest| digest.to_string()).unwrap_or_default();
                    format!("{} {sha256}", input.version.as_deref().unwrap_or_default()).trim().to_owned()
                },
            )
        };
        for InputDifference { published, found } in &self.inputs {
            let name = published.as_ref().or(found.as_ref()).map_or("", |input| &input.name);
            let _ =
                writeln!(text, "made from another {name}: {}, published was {}", version(found), version(published));
        }
        text
    }
}

fn how(difference: &Difference, bytes: Option<Bytes>) -> String {
    match (difference.published, difference.found, bytes) {
        (None, _, _) => "is new".to_owned(),
        (_, None, _) => "is gone".to_owned(),
        (Some(published), Some(found), None) => {
            format!(
                "differs: {} ({} bytes), published was {} ({} bytes)",
                found.sha256, found.bytes, published.sha256, published.bytes
            )
        }
        (Some(published), Some(found), Some(Bytes { first, differ, surplus })) => {
            let length = match surplus {
                0 => format!("{} bytes long", found.bytes),
                surplus => format!("{} bytes long, published was {} ({surplus} apart)", found.bytes, published.bytes),
            };
            format!("differs in {differ} of its bytes, the first at {first:#x}; {length}")
        }
    }
}
