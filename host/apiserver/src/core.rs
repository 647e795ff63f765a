//! The general machine without its transport: what HTTP and the loopback client call.

use crate::admission::{Admission, AdmissionRequest, Operation, Verdict};
use crate::alloc::ServiceAllocator;
use crate::authn::Authenticator;
use crate::authz::{Attributes, Authorizer, Decision, Rbac};
use crate::cache::{Entry, Shelf, WatchCache};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::plugin_streams::PluginStreams;
use crate::registry::{Context, Resource, Subresource, built_in};
use crate::status;
use crate::token::TokenIssuer;
use crate::user::UserInfo;
use arc_swap::ArcSwap;
use orlop_apimachinery::{Gvk, Object, Status};
use orlop_store::{Range, Store};
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Everything that a request needs.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cache: Arc<WatchCache>,
    pub(crate) admission: AdmissionDoor,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) rbac: Arc<Rbac>,
    pub(crate) authenticator: Authenticator,
    pub(crate) tokens: Arc<TokenIssuer>,
    pub(crate) services: ServiceAllocator,
    pub(crate) metrics: Metrics,
    /// TLS with which nodes are called.
    pub(crate) nodes: Option<Arc<rustls::ClientConfig>>,
    /// Whoever runs the plugins, once it does.
    pub(crate) plugin_streams: OnceLock<Arc<dyn PluginStreams>>,
    pub(crate) tracker: TaskTracker,
    pub(crate) cancel: CancellationToken,
}

/// The admission plugins in force.
pub(crate) struct AdmissionDoor(ArcSwap<Arc<dyn Admission>>);

impl AdmissionDoor {
    pub(crate) fn new(admission: Arc<dyn Admission>) -> Self {
        Self(ArcSwap::from_pointee(admission))
    }

    pub(crate) fn set(&self, admission: Arc<dyn Admission>) {
        self.0.store(Arc::new(admission));
    }

    fn get(&self) -> Arc<dyn Admission> {
        (**self.0.load()).clone()
    }
}

/// What accompanies one request.
pub(crate) struct RequestCx {
    pub(crate) user: Arc<UserInfo>,
    pub(crate) now: jiff::Timestamp,
    /// Field manager where the client names none.
    pub(crate) agent: String,
    /// Collected for the `Warning` headers.
    pub(crate) warnings: Mutex<Vec<String>>,
}

impl RequestCx {
    pub(crate) fn new(user: Arc<UserInfo>, agent: &str) -> Self {
        let agent = agent.split('/').next().unwrap_or_default();
        let agent: String = agent.chars().filter(|c| !c.is_control()).take(128).collect();
        let agent = if agent.is_empty() { "unknown".to_owned() } else { agent };
        Self { user, now: jiff::Timestamp::now(), agent, warnings: Mutex::new(Vec::new()) }
    }

    pub(crate) fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// What strategies see.
    pub(crate) fn context(&self) -> Context<'_> {
        Context { now: self.now, user: &self.user, random: rand::random() }
    }

    /// Now, as it is written into objects.
    pub(crate) fn timestamp(&self) -> String {
        rfc3339(self.now)
    }
}

/// Seconds precision, `Z`.
pub(crate) fn rfc3339(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What a request addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) row: &'static Resource,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) subresource: Option<&'static Subresource>,
}

impl Target<'_> {
    /// `namespace/name`, or `name` of a cluster-scoped object.
    pub(crate) fn key(&self) -> String {
        cache_key(self.row, self.namespace, self.name)
    }

    pub(crate) fn subresource_name(&self) -> &'static str {
        self.subresource.map_or("", |s| s.name)
    }

    pub(crate) fn not_found(&self) -> Status {
        Status::not_found(&self.row.gvr, self.name)
    }
}

pub(crate) fn cache_key(row: &Resource, namespace: &str, name: &str) -> String {
    if row.namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
}

/// The row whose form is stored for `row`'s prefix.
pub(crate) fn stored_row(row: &'static Resource) -> &'static Resource {
    if row.custom.is_some() {
        let stored = crate::crd::table::now();
        let same = |r: &&Resource| r.storage() == row.storage() && r.custom.is_some_and(|c| c.storage);
        return stored.rows.iter().copied().find(same).unwrap_or(row);
    }
    built_in().find(|r| r.storage().is_some() && r.storage() == row.storage()).unwrap_or(row)
}

/// Whether `row` shows its objects in another form than the stored one.
pub(crate) fn converts(row: &'static Resource) -> bool {
    row.custom.map_or_else(|| !std::ptr::eq(stored_row(row), row), |c| c.converts)
}

impl Core {
    /// The shelf of a stored row.
    pub(crate) fn shelf(&self, row: &Resource) -> Result<Arc<Shelf>, Status> {
        self.cache.shelf(row).ok_or_else(status::no_such_path)
    }

    /// The object as `row` shows it.
    pub(crate) fn view(&self, row: &'static Resource, object: &Arc<Object>) -> Result<Arc<Object>, Status> {
        if !converts(row) {
            return Ok(object.clone());
        }
        let mut value = object.to_value();
        row.strategy.from_storage(&mut value);
        set_type(&mut value, row);
        Object::from_value(&value).map(Arc::new).map_err(|e| Status::internal(e.to_string()))
    }

    /// The object as the store has it now, past the cache.
    pub(crate) async fn fresh(
        &self,
        row: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Entry>>, Status> {
        let Some(prefix) = row.storage() else { return Ok(None) };
        let start = crate::storage::key(prefix, if row.namespaced { namespace } else { "" }, name);
        let found = self
            .store
            .range(Range { start, ..Range::default() })
            .await
            .map_err(|e| status::from_store(&e))?;
        match found.kvs.first() {
            None => Ok(None),
            Some(kv) => {
                let entry =
                    Entry::decode(&kv.value, kv.mod_revision).map_err(|e| status::from_storage(&e))?;
                Ok(Some(Arc::new(entry)))
            }
        }
    }

    /// Authorizes; `Err` is a 403 in RBAC's words.
    pub(crate) async fn authorize(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Result<(), Status> {
        match self.authorizer.authorize(user, attributes).await {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => {
                Err(crate::authz::forbidden(user, attributes, &reason))
            }
        }
    }

    /// Runs the mutating plugins over `object`; `true` where they changed it.
    pub(crate) async fn mutate(
        &self,
        cx: &RequestCx,
        request: &mut AdmissionRequest,
    ) -> Result<bool, Status> {
        let verdicts = self.admission.get().mutate(std::slice::from_mut(request)).await;
        self.judge(cx, verdicts).map(|v| v.changed)
    }

    /// Runs the validating plugins.
    pub(crate) async fn validate(&self, cx: &RequestCx, request: &AdmissionRequest) -> Result<(), Status> {
        let verdicts = self.admission.get().validate(std::slice::from_ref(request)).await;
        self.judge(cx, verdicts).map(|_| ())
    }

    fn judge(&self, cx: &RequestCx, verdicts: Vec<Verdict>) -> Result<Verdict, Status> {
        let Some(verdict) = verdicts.into_iter().next() else {
            return Err(Status::internal("admission gave no verdict"));
        };
        for warning in &verdict.warnings {
            cx.warn(warning.clone());
        }
        for (key, value) in &verdict.audit_annotations {
            tracing::debug!(key, value, "admission annotated the request");
        }
        match verdict.denied {
            Some(status) => Err(*status),
            None => Ok(verdict),
        }
    }

    /// Whether plugins want to see such a request.
    pub(crate) fn admits(&self, target: &Target<'_>, operation: Operation) -> bool {
        self.admission.get().handles(operation, &target.row.gvr, target.subresource_name())
    }

    /// A request for the plugins.
    #[expect(clippy::too_many_arguments, reason = "the parts of the review, all different")]
    pub(crate) fn admission_request(
        &self,
        cx: &RequestCx,
        target: &Target<'_>,
        operation: Operation,
        object: Option<Value>,
        old_object: Option<Arc<Object>>,
        options: Value,
        dry_run: bool,
    ) -> AdmissionRequest {
        let gvk = match target.subresource {
            Some(s) if !s.object_kind.0.is_empty() => {
                Gvk::new(s.object_kind.0, s.object_kind.1, s.object_kind.2)
            }
            Some(s) if s.object_kind.2 != target.row.kind => {
                Gvk { kind: s.object_kind.2.into(), ..target.row.gvk() }
            }
            _ => target.row.gvk(),
        };
        AdmissionRequest {
            uid: uuid::Uuid::new_v4().to_string(),
            operation,
            gvr: target.row.gvr.clone(),
            gvk,
            subresource: target.subresource_name().to_owned(),
            namespace: target.namespace.to_owned(),
            name: target.name.to_owned(),
            object,
            old_object,
            user: (*cx.user).clone(),
            options,
            dry_run,
        }
    }
}

/// Sets `apiVersion` and `kind`.
pub(crate) fn set_type(value: &mut Value, row: &Resource) {
    if let Value::Object(map) = value {
        map.insert("apiVersion".to_owned(), row.gvr.api_version().into());
        map.insert("kind".to_owned(), row.kind.into());
    }
}
