//! The replicated store: openraft over fjall.
