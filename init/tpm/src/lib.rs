//! Typed TPM 2.0 commands on one device.
