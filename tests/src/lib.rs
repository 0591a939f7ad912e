//! The whole machine, from outside: what the tests share.
#![forbid(unsafe_code)]
