//! Tests of the real binary through clients that we did not write.
