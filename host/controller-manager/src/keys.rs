//! Turns changes of objects into keys.

use crate::cache::{Caches, IndexKind, Shared};
use crate::declaration::{Declaration, KeyRule, Watch};
use crate::paths::{self, Paths};
use orlop_apimachinery::{Gvr, Object};
use orlop_client::{Delta, WorkQueue};
use std::sync::Arc;

/// What a controller works on: one object of its primary resource, or, for a controller over all
/// resources, of `resource`; or just a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) resource: Option<Gvr>,
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
}

impl Key {
    fn new(namespace: &str, name: &str) -> Self {
        Self { resource: None, namespace: namespace.into(), name: name.into() }
    }

    pub(crate) fn named(name: &str) -> Self {
        Self::new("", name)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(resource) = &self.resource {
            write!(f, "{resource} ")?;
        }
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// The paths of [`KeyRule::Own`]; none of any other rule.
fn having(rule: &KeyRule) -> Paths {
    match rule {
        KeyRule::Own { having } => Paths::new(having),
        _ => Paths::new(&[]),
    }
}

/// The keys of one watched resource.
pub(crate) struct Mapper {
    watched: Gvr,
    /// Each with the paths of [`KeyRule::Own`].
    rules: Vec<(KeyRule, Paths)>,
    changed: Option<Paths>,
    namespace: String,
    primary: Option<Arc<Shared>>,
    /// Of the first step of [`KeyRule::Controller`].
    between: Vec<Arc<Shared>>,
    caches: Arc<Caches>,
    queue: WorkQueue<Key>,
}

impl Mapper {
    /// Prepares a watch: starts the informers and indexes that its rules look things up in.
    pub(crate) fn new(
        declaration: &Declaration,
        watch: &Watch,
        watched: Gvr,
        caches: &Arc<Caches>,
        queue: &WorkQueue<Key>,
    ) -> Self {
        let primary = declaration.primary.as_ref().map(|p| caches.resource(&p.gvr()));
        let mut between = Vec::new();
        for rule in &watch.keys {
            match (rule, &primary) {
                (KeyRule::Selectors { .. }, Some(primary)) => primary.ensure_index(&IndexKind::Namespace),
                (KeyRule::References { path }, Some(primary)) => {
                    primary.ensure_index(&IndexKind::Field(path.clone()));
                }
                (KeyRule::Controller { then: Some(then), .. }, _) => {
                    between.push(caches.resource(&Gvr::from_api_version(&then.api_version, &then.resource)));
                }
                (KeyRule::Ownership {}, _) => caches.resource(&watched).ensure_index(&IndexKind::Owners),
                _ => {}
            }
        }
        let changed = (!watch.changed.is_empty()).then(|| Paths::new(&watch.changed));
        Self {
            watched,
            rules: watch.keys.iter().map(|rule| (rule.clone(), having(rule))).collect(),
            changed,
            namespace: watch.namespace.clone(),
            primary,
            between,
            caches: caches.clone(),
            queue: queue.clone(),
        }
    }

    /// Queues the keys of one change.
    pub(crate) fn change(&self, delta: &Delta) {
        if !self.namespace.is_empty() && delta.latest().is_some_and(|o| o.namespace() != self.namespace) {
            return;
        }
        if let (Some(paths), Some(old), Some(new)) = (&self.changed, &delta.old, &delta.new)
            && old.uid() == new.uid()
            && !paths.differ(old.bytes(), new.bytes())
        {
            return;
        }
        for (rule, having) in &self.rules {
            self.apply(rule, having, delta);
        }
    }

    fn apply(&self, rule: &KeyRule, having: &Paths, delta: &Delta) {
        let Some(latest) = delta.latest() else { return };
        let states = || delta.old.iter().chain(&delta.new);
        match rule {
            KeyRule::Own { having: paths } => {
                if paths.is_empty() || states().any(|o| having.any(o.bytes())) {
                    self.queue.add(Key::new(latest.namespace(), latest.name()));
                }
            }
            KeyRule::Controller { group, kind, then } => {
                for object in states() {
                    self.controller(object, group, kind, then.as_ref());
                }
            }
            KeyRule::Selectors { path, orphans_only } => {
                let Some(primary) = &self.primary else { return };
                let wanted: Vec<_> =
                    states().filter(|o| !orphans_only || o.controller_ref().is_none()).collect();
                if wanted.is_empty() {
                    return;
                }
                for candidate in primary.by_index(&IndexKind::Namespace, latest.namespace()) {
                    let selector = primary.selector(&candidate, path);
                    if wanted.iter().any(|o| selector.matches(&o.meta().labels)) {
                        self.queue.add(Key::new(candidate.namespace(), candidate.name()));
                    }
                }
            }
            KeyRule::Namespace { when_deleting, name } => {
                if !name.is_empty() && name != latest.name() {
                    return;
                }
                let namespace =
                    if latest.namespace().is_empty() { latest.name() } else { latest.namespace() };
                let deleting = || {
                    let primary = self.primary.as_ref().and_then(|p| p.cache.get("", namespace));
                    primary.is_some_and(|o| o.is_being_deleted())
                };
                if !when_deleting || deleting() {
                    self.queue.add(Key::named(namespace));
                }
            }
            KeyRule::Label { key } => {
                for name in states().filter_map(|o| o.label(key)) {
                    self.queue.add(Key::new(latest.namespace(), name));
                }
            }
            KeyRule::SameName { cluster } => {
                self.queue.add(Key::new(if *cluster { "" } else { latest.namespace() }, latest.name()));
            }
            KeyRule::References { path } => {
                let Some(primary) = &self.primary else { return };
                for object in primary.by_index(&IndexKind::Field(path.clone()), latest.name()) {
                    self.queue.add(Key::new(object.namespace(), object.name()));
                }
            }
            KeyRule::Fixed { name, path, values } => {
                let holds = |o: &Arc<Object>| values.contains(&paths::text(o.bytes(), path));
                if path.is_empty() || delta.new.as_ref().is_some_and(holds) {
                    self.queue.add(Key::named(name));
                }
            }
            KeyRule::Ownership {} => self.ownership(delta),
        }
    }

    fn controller(&self, object: &Object, group: &str, kind: &str, then: Option<&crate::declaration::Then>) {
        let Some(owner) = object.controller_ref() else { return };
        let (owner_group, _) = orlop_apimachinery::gvk::split_api_version(&owner.api_version);
        if *owner.kind != *kind || owner_group != group {
            return;
        }
        let Some(then) = then else {
            self.queue.add(Key::new(object.namespace(), &owner.name));
            return;
        };
        let gvr = Gvr::from_api_version(&then.api_version, &then.resource);
        let between = self.between.iter().find(|s| s.gvr == gvr);
        if let Some(between) = between.and_then(|s| s.cache.get(object.namespace(), &owner.name))
            && let Some(owner) = between.controller_ref()
            && *owner.kind == *then.kind
        {
            self.queue.add(Key::new(object.namespace(), &owner.name));
        }
    }

    /// As upstream's graph builder: objects with an absent owner, dependents of what went, what is being
    /// deleted with a collector's finalizer, and owners that wait for a dependent.
    fn ownership(&self, delta: &Delta) {
        if let Some(new) = &delta.new {
            let meta = new.meta();
            let collects = |f: &str| f == "foregroundDeletion" || f == "orphan";
            let finalizing = new.is_being_deleted() && meta.finalizers.iter().any(|f| collects(f));
            let absent = || {
                meta.owner_references
                    .iter()
                    .any(|owner| self.caches.cached_owner(owner, new.namespace()).is_none())
            };
            if finalizing || absent() {
                self.queue.add(key_of(&self.watched, new));
            }
            // Its dependents go first, or are set free.
            let began = !delta.old.as_ref().is_some_and(|o| o.is_being_deleted());
            if finalizing && began {
                self.dependents(new);
            }
        } else if let Some(old) = &delta.old
            && self.dependents(old)
        {
            self.caches.owner_went(&self.watched, old.uid());
        }
        for object in delta.old.iter().chain(&delta.new) {
            for owner in &object.meta().owner_references {
                let Some(found) = self.caches.cached_owner(owner, object.namespace()) else { continue };
                if found.is_being_deleted()
                    && found.meta().finalizers.iter().any(|f| **f == *"foregroundDeletion")
                    && let Some((gvr, _)) = self.caches.locate(owner, object.namespace())
                {
                    self.queue.add(key_of(&gvr, &found));
                    // Where the owner's foreground deletion began after this dependent was looked at.
                    if let Some(new) = &delta.new {
                        self.queue.add(key_of(&self.watched, new));
                    }
                }
            }
        }
    }

    /// Whether there are any.
    fn dependents(&self, owner: &Object) -> bool {
        let mut any = false;
        for resource in self.caches.served().collectable() {
            let Some(shared) = self.caches.existing(&resource.gvr) else { continue };
            for dependent in shared.by_index(&IndexKind::Owners, owner.uid()) {
                self.queue.add(key_of(&resource.gvr, &dependent));
                any = true;
            }
        }
        any
    }
}

fn key_of(gvr: &Gvr, object: &Object) -> Key {
    Key { resource: Some(gvr.clone()), namespace: object.namespace().into(), name: object.name().into() }
}
