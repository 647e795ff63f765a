//! The objects that plugins watch: one copy of each for all plugins that watch the same, and a log of what
//! changed, from which every plugin is told at its own pace.

use crate::framework::{ObjectChange, Watch};
use crate::projection::Projection;
use orlop_apimachinery::Object;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Entries of a log that are always kept; twice the number of objects are kept where that is more.
const KEPT: usize = 1024;

/// Namespace and name.
type Key = (Arc<str>, Arc<str>);

/// What is watched, and as whom. Plugins that are equal in this share one informer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WatchKey {
    /// The user that reads; empty for the scheduler's own.
    pub user: Arc<str>,
    /// `v1`, `storage.k8s.io/v1`
    pub api_version: String,
    /// Plural.
    pub resource: String,
    /// Only objects there; all where empty.
    pub namespace: String,
    /// Only objects that it selects; all where empty.
    pub label_selector: String,
}

impl WatchKey {
    /// What a plugin that runs as `user` declared.
    #[must_use]
    pub fn new(user: &Arc<str>, watch: &Watch) -> Self {
        Self {
            user: user.clone(),
            api_version: watch.api_version.clone(),
            resource: watch.resource.clone(),
            namespace: watch.namespace.clone(),
            label_selector: watch.label_selector.clone(),
        }
    }
}

#[derive(Debug, Default)]
struct Feed {
    objects: BTreeMap<Key, Arc<Object>>,
    log: VecDeque<Key>,
    /// Position of the first entry of `log`.
    base: u64,
}

impl Feed {
    fn head(&self) -> u64 {
        self.base + self.log.len() as u64
    }
}

/// All watched objects.
#[derive(Debug, Default)]
pub struct WatchedObjects {
    feeds: HashMap<WatchKey, Feed>,
    version: u64,
}

impl WatchedObjects {
    /// An object appeared, changed, or went. A plugin is told before it is asked anything.
    pub fn change(&mut self, watch: &WatchKey, namespace: &str, name: &str, object: Option<Arc<Object>>) {
        if !self.feeds.contains_key(watch) {
            // Positions go on, so that nobody takes this log for one that was there before.
            let base = self.version + 1;
            self.feeds.insert(watch.clone(), Feed { base, ..Feed::default() });
        }
        let Some(feed) = self.feeds.get_mut(watch) else { return };
        let key: Key = (namespace.into(), name.into());
        match object {
            Some(object) => _ = feed.objects.insert(key.clone(), object),
            None => _ = feed.objects.remove(&key),
        }
        feed.log.push_back(key);
        let kept = KEPT.max(2 * feed.objects.len());
        if feed.log.len() > 2 * kept {
            feed.log.drain(..kept);
            feed.base += kept as u64;
        }
        self.version += 1;
    }

    /// Forgets the objects of a watch.
    pub fn forget(&mut self, watch: &WatchKey) {
        self.feeds.remove(watch);
        self.version += 1;
    }

    /// Forgets what nobody watches any more. What is watched anew starts empty.
    pub fn retain(&mut self, watched: &BTreeSet<WatchKey>) {
        self.feeds.retain(|key, _| watched.contains(key));
        self.version += 1;
    }
}

/// What one plugin was told of the objects that it watches.
#[derive(Debug, Default)]
pub(crate) struct Told {
    watches: Vec<(WatchKey, Option<Projection>)>,
    /// Position in each log; `None` where nothing was told.
    cursors: Option<Vec<u64>>,
    version: u64,
    /// A hash of what was told of each object, so that a change of other fields is no news.
    hashes: HashMap<(u32, Key), u64>,
}

/// Changes that a plugin is about to be told of.
pub(crate) struct News {
    pub(crate) full: bool,
    pub(crate) changes: Vec<ObjectChange>,
}

impl Told {
    pub(crate) fn new(user: &Arc<str>, watches: &[Watch]) -> Self {
        let watch = |w: &Watch| {
            let fields = w.fields.iter().map(String::as_str);
            let always = ["metadata.namespace", "metadata.name"];
            let projection = (!w.fields.is_empty()).then(|| Projection::new(fields.chain(always)));
            (WatchKey::new(user, w), projection)
        };
        Self { watches: watches.iter().map(watch).collect(), ..Self::default() }
    }

    /// What is watched.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &WatchKey> {
        self.watches.iter().map(|(key, _)| key)
    }

    /// The plugin has forgotten everything.
    pub(crate) fn clear(&mut self) {
        self.cursors = None;
        self.hashes.clear();
    }

    /// What the plugin does not know yet, if anything; afterwards it counts as told.
    pub(crate) fn news(&mut self, objects: &WatchedObjects) -> Option<News> {
        if self.watches.is_empty() || (self.cursors.is_some() && self.version == objects.version) {
            return None;
        }
        self.version = objects.version;
        let changed = self.changed(objects);
        let full = changed.is_none();
        if full {
            self.hashes.clear();
        }
        let mut changes = Vec::new();
        for (at, keys) in changed.unwrap_or_else(|| self.all(objects)) {
            let Some((watch, projection)) = self.watches.get(at as usize) else { continue };
            let feed = objects.feeds.get(watch);
            for key in keys {
                let object = feed.and_then(|f| f.objects.get(&key));
                let json = object.map_or_else(Vec::new, |o| match projection {
                    Some(projection) => projection.apply(&o.to_value()).to_string().into_bytes(),
                    None => o.bytes().to_vec(),
                });
                let mut hasher = DefaultHasher::new();
                json.hash(&mut hasher);
                let hash = hasher.finish();
                let (namespace, name) = key.clone();
                let known = if json.is_empty() {
                    self.hashes.remove(&(at, key)).is_none()
                } else {
                    self.hashes.insert((at, key), hash) == Some(hash)
                };
                if !known {
                    changes.push(ObjectChange { watch: at, namespace, name, object: json.into() });
                }
            }
        }
        let head = |(key, _): &(WatchKey, _)| objects.feeds.get(key).map_or(0, Feed::head);
        self.cursors = Some(self.watches.iter().map(head).collect());
        (full || !changes.is_empty()).then_some(News { full, changes })
    }

    /// The keys that changed, by watch; `None` where everything has to be told.
    fn changed(&self, objects: &WatchedObjects) -> Option<Vec<(u32, BTreeSet<Key>)>> {
        let cursors = self.cursors.as_ref()?;
        let mut changed = Vec::new();
        for (((key, _), cursor), at) in self.watches.iter().zip(cursors).zip(0_u32..) {
            let Some(feed) = objects.feeds.get(key) else {
                // A feed that went and was told of: its objects are gone.
                if *cursor != 0 {
                    return None;
                }
                continue;
            };
            let skip = usize::try_from(cursor.checked_sub(feed.base)?).ok()?;
            if skip > feed.log.len() {
                return None;
            }
            changed.push((at, feed.log.range(skip..).cloned().collect()));
        }
        Some(changed)
    }

    fn all(&self, objects: &WatchedObjects) -> Vec<(u32, BTreeSet<Key>)> {
        let keys = |key| objects.feeds.get(key).map(|f| f.objects.keys().cloned().collect());
        let all = self.watches.iter().zip(0_u32..);
        all.map(|((key, _), at)| (at, keys(key).unwrap_or_default())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(name: &str, size: &str, status: &str) -> Arc<Object> {
        let value = json!({
            "metadata": {"namespace": "shop", "name": name, "uid": name, "resourceVersion": "1"},
            "spec": {"size": size}, "status": {"phase": status},
        });
        Arc::new(Object::from_value(&value).unwrap())
    }

    fn watch() -> (WatchKey, Told) {
        let watch = Watch {
            api_version: "v1".to_owned(),
            resource: "claims".to_owned(),
            namespace: String::new(),
            label_selector: String::new(),
            fields: vec!["spec.size".to_owned()],
        };
        let user: Arc<str> = "".into();
        (WatchKey::new(&user, &watch), Told::new(&user, &[watch]))
    }

    fn told(news: Option<News>) -> Option<(bool, Vec<(String, Value)>)> {
        news.map(|news| {
            let change = |c: &ObjectChange| {
                (c.name.to_string(), serde_json::from_slice(&c.object).unwrap_or(Value::Null))
            };
            (news.full, news.changes.iter().map(change).collect())
        })
    }

    #[test]
    fn a_plugin_is_told_of_what_it_declared_and_no_more() {
        let (key, mut plugin) = watch();
        let mut objects = WatchedObjects::default();
        assert_eq!(told(plugin.news(&objects)), Some((true, vec![])));
        assert_eq!(told(plugin.news(&objects)), None);

        objects.change(&key, "shop", "a", Some(claim("a", "1", "Pending")));
        let a = |size: &str| {
            ("a".to_owned(), json!({"metadata": {"namespace": "shop", "name": "a"}, "spec": {"size": size}}))
        };
        let (_, changes) = told(plugin.news(&objects)).unwrap();
        assert_eq!(changes, [a("1")]);
        // The status was not declared.
        objects.change(&key, "shop", "a", Some(claim("a", "1", "Bound")));
        assert_eq!(told(plugin.news(&objects)), None);
        objects.change(&key, "shop", "a", Some(claim("a", "2", "Bound")));
        assert_eq!(told(plugin.news(&objects)), Some((false, vec![a("2")])));
        objects.change(&key, "shop", "a", None);
        objects.change(&key, "shop", "never", None);
        assert_eq!(told(plugin.news(&objects)), Some((false, vec![("a".to_owned(), Value::Null)])));
    }

    #[test]
    fn a_plugin_that_fell_behind_or_started_again_gets_everything() {
        let (key, mut plugin) = watch();
        let mut objects = WatchedObjects::default();
        objects.change(&key, "shop", "a", Some(claim("a", "1", "")));
        assert!(plugin.news(&objects).unwrap().full);
        for i in 0..5 * KEPT {
            objects.change(&key, "shop", "a", Some(claim("a", &i.to_string(), "")));
        }
        let news = plugin.news(&objects).unwrap();
        assert_eq!((news.full, news.changes.len()), (true, 1));
        plugin.clear();
        assert!(plugin.news(&objects).unwrap().full);
        // Nobody watched for a while.
        objects.retain(&BTreeSet::new());
        assert_eq!(told(plugin.news(&objects)), Some((true, vec![])));
        objects.change(&key, "shop", "b", Some(claim("b", "1", "")));
        let (_, changes) = told(plugin.news(&objects)).unwrap();
        assert_eq!(changes.len(), 1);
        // The watch began again, and `b` is gone.
        objects.forget(&key);
        objects.change(&key, "shop", "c", Some(claim("c", "1", "")));
        let (full, changes) = told(plugin.news(&objects)).unwrap();
        assert_eq!((full, changes.len(), changes[0].0.as_str()), (true, 1, "c"));
    }
}
