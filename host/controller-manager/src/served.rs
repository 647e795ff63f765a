//! What the API serves now: it changes where types are defined at run time.

use crate::framework::ApiResource;
use orlop_apimachinery::Gvr;
use orlop_apimachinery::gvk::split_api_version;
use std::collections::{HashMap, HashSet};

/// The resources of one moment.
#[derive(Debug, Default)]
pub(crate) struct Served {
    list: Vec<ApiResource>,
    /// Positions by kind.
    kinds: HashMap<String, Vec<usize>>,
    collectable: HashSet<Gvr>,
}

impl Served {
    pub(crate) fn new(list: Vec<ApiResource>) -> Self {
        let mut kinds: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, resource) in list.iter().enumerate() {
            kinds.entry(resource.gvk.kind.to_string()).or_default().push(at);
        }
        let collectable = list.iter().filter(|r| is_collectable(r)).map(|r| r.gvr.clone()).collect();
        Self { list, kinds, collectable }
    }

    /// Everything, in discovery order.
    pub(crate) fn all(&self) -> &[ApiResource] {
        &self.list
    }

    /// The resources that can be collected and emptied.
    pub(crate) fn deletable(&self) -> impl Iterator<Item = &ApiResource> {
        self.list.iter().filter(|r| r.deletable)
    }

    /// The resources whose objects own and are owned; as upstream, all but events.
    pub(crate) fn collectable(&self) -> impl Iterator<Item = &ApiResource> {
        self.list.iter().filter(|r| is_collectable(r))
    }

    /// Whether the resource is one of [`Self::collectable`].
    pub(crate) fn collects(&self, gvr: &Gvr) -> bool {
        self.collectable.contains(gvr)
    }

    /// Whether the resource is served.
    pub(crate) fn serves(&self, gvr: &Gvr) -> bool {
        self.list.iter().any(|r| r.gvr == *gvr)
    }

    /// The kind of a served resource.
    pub(crate) fn kind_of(&self, gvr: &Gvr) -> Option<&str> {
        self.list.iter().find(|r| r.gvr == *gvr).map(|r| r.gvk.kind.as_ref())
    }

    /// The resource of a kind; the version is not compared, since objects are the same in all.
    pub(crate) fn by_kind(&self, api_version: &str, kind: &str) -> Option<&ApiResource> {
        let (group, _) = split_api_version(api_version);
        let found = self.kinds.get(kind)?.iter().filter_map(|at| self.list.get(*at));
        found.into_iter().find(|r| r.gvk.group == group)
    }
}

fn is_collectable(resource: &ApiResource) -> bool {
    resource.deletable && resource.gvr.resource != "events"
}
