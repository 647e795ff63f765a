//! The manager against an API in memory.
