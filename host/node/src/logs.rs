//! Container logs in CRI's format: `<time> <stdout|stderr> <F|P> <text>`.
//!
//! Reading is by line and never holds more than one line and one block in memory.

use jiff::Timestamp;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

pub(crate) mod follow;

/// One line of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    /// RFC 3339, as written.
    pub(crate) time: &'a str,
    pub(crate) stderr: bool,
    /// The text goes on in the next line of the same stream.
    pub(crate) partial: bool,
    pub(crate) text: &'a [u8],
}

/// Parses one line, without its newline.
pub(crate) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let tags = parts.next()?;
    let partial = tags.split(|b| *b == b':').any(|t| t == b"P");
    Some(Line { time, stderr, partial, text: parts.next().unwrap_or_default() })
}

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LogOptions {
    pub(crate) follow: bool,
    pub(crate) timestamps: bool,
    pub(crate) since: Option<Timestamp>,
    pub(crate) tail_lines: Option<u64>,
    pub(crate) limit_bytes: Option<u64>,
    /// `Stdout` or `Stderr` only.
    pub(crate) stream: Option<bool>,
}

/// Turns log lines into what a client sees.
#[derive(Debug)]
pub(crate) struct Render {
    timestamps: bool,
    since: Option<Timestamp>,
    stderr_only: Option<bool>,
    left: Option<u64>,
    /// The last line of each stream was partial: no time is written before its rest.
    open: [bool; 2],
}

impl Render {
    pub(crate) fn new(options: &LogOptions) -> Self {
        Self {
            timestamps: options.timestamps,
            since: options.since,
            stderr_only: options.stream,
            left: options.limit_bytes,
            open: [false; 2],
        }
    }

    /// Appends one line to `out`. Returns `false` where the byte limit is reached.
    pub(crate) fn line(&mut self, raw: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(line) = parse(raw) else { return true };
        if self.stderr_only.is_some_and(|stderr| stderr != line.stderr) {
            return true;
        }
        if let Some(since) = self.since {
            match line.time.parse::<Timestamp>() {
                Ok(at) if at < since => return true,
                _ => {}
            }
        }
        let before = out.len();
        let open = &mut self.open[usize::from(line.stderr)];
        if self.timestamps && !*open {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        *open = line.partial;
        if let Some(left) = &mut self.left {
            let wrote = (out.len() - before) as u64;
            if wrote >= *left {
                out.truncate(before + usize::try_from(*left).unwrap_or(usize::MAX).min(out.len() - before));
                *left = 0;
                return false;
            }
            *left -= wrote;
        }
        true
    }
}

/// Offset at which the last `lines` whole lines of a file begin. Partial lines count with the
/// full line that ends them.
pub(crate) fn tail_offset(file: &mut File, lines: u64) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    // Walk the line starts backwards; a line that follows a partial one belongs to it.
    let mut starts = LineStarts { file, block_at: end, block: Vec::new() };
    let mut found = 0;
    let mut upper = end;
    let mut offset = end;
    while let Some(start) = starts.before(upper)? {
        if starts.is_full(start, upper)? {
            if found == lines {
                return Ok(offset);
            }
            found += 1;
        }
        offset = start;
        upper = start;
    }
    Ok(offset)
}

struct LineStarts<'a> {
    file: &'a mut File,
    block_at: u64,
    block: Vec<u8>,
}

impl LineStarts<'_> {
    const BLOCK: u64 = 16 * 1024;

    fn byte(&mut self, at: u64) -> io::Result<u8> {
        let within = at >= self.block_at && at - self.block_at < self.block.len() as u64;
        if !within {
            let from = (at + 1).saturating_sub(Self::BLOCK);
            self.file.seek(SeekFrom::Start(from))?;
            let mut block = vec![0; usize::try_from(at + 1 - from).unwrap_or(0)];
            self.file.read_exact(&mut block)?;
            self.block = block;
            self.block_at = from;
        }
        let index = usize::try_from(at - self.block_at).unwrap_or(0);
        self.block.get(index).copied().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Start of the line that ends at `upper`.
    fn before(&mut self, upper: u64) -> io::Result<Option<u64>> {
        if upper == 0 {
            return Ok(None);
        }
        // The byte before `upper` is this line's newline (or its last byte, at the end of a file).
        let mut at = upper - 1;
        while at > 0 && self.byte(at - 1)? != b'\n' {
            at -= 1;
        }
        Ok(Some(at))
    }

    fn is_full(&mut self, start: u64, upper: u64) -> io::Result<bool> {
        // The tag is the third field; times and stream names are short.
        let mut blanks = 0;
        for at in start..upper.min(start + 64) {
            if self.byte(at)? == b' ' {
                blanks += 1;
                if blanks == 2 {
                    return Ok(at + 1 < upper && self.byte(at + 1)? != b'P');
                }
            }
        }
        Ok(true)
    }
}

/// The last `limit` bytes of a file, as text.
pub(crate) fn tail_of_file(path: &Path, limit: usize) -> io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(limit as u64)))?;
    let mut bytes = Vec::new();
    file.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a log, as `terminationMessagePolicy: FallbackToLogsOnError` wants them.
pub(crate) fn tail_of_log(path: &Path, lines: u64, limit: usize) -> io::Result<String> {
    let mut file = File::open(path)?;
    let from = tail_offset(&mut file, lines)?;
    file.seek(SeekFrom::Start(from))?;
    let mut raw = Vec::new();
    file.take(1 << 20).read_to_end(&mut raw)?;
    let mut render = Render::new(&LogOptions::default());
    let mut out = Vec::new();
    for line in raw.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        render.line(line, &mut out);
    }
    let cut = out.len().saturating_sub(limit);
    Ok(String::from_utf8_lossy(out.get(cut..).unwrap_or_default()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    const LOG: &str = "2026-01-01T00:00:01.000000001Z stdout F one\n\
        2026-01-01T00:00:02Z stderr P tw\n\
        2026-01-01T00:00:02.5Z stderr F o\n\
        2026-01-01T00:00:03Z stdout F \n\
        2026-01-01T00:00:04Z stdout F four  words\n";

    fn render(options: &LogOptions) -> String {
        let mut out = Vec::new();
        let mut render = Render::new(options);
        for line in LOG.lines() {
            if !render.line(line.as_bytes(), &mut out) {
                break;
            }
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines() {
        let line = parse(b"2026-01-01T00:00:01Z stderr P:x a b").unwrap();
        assert_eq!((line.stderr, line.partial, line.text), (true, true, b"a b".as_ref()));
        assert!(parse(b"").is_none());
        assert!(parse(b"2026-01-01T00:00:01Z stdin F x").is_none());
        assert_eq!(render(&LogOptions::default()), "one\ntwo\n\nfour  words\n");
        let timed = render(&LogOptions { timestamps: true, ..LogOptions::default() });
        assert!(
            timed.starts_with("2026-01-01T00:00:01.000000001Z one\n2026-01-01T00:00:02Z two\n"),
            "{timed}"
        );
        let since = Some("2026-01-01T00:00:03Z".parse().unwrap());
        assert_eq!(render(&LogOptions { since, ..LogOptions::default() }), "\nfour  words\n");
        let stream = Some(true);
        assert_eq!(render(&LogOptions { stream, ..LogOptions::default() }), "two\n");
        let limit_bytes = Some(6);
        assert_eq!(render(&LogOptions { limit_bytes, ..LogOptions::default() }), "one\ntw");
    }

    #[test]
    fn tails() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, LOG).unwrap();
        let tail = |n| {
            let mut file = File::open(&path).unwrap();
            let at = usize::try_from(tail_offset(&mut file, n).unwrap()).unwrap();
            LOG[at..].lines().count()
        };
        assert_eq!((tail(0), tail(1), tail(2), tail(3), tail(4), tail(9)), (0, 1, 2, 4, 5, 5));
        assert_eq!(tail_of_log(&path, 2, 100).unwrap(), "\nfour  words\n");
        assert_eq!(tail_of_log(&path, 80, 6).unwrap(), "words\n");
    }

    proptest! {
        #[test]
        fn tail_is_the_last_lines(texts in proptest::collection::vec("[a-z ]{0,40}", 0..60), n in 0_u64..70) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let mut file = File::create(&path).unwrap();
            for text in &texts {
                writeln!(file, "2026-01-01T00:00:01Z stdout F {text}").unwrap();
            }
            drop(file);
            let mut file = File::open(&path).unwrap();
            let at = tail_offset(&mut file, n).unwrap();
            let all = std::fs::read(&path).unwrap();
            let got: Vec<&[u8]> = all[usize::try_from(at).unwrap()..].split(|b| *b == b'\n').filter(|l| !l.is_empty()).collect();
            let want = texts.len().min(usize::try_from(n).unwrap());
            prop_assert_eq!(got.len(), want);
        }

        #[test]
        fn any_bytes_parse_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
        }
    }
}
