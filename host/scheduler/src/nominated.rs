//! Pods that are to come to a node: evictions made room for them there.
//!
//! A node's nominated pods count, for pods that are not more important, as if they were placed.

use crate::pod::Uid;
use std::collections::HashMap;
use std::sync::Arc;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Nominated {
    by_node: HashMap<Arc<str>, Vec<(Uid, i32)>>,
    by_pod: HashMap<Uid, Arc<str>>,
}

impl Nominated {
    /// Puts a pod down for a node, and for no other.
    pub(crate) fn put(&mut self, uid: &Uid, node: &Arc<str>, priority: i32) {
        self.remove(uid);
        self.by_pod.insert(uid.clone(), node.clone());
        self.by_node.entry(node.clone()).or_default().push((uid.clone(), priority));
    }

    /// Forgets a pod.
    pub(crate) fn remove(&mut self, uid: &Uid) {
        let Some(node) = self.by_pod.remove(uid) else { return };
        if let Some(pods) = self.by_node.get_mut(&node) {
            pods.retain(|(pod, _)| pod != uid);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }

    /// Where the pod is to go.
    pub(crate) fn node_of(&self, uid: &Uid) -> Option<&Arc<str>> {
        self.by_pod.get(uid)
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_pod.is_empty()
    }

    /// Nodes with nominated pods.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_node.keys()
    }

    /// The pods, other than `uid`, that are nominated for `node` and matter to a pod of `priority`.
    pub(crate) fn at_least(&self, node: &str, priority: i32, uid: &Uid) -> impl Iterator<Item = &Uid> {
        let pods = self.by_node.get(node).map_or(&[][..], |pods| pods);
        pods.iter().filter(move |(pod, p)| *p >= priority && pod != uid).map(|(pod, _)| pod)
    }

    /// The pods that are nominated for `node` and less important than `priority`.
    pub(crate) fn below(&self, node: &str, priority: i32) -> Vec<Uid> {
        let pods = self.by_node.get(node).map_or(&[][..], |pods| pods);
        pods.iter().filter(|(_, p)| *p < priority).map(|(pod, _)| pod.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_nominated_for_one_node() {
        let mut nominated = Nominated::default();
        let (a, b, pod, low): (Arc<str>, Arc<str>, Uid, Uid) =
            ("a".into(), "b".into(), "pod".into(), "low".into());
        nominated.put(&pod, &a, 5);
        nominated.put(&pod, &b, 5);
        nominated.put(&low, &b, 1);
        assert_eq!(nominated.node_of(&pod), Some(&b));
        assert_eq!(nominated.at_least("a", 0, &low).count(), 0);
        assert_eq!(nominated.at_least("b", 5, &low).collect::<Vec<_>>(), [&pod]);
        assert_eq!(nominated.at_least("b", 0, &pod).collect::<Vec<_>>(), [&low]);
        assert_eq!(nominated.below("b", 5), std::slice::from_ref(&low));
        nominated.remove(&pod);
        nominated.remove(&low);
        assert!(nominated.is_empty() && nominated.nodes().next().is_none());
    }
}
