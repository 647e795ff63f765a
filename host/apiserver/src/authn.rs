//! Who is asking: client certificate, bearer token, nobody.

use crate::cache::WatchCache;
use crate::registry::find;
use crate::token::{Claims, TokenIssuer};
use crate::user::UserInfo;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why the token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("the token file {} cannot be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line is not `token,user,uid,"groups"`.
    #[error("line {line} of the token file is not token,user,uid and optionally \"group1,group2\"")]
    Line {
        /// From 1.
        line: usize,
    },
}

/// Static tokens, by the digest of the token.
#[derive(Debug, Default)]
pub(crate) struct StaticTokens(HashMap<[u8; 32], Arc<UserInfo>>);

impl StaticTokens {
    pub(crate) fn read(path: &Path) -> Result<Self, TokenFileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TokenFileError::Read { path: path.to_owned(), source })?;
        let mut out = HashMap::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut fields = line.splitn(4, ',').map(|f| f.trim().trim_matches('"'));
            let (Some(token), Some(name), Some(uid)) = (fields.next(), fields.next(), fields.next()) else {
                return Err(TokenFileError::Line { line: at + 1 });
            };
            if token.is_empty() || name.is_empty() {
                return Err(TokenFileError::Line { line: at + 1 });
            }
            let groups =
                fields.next().unwrap_or_default().split(',').map(str::trim).filter(|g| !g.is_empty());
            let mut user = UserInfo::new(name, groups);
            user.uid = uid.to_owned();
            out.insert(Sha256::digest(token).into(), Arc::new(user));
        }
        Ok(Self(out))
    }
}

/// Tells users from their credentials.
pub(crate) struct Authenticator {
    tokens: Arc<TokenIssuer>,
    statics: StaticTokens,
    cache: Arc<WatchCache>,
    anonymous: Arc<UserInfo>,
}

impl Authenticator {
    pub(crate) fn new(tokens: Arc<TokenIssuer>, statics: StaticTokens, cache: Arc<WatchCache>) -> Self {
        Self { tokens, statics, cache, anonymous: Arc::new(UserInfo::anonymous()) }
    }

    /// The user of a request. `certificate` was verified by the TLS layer. `None`: a credential
    /// was shown that is not valid (401).
    pub(crate) fn authenticate(
        &self,
        certificate: Option<&Arc<UserInfo>>,
        headers: &http::HeaderMap,
    ) -> Option<Arc<UserInfo>> {
        if let Some(user) = certificate {
            return Some(user.clone());
        }
        match bearer(headers) {
            Some(token) => self.token(&token, &[]),
            None => Some(self.anonymous.clone()),
        }
    }

    /// The user of a token that is valid for `audiences` (empty: for this server).
    pub(crate) fn token(&self, token: &str, audiences: &[String]) -> Option<Arc<UserInfo>> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(user) = self.statics.0.get(&digest) {
            return Some(user.clone());
        }
        let claims = self.tokens.verify(token, audiences)?;
        self.still_bound(&claims).then(|| Arc::new(claims.user()))
    }

    /// Whether account, pod and secret of a token are still those that it was issued for.
    fn still_bound(&self, claims: &Claims) -> bool {
        let bound = &claims.kubernetes;
        let namespace = &bound.namespace;
        let holds = |resource: &str, reference: &crate::token::Reference| {
            let Some(shelf) = find("", "v1", resource).and_then(|row| self.cache.shelf(row)) else {
                return false;
            };
            shelf
                .get(&format!("{namespace}/{}", reference.name))
                .is_some_and(|e| reference.uid.is_empty() || e.object().uid() == reference.uid)
        };
        holds("serviceaccounts", &bound.serviceaccount)
            && bound.pod.as_ref().is_none_or(|p| holds("pods", p))
            && bound.secret.as_ref().is_none_or(|s| holds("secrets", s))
    }
}

/// The token in `Authorization` or, for browsers' WebSockets, in the subprotocols.
fn bearer(headers: &http::HeaderMap) -> Option<String> {
    use base64::Engine;
    if let Some(value) = headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok())
        && let Some((scheme, token)) = value.split_once(' ')
        && scheme.eq_ignore_ascii_case("bearer")
    {
        return Some(token.trim().to_owned());
    }
    let protocols =
        headers.get_all(http::header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let encoded = protocols
        .flat_map(|v| v.split(','))
        .find_map(|p| p.trim().strip_prefix("base64url.bearer.authorization.k8s.io."))?;
    let bytes =
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).ok()?;
    String::from_utf8(bytes).ok()
}

/// The user of a verified client certificate: CN is the name, each O a group.
pub(crate) fn certificate_user(certificate: &CertificateDer<'_>) -> Option<Arc<UserInfo>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups: Vec<String> =
        parsed.subject().iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect();
    (!name.is_empty()).then(|| Arc::new(UserInfo::new(name, groups)))
}
