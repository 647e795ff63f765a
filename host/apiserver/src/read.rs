//! Get, list and watch: which state a reader is shown.
//!
//! Reads come from the watch cache. A reader that named no resourceVersion waits until the cache
//! has everything that was acknowledged before he asked; one that asked for an exact past state is
//! served by the store.

use crate::cache::{Delivery, Entry, Filter, Scope, Subscription};
use crate::core::{Core, Target, stored_row};
use crate::query::{ListQuery, Match};
use crate::registry::Resource;
use crate::selectors::{self, FieldFilter};
use crate::status;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use orlop_apimachinery::{Object, Status};
use orlop_store::{Range, StoreError};
use serde_json::{Value, json};
use std::sync::Arc;

/// A page of objects.
#[derive(Debug)]
pub(crate) struct Page {
    /// In key order, as the row shows them.
    pub(crate) items: Vec<Arc<Object>>,
    pub(crate) revision: u64,
    /// Empty on the last page.
    pub(crate) continue_token: String,
    pub(crate) remaining: Option<u64>,
}

/// A watch that has begun.
pub(crate) struct Watching {
    /// The current state, shown as ADDED.
    pub(crate) initial: Vec<Arc<Object>>,
    /// Changes that were missed.
    pub(crate) missed: Vec<Delivery>,
    /// Changes to come.
    pub(crate) subscription: Subscription,
    /// Revision of the current state; a bookmark with it ends the initial events of a watch-list.
    pub(crate) revision: u64,
    /// Whether that bookmark is due.
    pub(crate) bookmark_initial: bool,
}

/// Where a page ends.
struct Token {
    revision: u64,
    after: String,
}

impl Core {
    /// GET of one object.
    pub(crate) async fn get(
        &self,
        target: &Target<'_>,
        resource_version: Option<u64>,
    ) -> Result<Arc<Object>, Status> {
        self.wait_for_read(resource_version).await?;
        let entry = self.shelf(target.row)?.get(&target.key()).ok_or_else(|| target.not_found())?;
        self.view(target.row, entry.object())
    }

    /// Waits until the cache may answer: unset is linearizable, 0 is anything, else at least so new.
    async fn wait_for_read(&self, resource_version: Option<u64>) -> Result<(), Status> {
        match resource_version {
            Some(0) => Ok(()),
            None => self.cache.wait_current().await.map(|_| ()).map_err(|e| status::from_store(&e)),
            Some(revision) => {
                if self.cache.wait_for(revision).await {
                    Ok(())
                } else {
                    Err(status::too_large_revision(revision, self.cache.revision()))
                }
            }
        }
    }

    /// What a list or watch of `target` looks at.
    pub(crate) fn filter(&self, target: &Target<'_>, query: &ListQuery) -> Result<Filter, Status> {
        let row = target.row;
        let labels = selectors::labels(&query.label_selector)?;
        let fields = FieldFilter::parse(&query.field_selector, row, stored_row(row))?;
        let name = if target.name.is_empty() { fields.exact_name() } else { Some(target.name) };
        let namespace = match (row.namespaced, target.namespace) {
            (false, _) => None,
            (true, "") => fields.exact_namespace().filter(|ns| !ns.is_empty()),
            (true, ns) => Some(ns),
        };
        let scope = match (row.namespaced, namespace, name) {
            (true, Some(ns), Some(name)) => Scope::Key(format!("{ns}/{name}").into()),
            (true, Some(ns), None) => Scope::Namespace(ns.into()),
            (false, _, Some(name)) => Scope::Key(name.into()),
            _ => Scope::All,
        };
        Ok(Filter { scope, labels, fields })
    }

    /// GET of a collection.
    pub(crate) async fn list(&self, target: &Target<'_>, query: &ListQuery) -> Result<Page, Status> {
        let row = target.row;
        let filter = self.filter(target, query)?;
        let shelf = self.shelf(row)?;
        if !query.continue_token.is_empty() {
            if query.resource_version.is_some_and(|v| v != 0) {
                return Err(Status::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let token = Token::parse(&query.continue_token)?;
            return self.list_at(target, query, &filter, token.revision, &token.after).await;
        }
        let exact = query.matching == Some(Match::Exact)
            || (query.matching.is_none()
                && query.limit > 0
                && query.resource_version.is_some_and(|v| v != 0));
        if exact && let Some(revision) = query.resource_version {
            return self.list_at(target, query, &filter, revision, "").await;
        }
        self.wait_for_read(query.resource_version).await?;
        let revision = self.cache.revision();
        let snapshot = shelf.list(&filter, "", query.limit);
        let revision = revision.max(snapshot.changed);
        self.page(
            target,
            query,
            snapshot.entries,
            snapshot.remaining,
            revision,
            filter.fields.is_everything(),
        )
    }

    /// The state at one revision: from the cache where nothing changed since, else from the store.
    async fn list_at(
        &self,
        target: &Target<'_>,
        query: &ListQuery,
        filter: &Filter,
        revision: u64,
        after: &str,
    ) -> Result<Page, Status> {
        let continued = !after.is_empty();
        if !self.cache.wait_for(revision).await {
            return Err(status::too_large_revision(revision, self.cache.revision()));
        }
        let shelf = self.shelf(target.row)?;
        let snapshot = shelf.list(filter, after, query.limit);
        if snapshot.changed <= revision {
            let simple = filter.fields.is_everything();
            return self.page(target, query, snapshot.entries, snapshot.remaining, revision, simple);
        }
        let stored = match self.stored_at(target.row, filter, revision, after).await {
            Err(StoreError::Compacted { .. }) if continued => return Err(status::continue_expired()),
            Err(error) => return Err(status::from_store(&error)),
            Ok(stored) => stored,
        };
        let mut entries = Vec::new();
        let mut remaining = 0;
        for kv in stored {
            let entry = Entry::decode(&kv.value, kv.mod_revision).map_err(|e| status::from_storage(&e))?;
            let entry = Arc::new(entry);
            if !filter.matches(&entry, shelf.fields()) {
                continue;
            }
            if query.limit > 0 && entries.len() == query.limit {
                remaining += 1;
            } else {
                entries.push(entry);
            }
        }
        let remaining = (remaining > 0).then_some(remaining);
        self.page(target, query, entries, remaining, revision, filter.fields.is_everything())
    }

    async fn stored_at(
        &self,
        row: &Resource,
        filter: &Filter,
        revision: u64,
        after: &str,
    ) -> Result<Vec<orlop_store::KeyValue>, StoreError> {
        let root = format!("{}{}/", crate::storage::ROOT, row.storage().unwrap_or_default());
        let (prefix, single) = match &filter.scope {
            Scope::All => (root.clone(), false),
            Scope::Namespace(ns) => (format!("{root}{ns}/"), false),
            Scope::Key(key) => (format!("{root}{key}"), true),
        };
        let end = if single { Default::default() } else { crate::storage::prefix_end(prefix.as_bytes()) };
        let start = if after.is_empty() || single { prefix } else { format!("{root}{after}\0") };
        let range = Range { start: start.into(), end, revision, ..Range::default() };
        self.store.range(range).await.map(|r| r.kvs)
    }

    fn page(
        &self,
        target: &Target<'_>,
        query: &ListQuery,
        entries: Vec<Arc<Entry>>,
        remaining: Option<u64>,
        revision: u64,
        countable: bool,
    ) -> Result<Page, Status> {
        let row = target.row;
        let continue_token = match (remaining, entries.last()) {
            (Some(_), Some(last)) => {
                let object = last.object();
                Token { revision, after: crate::core::cache_key(row, object.namespace(), object.name()) }
                    .to_text()
            }
            _ => String::new(),
        };
        let items: Result<Vec<_>, Status> = entries.iter().map(|e| self.view(row, e.object())).collect();
        // Upstream leaves the count out where a selector filters, since it would have to be guessed.
        let countable = countable && query.label_selector.is_empty();
        Ok(Page { items: items?, revision, continue_token, remaining: remaining.filter(|_| countable) })
    }

    /// GET with `watch`.
    pub(crate) async fn watch(&self, target: &Target<'_>, query: &ListQuery) -> Result<Watching, Status> {
        let filter = self.filter(target, query)?;
        let shelf = self.shelf(target.row)?;
        let from_state = match query.send_initial_events {
            Some(initial) => initial,
            None => matches!(query.resource_version, None | Some(0)),
        };
        if !from_state {
            let since = match query.resource_version {
                // Without initial events an unset or zero revision means: from now on.
                None => self.cache.wait_current().await.map_err(|e| status::from_store(&e))?,
                Some(0) => self.cache.revision(),
                Some(revision) => revision,
            };
            let (missed, subscription) =
                shelf.watch_since(filter, since).map_err(|old| status::too_old(since, old.floor))?;
            return Ok(Watching {
                initial: Vec::new(),
                missed,
                subscription,
                revision: since,
                bookmark_initial: false,
            });
        }
        self.wait_for_read(query.resource_version).await?;
        let revision = self.cache.revision();
        let (snapshot, subscription) = shelf.watch_now(filter);
        let initial: Result<Vec<_>, Status> =
            snapshot.entries.iter().map(|e| self.view(target.row, e.object())).collect();
        Ok(Watching {
            initial: initial?,
            missed: Vec::new(),
            subscription,
            revision: revision.max(snapshot.changed),
            bookmark_initial: query.send_initial_events == Some(true),
        })
    }
}

impl Token {
    fn parse(text: &str) -> Result<Self, Status> {
        let bad = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|e| bad(&e.to_string()))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|e| bad(&e.to_string()))?;
        if value.get("v").and_then(Value::as_str) != Some("meta.k8s.io/v1") {
            return Err(bad("server does not recognize this encoded version"));
        }
        let revision = value.get("rv").and_then(Value::as_u64).filter(|r| *r > 0);
        let revision = revision
            .ok_or_else(|| bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"))?;
        let after = value.get("start").and_then(Value::as_str).unwrap_or_default();
        let after = after.trim_end_matches('\0');
        if after.is_empty() || after.split('/').any(|s| s.is_empty() || s == "." || s == "..") {
            return Err(bad("incorrect encoded start (version meta.k8s.io/v1)"));
        }
        Ok(Self { revision, after: after.to_owned() })
    }

    fn to_text(&self) -> String {
        let value = json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": format!("{}\0", self.after)});
        URL_SAFE_NO_PAD.encode(value.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_round_trip_and_foreign_ones_are_refused() {
        let text = Token { revision: 7, after: "ns/pod".to_owned() }.to_text();
        let token = Token::parse(&text).unwrap();
        assert_eq!((token.revision, token.after.as_str()), (7, "ns/pod"));
        for bad in ["%%%", "e30", &URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../x"}"#)]
        {
            assert_eq!(Token::parse(bad).err().unwrap().code, 400, "{bad}");
        }
    }
}
