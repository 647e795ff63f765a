//! The outside of a pod worker: what others tell it, and what it tells them.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// A pod as its source says.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    /// Without status.
    pub(crate) pod: Arc<Pod>,
    /// The API object that carries the status: the pod itself, or a static pod's mirror.
    pub(crate) api: Option<ApiSide>,
}

/// The API object of a pod, as last seen.
#[derive(Clone, Debug)]
pub(crate) struct ApiSide {
    pub(crate) uid: String,
    pub(crate) resource_version: u64,
    pub(crate) status: PodStatus,
}

#[derive(Default)]
pub(super) struct Inbox {
    pub(super) update: Option<Update>,
    pub(super) gone: bool,
    pub(super) containers: BTreeSet<Box<str>>,
    pub(super) sandboxes: BTreeSet<Box<str>>,
    pub(super) sources: bool,
    pub(super) failure: Option<(&'static str, Box<str>)>,
}

/// What the worker tells others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    pub(crate) pod: Arc<Pod>,
    pub(crate) status: Option<Arc<PodStatus>>,
    pub(crate) sandbox_id: Option<Box<str>>,
    pub(crate) containers: Vec<PublishedContainer>,
    /// The pod is over: all its containers are done for good.
    pub(crate) over: bool,
}

/// One container of a [`Published`] pod.
#[derive(Clone, Debug)]
pub(crate) struct PublishedContainer {
    pub(crate) name: String,
    pub(crate) tty: bool,
    /// Newest instance: id, attempt, whether it runs.
    pub(crate) current: Option<(Box<str>, u32, bool)>,
    /// The one before.
    pub(crate) previous: Option<u32>,
}

/// The outside of a worker.
pub(crate) struct Handle {
    pub(crate) uid: Box<str>,
    pub(crate) is_static: bool,
    pub(super) inbox: Mutex<Inbox>,
    pub(super) wake: Notify,
    pub(super) published: watch::Sender<Published>,
}

impl Handle {
    pub(crate) fn new(uid: &str, is_static: bool, pod: Arc<Pod>) -> Arc<Self> {
        let published = watch::Sender::new(Published { pod, ..Published::default() });
        Arc::new(Self { uid: uid.into(), is_static, inbox: Mutex::default(), wake: Notify::new(), published })
    }

    fn post(&self, change: impl FnOnce(&mut Inbox)) {
        change(&mut self.inbox.lock());
        self.wake.notify_one();
    }

    /// The source has a new version of the pod.
    pub(crate) fn update(&self, update: Update) {
        self.post(|inbox| inbox.update = Some(update));
    }

    /// The source no longer has the pod.
    pub(crate) fn gone(&self) {
        self.post(|inbox| inbox.gone = true);
    }

    /// The runtime has something to say about a container.
    pub(crate) fn container_changed(&self, id: &str) {
        self.post(|inbox| {
            inbox.containers.insert(id.into());
        });
    }

    /// The runtime has something to say about a sandbox.
    pub(crate) fn sandbox_changed(&self, id: &str) {
        self.post(|inbox| {
            inbox.sandboxes.insert(id.into());
        });
    }

    /// A ConfigMap or Secret of the pod changed.
    pub(crate) fn sources_changed(&self) {
        self.post(|inbox| inbox.sources = true);
    }

    /// The node refuses or evicts the pod.
    pub(crate) fn fail(&self, reason: &'static str, message: &str) {
        self.post(|inbox| inbox.failure = Some((reason, message.into())));
    }

    /// What the worker last told.
    pub(crate) fn published(&self) -> Published {
        self.published.borrow().clone()
    }

    #[cfg(test)]
    pub(crate) fn publish_for_tests(&self, container: &str, id: &str) {
        self.published.send_modify(|p| {
            p.sandbox_id = Some("sandbox".into());
            p.containers = vec![PublishedContainer {
                name: container.to_owned(),
                tty: false,
                current: Some((id.into(), 0, true)),
                previous: None,
            }];
        });
    }

    /// Follows what the worker tells.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }
}
