//! Service-account tokens: signed JWTs bound to their account and, mostly, to a pod.
//!
//! Source of the claims: `pkg/serviceaccount/claims.go`.

use crate::user::UserInfo;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Why a token cannot be issued or a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The signing key is no P-256 key in PEM. The operator must act.
    #[error("the service-account key cannot be read")]
    Key(#[source] jsonwebtoken::errors::Error),
    /// Signing failed.
    #[error("the token cannot be signed")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// A named object with its uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Name.
    pub name: String,
    /// Uid; empty where the token is older than the field.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesClaim {
    /// Namespace of the account.
    pub namespace: String,
    /// The account.
    pub serviceaccount: Reference,
    /// The pod without which the token is void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The secret without which the token is void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The node of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// Seconds since 1970 after which the holder should have a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// All claims.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// Who may accept it.
    #[serde(deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// Seconds since 1970.
    pub exp: i64,
    /// Seconds since 1970.
    pub iat: i64,
    /// Issuer.
    pub iss: String,
    /// Unique id.
    #[serde(default)]
    pub jti: String,
    /// The bound objects.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: KubernetesClaim,
    /// Seconds since 1970.
    pub nbf: i64,
    /// `system:serviceaccount:<namespace>:<name>`
    pub sub: String,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Aud {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Aud::deserialize(deserializer)? {
        Aud::One(one) => vec![one],
        Aud::Many(many) => many,
    })
}

/// Signs and checks tokens with one key.
pub struct TokenIssuer {
    issuer: String,
    audiences: Vec<String>,
    key_id: String,
    signing: EncodingKey,
    verifying: DecodingKey,
    point: (String, String),
}

impl std::fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenIssuer").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl TokenIssuer {
    /// `key_pem` is a P-256 private key (PKCS#8), `public_raw` its uncompressed public point.
    ///
    /// # Errors
    /// [`TokenError::Key`]
    pub fn new(
        issuer: &str,
        audiences: &[String],
        key_pem: &str,
        public_raw: &[u8],
    ) -> Result<Self, TokenError> {
        let point = public_raw.strip_prefix(&[4]).filter(|p| p.len() == 64).unwrap_or_default();
        let (x, y) = point.split_at(point.len() / 2);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        Ok(Self {
            issuer: issuer.to_owned(),
            audiences: audiences.to_vec(),
            key_id: URL_SAFE_NO_PAD.encode(Sha256::digest(public_raw)),
            signing: EncodingKey::from_ec_pem(key_pem.as_bytes()).map_err(TokenError::Key)?,
            verifying: DecodingKey::from_ec_components(&x, &y).map_err(TokenError::Key)?,
            point: (x, y),
        })
    }

    /// `iss`
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Audiences of a token that names none.
    #[must_use]
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// A signed token. `now` and `lifetime` are in seconds; empty `audiences` take the default.
    ///
    /// # Errors
    /// [`TokenError::Sign`]
    pub fn issue(
        &self,
        bound: KubernetesClaim,
        audiences: &[String],
        now: i64,
        lifetime: i64,
    ) -> Result<String, TokenError> {
        let claims = Claims {
            aud: if audiences.is_empty() { self.audiences.clone() } else { audiences.to_vec() },
            exp: now + lifetime,
            iat: now,
            iss: self.issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name),
            nbf: now,
            kubernetes: bound,
        };
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, &claims, &self.signing).map_err(TokenError::Sign)
    }

    /// The claims of a token of ours that is neither expired nor for others; `None` for all else.
    /// Whether its bound objects still exist is for the caller to see.
    #[must_use]
    pub fn verify(&self, token: &str, audiences: &[String]) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(if audiences.is_empty() { &self.audiences } else { audiences });
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = 10;
        jsonwebtoken::decode::<Claims>(token, &self.verifying, &validation).ok().map(|d| d.claims)
    }

    /// `/openid/v1/jwks`
    #[must_use]
    pub fn jwks(&self) -> Value {
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": self.point.0, "y": self.point.1,
        }]})
    }

    /// `/.well-known/openid-configuration`
    #[must_use]
    pub fn openid_configuration(&self, jwks_uri: &str) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

impl Claims {
    /// The user whom the token stands for.
    #[must_use]
    pub fn user(&self) -> UserInfo {
        let bound = &self.kubernetes;
        let mut user = UserInfo::service_account(
            &bound.namespace,
            &bound.serviceaccount.name,
            &bound.serviceaccount.uid,
        );
        let mut extra = BTreeMap::new();
        let mut add = |key: &str, value: &str| {
            if !value.is_empty() {
                extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
            }
        };
        if let Some(pod) = &bound.pod {
            add("pod-name", &pod.name);
            add("pod-uid", &pod.uid);
        }
        if let Some(node) = &bound.node {
            add("node-name", &node.name);
            add("node-uid", &node.uid);
        }
        if !self.jti.is_empty() {
            add("credential-id", &format!("JTI={}", self.jti));
        }
        user.extra = extra;
        user
    }
}
