//! Service-account tokens for pods: requested for one pod, kept until 80 % of their life is over.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use orlop_apimachinery::Gvr;
use orlop_client::{ApiClient, ResourceRef, WriteOptions};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;

static SERVICE_ACCOUNTS: Gvr = Gvr::new("", "v1", "serviceaccounts");

/// Whose token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey {
    pub(crate) namespace: String,
    pub(crate) service_account: String,
    pub(crate) pod_name: String,
    pub(crate) pod_uid: String,
    /// Empty for the API server's own.
    pub(crate) audience: String,
    pub(crate) expiration_seconds: i64,
}

struct Cached {
    token: Arc<str>,
    refresh_at: Timestamp,
    expires_at: Timestamp,
}

/// See the module.
pub(crate) struct Tokens {
    client: Arc<dyn ApiClient>,
    cache: Mutex<HashMap<TokenKey, Cached>>,
}

#[derive(Deserialize)]
struct Answer {
    status: AnswerStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnswerStatus {
    token: String,
    expiration_timestamp: Timestamp,
}

impl Tokens {
    pub(crate) fn new(client: Arc<dyn ApiClient>) -> Self {
        Self { client, cache: Mutex::new(HashMap::new()) }
    }

    /// A token with at least a fifth of its life left where the API can be reached, else the
    /// one at hand while it is valid.
    pub(crate) async fn get(&self, key: &TokenKey) -> Result<Arc<str>, String> {
        let now = Timestamp::now();
        let at_hand = {
            let cache = self.cache.lock();
            match cache.get(key) {
                Some(c) if now < c.refresh_at => return Ok(c.token.clone()),
                Some(c) if now < c.expires_at => Some(c.token.clone()),
                _ => None,
            }
        };
        match (self.request(key, now).await, at_hand) {
            (Ok(token), _) => Ok(token),
            (Err(error), Some(token)) => {
                tracing::warn!(namespace = %key.namespace, name = %key.pod_name, %error, "could not renew a service account token");
                Ok(token)
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn request(&self, key: &TokenKey, now: Timestamp) -> Result<Arc<str>, String> {
        let mut spec = json!({
            "expirationSeconds": key.expiration_seconds,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": key.pod_name, "uid": key.pod_uid}
        });
        if !key.audience.is_empty() {
            spec["audiences"] = json!([key.audience]);
        }
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let at =
            ResourceRef::new(&SERVICE_ACCOUNTS, &key.namespace, &key.service_account).subresource("token");
        let object = self
            .client
            .create(at, Bytes::from(body.to_string()), &WriteOptions::default())
            .await
            .map_err(|e| format!("failed to fetch token: {e}"))?;
        let answer: Answer = object.parse().map_err(|e| format!("failed to fetch token: {e}"))?;
        let expires_at = answer.status.expiration_timestamp;
        let life = expires_at.duration_since(now);
        // At 80 % of its life, after a day at the latest; jittered so that a node full of pods
        // does not ask all at once.
        let wait = (life * 4 / 5).min(SignedDuration::from_hours(24)).as_secs();
        let wait = wait - rand::random_range(0..=10.min(wait.max(0)));
        let refresh_at = now.saturating_add(SignedDuration::from_secs(wait)).unwrap_or(now);
        let token: Arc<str> = answer.status.token.into();
        let cached = Cached { token: token.clone(), refresh_at, expires_at };
        self.cache.lock().insert(key.clone(), cached);
        Ok(token)
    }

    /// Drops the tokens of a pod that is gone.
    pub(crate) fn release(&self, uid: &str) {
        self.cache.lock().retain(|key, _| key.pod_uid != uid);
    }
}
