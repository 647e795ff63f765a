//! The table against its own laws.
