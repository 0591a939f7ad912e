//! The parts of a PE file that firmware and systemd-stub measure.
//!
//! A [`Pe`] was parsed within the file's bounds; that says nothing about who made it. Foreign bytes: everything is bounded by the
//! file's own length and by the constants below. Deliberately absent: checking signatures, which Authenticode leaves out of its
//! digest anyway.

use object::LittleEndian as Le;
use object::pe::{IMAGE_DIRECTORY_ENTRY_SECURITY, ImageNtHeaders64};
use object::read::pe::{ImageNtHeaders as _, ImageOptionalHeader as _, PeFile64};

/// Where `CheckSum` lies in the optional header. Source: PE Format, "Optional Header Windows-Specific Fields".
const CHECKSUM_OFFSET: usize = 64;
/// Where the certificate table's entry lies in the optional header of a PE32+ file. Source: PE Format, "Optional Header Data
/// Directories".
const CERTIFICATE_ENTRY_OFFSET: usize = 144;
/// Bytes of one entry of the data directories.
const DIRECTORY_ENTRY_BYTES: usize = 8;
/// Bytes of the checksum.
const CHECKSUM_BYTES: usize = 4;
/// The largest number of sections: a UKI has about fifteen, one with many profiles some dozens.
const SECTIONS_MAX: usize = 256;
/// The most zeros that loading appends to a section: stubs have pages of them, kernels some megabytes.
const ZEROS_BYTES_MAX: usize = 64 << 20;

/// A file is not a PE32+ file, or its headers point outside of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a PE32+ file: {reason}")]
pub struct PeError {
    /// What is wrong.
    pub reason: &'static str,
}

/// A PE32+ file.
pub struct Pe<'a> {
    bytes: &'a [u8],
    file: PeFile64<'a>,
}

/// A section by name, with the bytes that are loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section<'a> {
    /// Its name, such as `.linux`; what is not text in it is replaced.
    pub name: String,
    /// Its first `VirtualSize` bytes, as far as the file has them.
    pub content: &'a [u8],
    /// How many zeros follow in memory, where `VirtualSize` is more than the file has; at most 64 MiB.
    pub zeros: usize,
}

fn wrong(reason: &'static str) -> PeError {
    PeError { reason }
}

impl<'a> Pe<'a> {
    /// Parses the headers.
    ///
    /// # Errors
    /// [`PeError`] if they are not those of a PE32+ file.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PeError> {
        let file = PeFile64::parse(bytes).map_err(|_| wrong("its headers cannot be read"))?;
        if file.section_table().len() > SECTIONS_MAX {
            return Err(wrong("it has too many sections"));
        }
        Ok(Self { bytes, file })
    }

    /// Its sections in the order of the section table.
    ///
    /// # Errors
    /// [`PeError`] if a section lies outside of the file or is far longer in memory than in the file.
    pub fn sections(&self) -> Result<Vec<Section<'a>>, PeError> {
        self.file
            .section_table()
            .iter()
            .map(|header| {
                let name = header.name.split(|b| *b == 0).next().unwrap_or_default();
                let start = header.pointer_to_raw_data.get(Le) as usize;
                let in_memory = header.virtual_size.get(Le) as usize;
                let in_file = in_memory.min(header.size_of_raw_data.get(Le) as usize);
                let content = range(self.bytes, start, in_file)?;
                let zeros = in_memory - in_file;
                if zeros > ZEROS_BYTES_MAX {
                    return Err(wrong("a section is far longer in memory than in the file"));
                }
                Ok(Section { name: String::from_utf8_lossy(name).into_owned(), content, zeros })
            })
            .collect()
    }

    /// The bytes of the Authenticode digest, in one piece.
    ///
    /// # Errors
    /// Those of [`Pe::authenticode_parts`].
    pub fn authenticode(&self) -> Result<Vec<u8>, PeError> {
        Ok(self.authenticode_parts()?.concat())
    }

    /// The bytes of the Authenticode digest, in its order: the headers without checksum and certificate entry, each section by
    /// its place in the file, and what follows the last one up to the certificates.
    ///
    /// Source: Windows Authenticode Portable Executable Signature Format 1.0, "Calculating the PE Image Hash".
    ///
    /// # Errors
    /// [`PeError`] if a header points outside of the file.
    pub fn authenticode_parts(&self) -> Result<Vec<&'a [u8]>, PeError> {
        let optional = self.file.dos_header().nt_headers_offset() as usize + size_of::<ImageNtHeaders64>()
            - size_of::<object::pe::ImageOptionalHeader64>();
        let headers_end = self.file.nt_headers().optional_header().size_of_headers() as usize;
        let checksum = optional + CHECKSUM_OFFSET;
        let entry = optional + CERTIFICATE_ENTRY_OFFSET;
        let after_checksum = checksum + CHECKSUM_BYTES;
        let after_entry = entry + DIRECTORY_ENTRY_BYTES;
        let mut hashed = Vec::new();
        for (start, end) in [(0, checksum), (after_checksum, entry), (after_entry, headers_end)] {
            hashed.push(self.bytes.get(start..end).ok_or(wrong("its headers are cut short"))?);
        }
        let mut places: Vec<(usize, usize)> = self
            .file
            .section_table()
            .iter()
            .map(|section| (section.pointer_to_raw_data.get(Le) as usize, section.size_of_raw_data.get(Le) as usize))
            .filter(|(_, length)| *length > 0)
            .collect();
        places.sort_unstable();
        let mut counted = headers_end;
        for (start, length) in places {
            hashed.push(range(self.bytes, start, length)?);
            counted = counted.checked_add(length).ok_or(wrong("its sections are too long"))?;
        }
        let rest = self.bytes.len().checked_sub(counted).and_then(|rest| rest.checked_sub(self.certificate_bytes()));
        let rest = rest.ok_or(wrong("its sections overlap"))?;
        hashed.push(range(self.bytes, counted, rest)?);
        Ok(hashed)
    }

    /// Whether somebody has signed it, whoever that is.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.certificate_bytes() > 0
    }

    /// The signatures as they are in the file, believed by nobody yet: the last bytes. Empty if nobody signed it.
    ///
    /// # Errors
    /// [`PeError`] if the headers say that there are more of them than the file has bytes.
    pub fn certificates(&self) -> Result<&'a [u8], PeError> {
        let start = self.bytes.len().checked_sub(self.certificate_bytes());
        start.and_then(|start| self.bytes.get(start..)).ok_or(wrong("its signatures lie outside of it"))
    }

    fn certificate_bytes(&self) -> usize {
        let table = self.file.data_directories().get(IMAGE_DIRECTORY_ENTRY_SECURITY);
        table.map_or(0, |table| table.size.get(Le) as usize)
    }
}

fn range(bytes: &[u8], start: usize, length: usize) -> Result<&[u8], PeError> {
    if length == 0 {
        return Ok(&[]);
    }
    let end = start.checked_add(length).ok_or(wrong("a section lies outside of it"))?;
    bytes.get(start..end).ok_or(wrong("a section lies outside of it"))
}

#[cfg(test)]
pub(crate) mod tests;
