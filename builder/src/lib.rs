//! Carries one job from signed spec to evidence.

#![forbid(unsafe_code)]

pub mod custody;
