//! What an instance may use.

use std::fmt;
use wasmtime::ResourceLimiter;

/// Limits of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sum of all linear memories, in bytes.
    pub memory_bytes: usize,
    /// Sum of all tables, in elements.
    pub table_elements: usize,
    /// What one call may return or pass to the host, in bytes.
    pub output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory_bytes: 64 << 20, table_elements: 100_000, output_bytes: 16 << 20 }
    }
}

/// The error that a growth beyond the limit ends in.
#[derive(Debug)]
pub(crate) struct LimitExceeded {
    pub(crate) what: &'static str,
    pub(crate) limit: usize,
}

impl fmt::Display for LimitExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the limit of {} {} is exceeded", self.limit, self.what)
    }
}

impl std::error::Error for LimitExceeded {}

/// Counts over all memories and tables of one store.
pub(crate) struct Limiter {
    limits: Limits,
    memory: usize,
    elements: usize,
}

impl Limiter {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self { limits, memory: 0, elements: 0 }
    }

    /// Bytes of linear memory in use.
    pub(crate) const fn memory(&self) -> usize {
        self.memory
    }
}

fn grow(
    used: &mut usize,
    current: usize,
    desired: usize,
    limit: usize,
    what: &'static str,
) -> wasmtime::Result<bool> {
    let total = used.saturating_add(desired.saturating_sub(current));
    if total > limit {
        return Err(wasmtime::Error::new(LimitExceeded { what, limit }));
    }
    *used = total;
    Ok(true)
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _max: Option<usize>,
    ) -> wasmtime::Result<bool> {
        grow(&mut self.memory, current, desired, self.limits.memory_bytes, "bytes of memory")
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _max: Option<usize>,
    ) -> wasmtime::Result<bool> {
        grow(&mut self.elements, current, desired, self.limits.table_elements, "table elements")
    }

    fn instances(&self) -> usize {
        64
    }

    fn tables(&self) -> usize {
        64
    }

    fn memories(&self) -> usize {
        16
    }
}
