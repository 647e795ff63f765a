//! Gives memory back after compilation.

/// Returns what the C library's allocator keeps for later to the system. Compilation needs tens of
/// megabytes for a moment; an idle host should not go on holding them.
#[expect(unsafe_code, reason = "a function of the C library")]
pub fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` takes no pointer and may be called at any time from any thread.
    let _ = unsafe { libc::malloc_trim(0) };
}
