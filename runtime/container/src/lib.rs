//! The only crate that knows containers: embedded runc driver, images, cgroups.
