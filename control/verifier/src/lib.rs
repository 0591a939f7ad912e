//! Decides whether evidence answers a challenge; pure.
