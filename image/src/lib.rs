//! Assembles the image and computes its reference values.
