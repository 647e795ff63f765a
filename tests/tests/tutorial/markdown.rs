//! Blocks of Markdown, and promises.

/// A fenced block: its language and its lines.
pub(crate) struct Block {
    pub(crate) language: String,
    pub(crate) lines: Vec<String>,
}

impl Block {
    /// Whether its lines follow one another in a text, however they are indented.
    pub(crate) fn is_in(&self, text: &str) -> bool {
        let wanted: Vec<&str> = self.lines.iter().map(|line| line.trim()).collect();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        !wanted.is_empty() && lines.windows(wanted.len()).any(|window| window == wanted)
    }
}

pub(crate) fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in markdown.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                open = Some(Block { language: language.to_owned(), lines: Vec::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
    blocks
}

/// Whether a line is as promised; `…` stands for anything, and any white space for any other.
pub(crate) fn fits(promise: &str, line: &str) -> bool {
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (promise, line) = (squeeze(promise), squeeze(line));
    let parts: Vec<&str> = promise.split('…').map(str::trim).collect();
    let Some((first, others)) = parts.split_first() else { return false };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for (i, part) in others.iter().enumerate() {
        if i + 1 == others.len() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = rest.get(at + part.len()..).unwrap_or_default();
    }
    rest.is_empty()
}

/// The files that a page links to, outside of its blocks.
pub(crate) fn links(markdown: &str) -> Vec<String> {
    let prose = markdown.split("```").step_by(2);
    prose
        .flat_map(|text| text.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')').map(|(link, _)| link))
        .filter_map(|link| link.split('#').next())
        .filter(|link| !link.is_empty() && !link.contains("://"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn links_are_found() {
    let page = "[a](b/c.md#d) [e](https://f) [g](#h)\n```\n[i](j)\n```\n[k](../l)\n";
    assert_eq!(links(page), ["b/c.md", "../l"]);
}

#[test]
fn promises_are_compared() {
    assert!(fits("a   … c", "a b c"));
    assert!(fits("… ok", "test x ... ok"));
    assert!(fits("end…", "end of it"));
    assert!(!fits("a b", "a b c"));
    assert!(!fits("a … d", "a b c"));
    assert!(!fits("… failed", "2 passed"));
}

#[test]
fn quotes_are_found() {
    let quote = |text: &str| blocks(&format!("```rust\n{text}\n```\n")).remove(0);
    assert!(quote("b\n  c").is_in("a\n    b\n    c\nd"));
    assert!(!quote("a\nc").is_in("a\nb\nc"));
    assert!(!quote("a\nb").is_in("a"));
}
