//! The scheduler against an API in memory.
