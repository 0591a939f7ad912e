//! One disposable machine with its own TPM, owned until dropped.
