//! The batch interface.

use super::{
    Binder, CandidatePods, Decision, Delta, Explanation, ObjectChange, Placement, Prepared, Stale, Synced,
    Verdict,
};
use crate::controller::Write;
use serde_json::Value;

/// The batch interface: the interfaces of `orlop:scheduler` in Rust's terms. One value per instance.
///
/// Order and meaning of the calls are those of `wit/scheduler/scheduler.wit`. A hook is called only
/// where the manifest declares it: implement those, and leave the others at their defaults.
///
/// ```
/// use orlop_sdk::scheduler::{
///     Asked, BatchPlugin, Decision, Delta, Mirror, Placement, Prepared, Synced, Verdict, column,
/// };
/// use orlop_sdk::serde_json::Value;
/// use std::time::Duration;
///
/// /// Pods fit where less than ten pods are; each waits until a second one comes to its node.
/// #[derive(Default)]
/// struct Pairs {
///     mirror: Mirror,
///     waiting: Vec<Placement>,
/// }
///
/// impl BatchPlugin for Pairs {
///     fn new(_args: &[u8]) -> Result<Self, String> {
///         Ok(Self::default())
///     }
///
///     fn sync(&mut self, delta: Delta) -> Synced {
///         self.mirror.apply(delta);
///         Synced::rows(self.mirror.checksum())
///     }
///
///     fn prepare(&mut self, _class: u32, _pod: &Value) -> Result<Prepared, String> {
///         Ok(Prepared { skip_score: true, ..Prepared::default() })
///     }
///
///     fn release(&mut self, _class: u32) {}
///
///     fn filter(&mut self, _class: u32, rows: &[u32]) -> Vec<u64> {
///         let pods = self.mirror.s64(column::REQUESTED_PODS);
///         Asked::new(rows, self.mirror.slots()).mask(|slot| pods.get(slot).is_some_and(|n| *n < 10))
///     }
///
///     fn permit(&mut self, placement: Placement) -> (Verdict, Vec<Decision>) {
///         match self.waiting.iter().position(|w| w.slot == placement.slot) {
///             Some(at) => (Verdict::Allow, vec![Decision::allow(self.waiting.swap_remove(at).pod)]),
///             None => {
///                 self.waiting.push(placement);
///                 (Verdict::wait(Duration::from_secs(60), "waits for a second pod"), Vec::new())
///             }
///         }
///     }
///
///     fn unreserve(&mut self, placement: Placement) -> Vec<Decision> {
///         self.waiting.retain(|w| w.pod != placement.pod);
///         Vec::new()
///     }
/// }
/// ```
pub trait BatchPlugin: 'static {
    /// Reads the arguments: a JSON object.
    ///
    /// # Errors
    /// A message for the user; the arguments are refused.
    fn new(args: &[u8]) -> Result<Self, String>
    where
        Self: Sized;

    /// Checks what can be checked without input.
    ///
    /// # Errors
    /// A message for the user; the plugin is not activated.
    fn self_test(&self) -> Result<(), String> {
        Ok(())
    }

    /// Brings the mirror up to date.
    fn sync(&mut self, delta: Delta) -> Synced;

    /// Introduces a class.
    ///
    /// # Errors
    /// A message for the user; pods of the class stay Pending with it.
    fn prepare(&mut self, class: u32, pod: &Value) -> Result<Prepared, String>;

    /// Forgets a class.
    fn release(&mut self, class: u32);

    /// One bit per row asked for, or per slot where `rows` is empty.
    fn filter(&mut self, class: u32, rows: &[u32]) -> Vec<u64> {
        let _ = (class, rows);
        Vec::new()
    }

    /// 0 to 100 per row asked for, or per slot where `rows` is empty.
    fn score(&mut self, class: u32, rows: &[u32]) -> Vec<u8> {
        let _ = (class, rows);
        Vec::new()
    }

    /// As `score`, before the normalisation that the manifest names.
    fn score_raw(&mut self, class: u32, rows: &[u32]) -> Vec<i64> {
        let _ = (class, rows);
        Vec::new()
    }

    /// The plugin's own normalisation, 0 to 100 per slot.
    fn normalize(&mut self, class: u32, feasible: &[u64], raw: &[i64]) -> Vec<u8> {
        let _ = (class, feasible, raw);
        Vec::new()
    }

    /// Why `filter` rejected these rows.
    fn explain(&mut self, class: u32, rows: &[u32]) -> Explanation {
        let _ = class;
        let mut explanation = Explanation::default();
        rows.iter().for_each(|_| explanation.end_row());
        explanation
    }

    /// Hook `overlay`: as `filter` for the rows of `delta`, if each of them on its own had these values;
    /// one bit per row. The mirror stays as it is: see [`Mirror::overlay`](super::Mirror::overlay).
    fn overlay(&mut self, class: u32, delta: Delta) -> Vec<u64> {
        let _ = (class, delta);
        Vec::new()
    }

    /// Takes in what changed of the watched objects; `full`: forget all others first (many come in several
    /// calls, the first of them with `full`, and nothing is asked before the last). Answers the classes
    /// for which any row may have a new answer; those that said
    /// [`reads_objects`](Prepared::reads_objects) are prepared again anyhow.
    fn objects(&mut self, full: bool, changes: Vec<ObjectChange>) -> Stale {
        let _ = (full, changes);
        Stale::Nothing
    }

    /// Hook `pre-enqueue`: why the pod may not be tried, where it may not.
    fn pre_enqueue(&mut self, pod: &Value) -> Option<String> {
        let _ = pod;
        None
    }

    /// Hook `queue-sort`: the pod with the lower key is tried first.
    fn sort_key(&mut self, pod: &Value) -> Vec<i64> {
        let _ = pod;
        Vec::new()
    }

    /// Hook `reserve`: books the pod.
    ///
    /// # Errors
    /// Why the pod goes back to the queue, after [`BatchPlugin::unreserve`].
    fn reserve(&mut self, placement: Placement) -> Result<(), String> {
        let _ = placement;
        Ok(())
    }

    /// Takes `reserve` back, whether it was called for this pod or not; answers what is to become of
    /// other pods that wait.
    fn unreserve(&mut self, placement: Placement) -> Vec<Decision> {
        let _ = placement;
        Vec::new()
    }

    /// Hook `permit`: whether the pod may be bound now, and what is to become of other pods that wait.
    fn permit(&mut self, placement: Placement) -> (Verdict, Vec<Decision>) {
        let _ = placement;
        (Verdict::Allow, Vec::new())
    }

    /// Hook `pre-bind`: what the host has to write before the binding. Asked again after a watched
    /// object changed where the verdict is to wait.
    fn pre_bind(&mut self, placement: Placement) -> (Verdict, Vec<Write>) {
        let _ = placement;
        (Verdict::Allow, Vec::new())
    }

    /// Hook `bind`: who binds the pod.
    fn bind(&mut self, placement: Placement) -> Binder {
        let _ = placement;
        Binder::Next
    }

    /// Hook `post-bind`: the pod is bound. For books only.
    fn post_bind(&mut self, placement: Placement) {
        let _ = placement;
    }

    /// Hook `post-filter`: whether the pod may evict others, and on how many of `nodes` nodes this is
    /// tried at most. `terminating`: pods of lower priority are being deleted already on the node that
    /// was nominated for it.
    ///
    /// # Errors
    /// Why it may not.
    fn eligible(&mut self, pod: &Value, nodes: u32, terminating: bool) -> Result<u32, String> {
        let _ = (pod, nodes, terminating);
        Err("the plugin does not preempt".to_owned())
    }

    /// Hook `post-filter`: positions of the pods that may be evicted, candidate after candidate, in the
    /// order in which the host tries to spare them.
    fn victims(&mut self, pod: &Value, pods: &CandidatePods) -> Vec<u32> {
        let _ = (pod, pods);
        Vec::new()
    }

    /// Hook `post-filter`: position of the best candidate, given the victims that are left on each.
    fn choose(&mut self, pod: &Value, victims: &CandidatePods) -> u32 {
        let _ = (pod, victims);
        0
    }
}
