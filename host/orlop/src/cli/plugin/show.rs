//! Tables and numbers for a terminal.

use anyhow::Result;
use std::io::Write;

/// Prints rows below their heads.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Result<()> {
    let mut widths = head.map(|h| h.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = std::io::stdout().lock();
    let head = head.map(str::to_owned);
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("   ").trim_end())?;
    }
    Ok(())
}

/// Time since an RFC 3339 time, as `kubectl` words it.
pub(super) fn age(since: &str) -> String {
    let Ok(since) = since.parse::<jiff::Timestamp>() else { return "<unknown>".to_owned() };
    let seconds = jiff::Timestamp::now().as_second() - since.as_second();
    match seconds.max(0) {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7200 => format!("{}m", s / 60),
        s @ 7200..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// A number of bytes.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        b @ 0..10_240 => format!("{b} B"),
        b @ 10_240..10_485_760 => format!("{} KiB", b >> 10),
        b => format!("{} MiB", b >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_are_rounded_down() {
        assert_eq!(bytes(9_999), "9999 B");
        assert_eq!(bytes(65_536), "64 KiB");
        assert_eq!(bytes(64 << 20), "64 MiB");
        let ago = |s: i64| age(&(jiff::Timestamp::now() - jiff::SignedDuration::from_secs(s)).to_string());
        assert_eq!(ago(60 * 5 + 1), "5m");
        assert_eq!(ago(3 * 86_400 + 5), "3d");
        assert_eq!(age("no time"), "<unknown>");
    }
}
