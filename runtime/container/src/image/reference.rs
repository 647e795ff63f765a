//! Image names, normalised as Docker does: `busybox` is `docker.io/library/busybox:latest`.
//!
//! Grammar: `github.com/distribution/reference`.

use std::fmt;

use crate::error::RuntimeError;

/// A parsed and normalised image name: registry and repository, and a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageName {
    /// Registry host, perhaps with a port; `docker.io` when none was written.
    pub domain: String,
    /// Repository path in the registry.
    pub path: String,
    /// Tag; `latest` when neither tag nor digest was written.
    pub tag: Option<String>,
    /// `sha256:…`.
    pub digest: Option<String>,
}

impl ImageName {
    /// Parses what a user wrote.
    ///
    /// # Errors
    /// `InvalidImageName`, worded as the kubelet words it.
    pub fn parse(text: &str) -> Result<Self, RuntimeError> {
        let fail = |message: &str| RuntimeError::InvalidImageName {
            image: text.to_owned(),
            message: message.to_owned(),
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err(fail("invalid reference format")),
            None => (text, None),
        };
        if is_hex64(rest) {
            return Err(fail(&format!(
                "invalid repository name ({rest}), cannot specify 64-byte hexadecimal strings"
            )));
        }
        let (domain, rest) = match rest.split_once('/') {
            Some((head, tail))
                if head.contains(['.', ':'])
                    || head == "localhost"
                    || head.chars().any(char::is_uppercase) =>
            {
                (head, tail)
            }
            _ => ("docker.io", rest),
        };
        let domain = if domain == "index.docker.io" { "docker.io" } else { domain };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if path.chars().any(char::is_uppercase) {
            return Err(fail("invalid reference format: repository name must be lowercase"));
        }
        let path = if domain == "docker.io" && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if !is_domain(domain) || !path.split('/').all(is_component) || path.len() + domain.len() > 255 {
            return Err(fail("invalid reference format"));
        }
        if !tag.is_none_or(is_tag) {
            return Err(fail("invalid reference format"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some("latest".to_owned()),
            (None, Some(_)) => None,
        };
        Ok(Self { domain: domain.to_owned(), path, tag, digest })
    }

    /// `domain/path`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// `domain/path:tag`, when it has a tag.
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}/{}:{tag}", self.domain, self.path))
    }

    /// `domain/path@digest` for that digest.
    pub fn with_digest(&self, digest: &str) -> String {
        format!("{}/{}@{digest}", self.domain, self.path)
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether it is `sha256:` and 64 lower-case hexadecimal digits.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(is_hex64)
}

fn is_hex64(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port_fits = port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(address) => !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        None => host.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        }),
    };
    port_fits && host_fits
}

/// Lower-case words joined by one `.`, one or two `_`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !bytes.first().is_some_and(word) || !bytes.last().is_some_and(word) {
        return false;
    }
    bytes.split(word).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

fn is_tag(text: &str) -> bool {
    let first = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(first)
        && text.bytes().all(|b| first(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_as_docker() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let cases = [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("user/app", "docker.io/user/app:latest".to_owned()),
            ("index.docker.io/user/app", "docker.io/user/app:latest".to_owned()),
            ("docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("localhost/app:v1", "localhost/app:v1".to_owned()),
            ("127.0.0.1:5000/a/b_c/d--e", "127.0.0.1:5000/a/b_c/d--e:latest".to_owned()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".to_owned()),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10".to_owned()),
            (&format!("busybox@{digest}"), format!("docker.io/library/busybox@{digest}")),
            (&format!("busybox:1@{digest}"), format!("docker.io/library/busybox:1@{digest}")),
        ];
        for (written, expected) in cases {
            assert_eq!(ImageName::parse(written).unwrap().to_string(), expected, "{written}");
        }
    }

    #[test]
    fn refuses_what_docker_refuses() {
        let hex = "a".repeat(64);
        for bad in [
            "",
            "UPPER",
            "a//b",
            "a/",
            "/a",
            "a:",
            "a b",
            "a:b:c",
            "a@sha256:12",
            "a..b",
            "a___b",
            "-a",
            &hex,
            "x.y/../z",
        ] {
            let error = ImageName::parse(bad).unwrap_err();
            assert!(error.to_string().starts_with("couldn't parse image name"), "{bad}: {error}");
        }
    }
}
