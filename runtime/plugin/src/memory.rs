//! Gives memory back after start-up.

use std::fs;

/// Lets go of the pages of program code and constants. What was needed for start-up only stays away, the rest comes
/// back when it is run, which costs a moment: call it when start-up is over, not under load.
#[expect(unsafe_code, reason = "a function of the C library")]
pub fn release_memory() {
    // Without procfs nothing is released; nothing depends on it.
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else { return };
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some("r-xp" | "r--p")) = (fields.next(), fields.next()) else { continue };
        let is_file = fields.nth(3).is_some_and(|path| path.starts_with('/'));
        let bounds = range.split_once('-').and_then(|(from, to)| {
            Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
        });
        let Some((from, to)) = bounds.filter(|_| is_file) else { continue };
        // SAFETY: paging out changes no contents, whatever is mapped there by now; a range without mapping is refused.
        let _ =
            unsafe { libc::madvise(from as *mut libc::c_void, to.saturating_sub(from), libc::MADV_PAGEOUT) };
    }
}
