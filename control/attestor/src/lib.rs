//! Challenges machines, certifies them, hands out jobs, takes in evidence.
