//! The two superblocks of an image, parsed strictly from bytes that nobody has verified yet.
//!
//! dm-verity's root hash does not cover its own superblock. What is taken from there (salt, number of blocks) is safe because the
//! EROFS superblock, read again through the verified device, must state the same size, and any other salt gives other hashes.
//! Source: Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h; the cryptsetup project's "DM-Verity on-disk format".

use thiserror::Error;

/// Size of every block, of data and of hashes.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// Where the EROFS superblock lies in the first block.
const EROFS_OFFSET: usize = 1024;
/// `EROFS_SUPER_MAGIC_V1`.
const EROFS_MAGIC: u32 = 0xE0F5_E1E2;
/// `EROFS_FEATURE_INCOMPAT_48BIT`: the number of blocks would not be where we look.
const EROFS_48BIT: u32 = 0x80;
/// First bytes of a verity superblock.
const VERITY_MAGIC: &[u8; 8] = b"verity\0\0";
/// Longest salt the format has room for.
const SALT_BYTES_MAX: usize = 256;
/// Digests in one hash block.
const DIGESTS_PER_BLOCK: u64 = BLOCK_BYTES / 32;

/// What is wrong with a superblock.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says what its fields are")]
pub enum Error {
    #[error("not an EROFS image: magic {found:#010x}")]
    NotErofs { found: u32 },
    #[error("EROFS block size is 2^{bits} bytes, only 4096 are taken")]
    ErofsBlockSize { bits: u8 },
    #[error("EROFS image uses features {features:#x} that are not taken")]
    ErofsFeatures { features: u32 },
    #[error("EROFS image of {blocks} blocks")]
    ErofsEmpty { blocks: u32 },
    #[error("no verity superblock behind the EROFS image")]
    NotVerity,
    #[error("verity {field} is {found}, only {expected} is taken")]
    VerityField { field: &'static str, found: u64, expected: u64 },
    #[error("verity algorithm is not sha256")]
    VerityAlgorithm,
    #[error("the device has {found} bytes, image and hash tree need {needed}")]
    Truncated { found: u64, needed: u64 },
}

/// An EROFS image's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Erofs {
    pub(super) blocks: u32,
}

impl Erofs {
    /// Parses the first block of an image.
    pub(super) fn parse(first: &[u8; BLOCK_BYTES as usize]) -> Result<Self, Error> {
        let word = |at: usize| u32::from_le_bytes(field(first, EROFS_OFFSET + at));
        if word(0) != EROFS_MAGIC {
            return Err(Error::NotErofs { found: word(0) });
        }
        let [bits] = field(first, EROFS_OFFSET + 12);
        if bits != 12 {
            return Err(Error::ErofsBlockSize { bits });
        }
        if word(80) & EROFS_48BIT != 0 {
            return Err(Error::ErofsFeatures { features: word(80) });
        }
        match word(36) {
            0 => Err(Error::ErofsEmpty { blocks: 0 }),
            blocks => Ok(Self { blocks }),
        }
    }

    /// Where the verity superblock begins: right behind the image.
    pub(super) fn verity_offset(self) -> u64 {
        u64::from(self.blocks) * BLOCK_BYTES
    }
}

/// What the hash tree needs beside the root hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verity {
    pub(super) blocks: u32,
    pub(super) salt: Vec<u8>,
}

impl Verity {
    /// Parses the block behind an image of `erofs`'s size, on a device of `device_bytes`.
    pub(super) fn parse(block: &[u8; BLOCK_BYTES as usize], erofs: Erofs, device_bytes: u64) -> Result<Self, Error> {
        if &field::<8>(block, 0) != VERITY_MAGIC {
            return Err(Error::NotVerity);
        }
        if &field::<32>(block, 32) != b"sha256\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" {
            return Err(Error::VerityAlgorithm);
        }
        let word = |at: usize| u64::from(u32::from_le_bytes(field(block, at)));
        let salt_bytes = u64::from(u16::from_le_bytes(field(block, 80)));
        for (name, found, expected) in [
            ("version", word(8), 1),
            ("hash type", word(12), 1),
            ("data block size", word(64), BLOCK_BYTES),
            ("hash block size", word(68), BLOCK_BYTES),
            ("number of data blocks", u64::from_le_bytes(field(block, 72)), u64::from(erofs.blocks)),
            ("salt size", salt_bytes, salt_bytes.min(SALT_BYTES_MAX as u64)),
        ] {
            if found != expected {
                return Err(Error::VerityField { field: name, found, expected });
            }
        }
        let needed = erofs.verity_offset() + BLOCK_BYTES + tree_blocks(erofs.blocks.into()) * BLOCK_BYTES;
        if device_bytes < needed {
            return Err(Error::Truncated { found: device_bytes, needed });
        }
        let salt: [u8; SALT_BYTES_MAX] = field(block, 88);
        let salt = salt.get(..salt_bytes as usize).unwrap_or_default().to_vec();
        Ok(Self { blocks: erofs.blocks, salt })
    }
}

/// Blocks of a hash tree over `data_blocks` blocks: each level until one block is left.
fn tree_blocks(data_blocks: u64) -> u64 {
    let (mut level, mut sum) = (data_blocks, 0);
    while level > 1 {
        level = level.div_ceil(DIGESTS_PER_BLOCK);
        sum += level;
    }
    sum
}

/// `N` bytes at a place that is always within the block.
fn field<const N: usize>(block: &[u8; BLOCK_BYTES as usize], at: usize) -> [u8; N] {
    block.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn erofs(change: impl FnOnce(&mut [u8])) -> Result<Erofs, Error> {
        let mut block = [0; 4096];
        block[1024..1028].copy_from_slice(&EROFS_MAGIC.to_le_bytes());
        block[1036] = 12;
        block[1060..1064].copy_from_slice(&33_815_u32.to_le_bytes());
        change(&mut block);
        Erofs::parse(&block)
    }

    fn verity(device_bytes: u64, change: impl FnOnce(&mut [u8])) -> Result<Verity, Error> {
        let mut block = [0; 4096];
        block[..8].copy_from_slice(VERITY_MAGIC);
        block[8] = 1;
        block[12] = 1;
        block[32..38].copy_from_slice(b"sha256");
        block[64..68].copy_from_slice(&4096_u32.to_le_bytes());
        block[68..72].copy_from_slice(&4096_u32.to_le_bytes());
        block[72..80].copy_from_slice(&33_815_u64.to_le_bytes());
        block[80] = 2;
        block[88..90].copy_from_slice(&[0xA9, 0xCA]);
        change(&mut block);
        Verity::parse(&block, Erofs { blocks: 33_815 }, device_bytes)
    }

    /// Image, superblock, and a tree of 265 + 3 + 1 blocks.
    const WHOLE: u64 = (33_815 + 1 + 265 + 3 + 1) * 4096;

    #[test]
    fn both_superblocks_parse_with_the_size_that_veritysetup_made() {
        assert_eq!(erofs(|_| {}), Ok(Erofs { blocks: 33_815 }));
        assert_eq!(verity(WHOLE, |_| {}), Ok(Verity { blocks: 33_815, salt: vec![0xA9, 0xCA] }));
        // The file that veritysetup wrote for such an image has exactly this size.
        assert_eq!(WHOLE, 139_612_160);
    }

    #[test]
    fn every_check_refuses() {
        assert!(matches!(erofs(|b| b[1024] = 0), Err(Error::NotErofs { .. })));
        assert_eq!(erofs(|b| b[1036] = 9), Err(Error::ErofsBlockSize { bits: 9 }));
        assert!(matches!(erofs(|b| b[1104] = 0x80), Err(Error::ErofsFeatures { .. })));
        assert!(matches!(erofs(|b| b[1060..1064].fill(0)), Err(Error::ErofsEmpty { .. })));
        assert!(matches!(verity(WHOLE - 1, |_| {}), Err(Error::Truncated { .. })));
        assert_eq!(verity(WHOLE, |b| b[0] = 0), Err(Error::NotVerity));
        assert_eq!(verity(WHOLE, |b| b[35] = b'5'), Err(Error::VerityAlgorithm));
        for at in [8, 12, 65, 69, 72, 81] {
            assert!(matches!(verity(WHOLE, |b| b[at] ^= 2), Err(Error::VerityField { .. })), "byte {at}");
        }
    }
}
