//! The CRI log format: `2026-11-21T01:32:21.000000000Z stdout F text`.
//!
//! A line longer than [`MAX_LINE`] is cut into `P` (partial) entries ended by an `F` (full) one. What is
//! left without a newline at the end of the stream is a `P` entry too, so that readers add no newline.

/// Bytes of text in one entry at most, as with containerd.
pub const MAX_LINE: usize = 16 * 1024;

/// Cuts one stream into entries.
#[derive(Debug, Default)]
pub struct LineCutter {
    rest: Vec<u8>,
}

impl LineCutter {
    /// Appends to `out` the entries that `chunk` completes. `at`: Unix nanoseconds.
    pub fn push(&mut self, chunk: &[u8], at: i64, stream: &str, out: &mut Vec<u8>) {
        let mut chunk = chunk;
        while !chunk.is_empty() {
            let room = MAX_LINE - self.rest.len();
            let newline = chunk.iter().take(room + 1).position(|b| *b == b'\n');
            match newline {
                Some(end) => {
                    entry(at, stream, b'F', &self.rest, &chunk[..end], out);
                    self.rest.clear();
                    chunk = &chunk[end + 1..];
                }
                None if chunk.len() > room => {
                    entry(at, stream, b'P', &self.rest, &chunk[..room], out);
                    self.rest.clear();
                    chunk = &chunk[room..];
                }
                None => {
                    self.rest.extend_from_slice(chunk);
                    return;
                }
            }
        }
        if self.rest.is_empty() && self.rest.capacity() > 1024 {
            self.rest = Vec::new();
        }
    }

    /// Appends what is left at the end of the stream.
    pub fn finish(&mut self, at: i64, stream: &str, out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            entry(at, stream, b'P', &self.rest, b"", out);
            self.rest = Vec::new();
        }
    }
}

fn entry(at: i64, stream: &str, tag: u8, head: &[u8], tail: &[u8], out: &mut Vec<u8>) {
    timestamp(at, out);
    out.push(b' ');
    out.extend_from_slice(stream.as_bytes());
    out.extend_from_slice(&[b' ', tag, b' ']);
    out.extend_from_slice(head);
    out.extend_from_slice(tail);
    out.push(b'\n');
}

/// RFC 3339 in UTC with nine digits of the second.
pub fn timestamp(at: i64, out: &mut Vec<u8>) {
    let (secs, nanos) = (at.div_euclid(1_000_000_000), at.rem_euclid(1_000_000_000));
    let (days, day_secs) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let parts: [(i64, usize, u8); 7] = [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (day_secs / 3600, 2, b':'),
        (day_secs / 60 % 60, 2, b':'),
        (day_secs % 60, 2, b'.'),
        (nanos, 9, b'Z'),
    ];
    for (value, width, end) in parts {
        let mut digits = [b'0'; 9];
        let mut rest = value;
        for slot in digits[..width].iter_mut().rev() {
            *slot = b'0' + u8::try_from(rest.rem_euclid(10)).unwrap_or(0);
            rest /= 10;
        }
        out.extend_from_slice(&digits[..width]);
        out.push(end);
    }
}

/// Year, month and day of a day counted from 1970-01-01 (proleptic Gregorian calendar).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(cutter: &mut LineCutter, chunk: &[u8]) -> String {
        let mut out = Vec::new();
        cutter.push(chunk, 0, "stdout", &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn cuts_lines_across_chunks() {
        let mut cutter = LineCutter::default();
        let at = "1970-01-01T00:00:00.000000000Z stdout";
        assert_eq!(text(&mut cutter, b"a\nb"), format!("{at} F a\n"));
        assert_eq!(text(&mut cutter, b"c\n\n"), format!("{at} F bc\n{at} F \n"));
        assert_eq!(text(&mut cutter, b"tail"), "");
        let mut out = Vec::new();
        cutter.finish(0, "stdout", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{at} P tail\n"));
    }

    #[test]
    fn long_lines_are_partial() {
        let mut cutter = LineCutter::default();
        let mut long = vec![b'x'; MAX_LINE * 2];
        long.push(b'\n');
        let out = text(&mut cutter, &long);
        let tags: Vec<&str> = out.lines().map(|l| l.split(' ').nth(2).unwrap()).collect();
        assert_eq!(tags, ["P", "F"], "an exact multiple ends in a full entry");
        let joined: usize = out.lines().map(|l| l.splitn(4, ' ').nth(3).unwrap().len()).sum();
        assert_eq!(joined, MAX_LINE * 2);
    }

    #[test]
    fn timestamps() {
        let mut out = Vec::new();
        timestamp(1_795_224_741_123_456_789, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "2026-11-21T01:32:21.123456789Z");
        let mut out = Vec::new();
        timestamp(951_782_400_000_000_000, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "2000-02-29T00:00:00.000000000Z");
    }
}
