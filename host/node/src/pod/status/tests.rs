//! Status goldens.
