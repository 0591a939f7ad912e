//! Confines one build step and reports what the kernel really enforced.
