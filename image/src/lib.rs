//! Assembles the image and computes its reference values.
//!
//! Runs on the host. [`build::image`] is the way through: sources by their locks → kernel, TPM library, program → initrd → UKI →
//! boot disk → the PCR values that booting it must yield. Everything expensive is cached under the digest of its inputs, and every
//! file is the same from any clock, path and umask. Deliberately absent: anything of a site; the image is the same for everyone.

#![forbid(unsafe_code)]

// What is needed before anything can be made.
pub mod cache;
pub mod checkout;
pub mod packages;
pub mod progress;
pub mod workshop;

// Where sources come from.
pub mod apt;
pub mod clients;
pub mod lock;
pub mod upstream;

// What the image consists of; `build` says in which order it is made.
pub mod appliance;
pub mod build;
pub mod disk;
pub mod flavour;
pub mod initrd;
pub mod kernel;
pub mod tools;
pub mod tss;
pub mod uki;

// What steps run on.
pub mod toolchain;

// Whose images firmware starts: keys, signatures, enrolment.
pub mod secure_boot;

// What it consists of, and where another one differs.
pub mod check;
pub mod cpio;
pub mod inputs;
pub mod inventory;
pub mod provenance;

// What booting it must yield.
pub mod pe;
pub mod reference;
pub mod stub;

// How files are handled, programs are run and work is spread.
pub mod across;
pub mod command;
pub mod files;
