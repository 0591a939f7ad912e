//! Every byte that crosses the boundary between a machine and the world: encode, strict bounded decode, pure folds.
