//! Carries one job from signed spec to evidence.
