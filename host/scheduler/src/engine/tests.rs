//! The engine with plugins written in a few lines.
