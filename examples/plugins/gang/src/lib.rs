//! Gang: pods with the label `gang: NAME` and the annotation `gang-size: N` are bound when N pods of
//! the gang have a node, and until then wait with their node kept for them.
//!
//! Where one of them gives up, by the timeout or for any other reason, all that wait go back to the
//! queue together, so that two gangs that are each half placed do not block one another for ever.

mod members;

use members::{Members, Name, gang};
use orlop_sdk::scheduler::{
    Asked, BatchPlugin, Decision, Delta, Mirror, Placement, Prepared, Reason, Synced, Verdict,
};
use orlop_sdk::serde::Deserialize;
use orlop_sdk::serde_json::Value;
use std::collections::HashMap;
use std::time::Duration;

#[derive(Deserialize)]
#[serde(crate = "orlop_sdk::serde", rename_all = "camelCase", deny_unknown_fields, default)]
struct Arguments {
    /// How long a pod waits for the others.
    timeout_seconds: u64,
}

impl Default for Arguments {
    fn default() -> Self {
        Self { timeout_seconds: 30 }
    }
}

/// The plugin.
pub struct Gang {
    timeout: Duration,
    mirror: Mirror,
    /// Those that have a node.
    members: Members,
    /// Numbers of the pods that wait, by gang.
    waiting: HashMap<Name, Vec<u64>>,
}

/// How many pods make the gang.
fn size(pod: &Value) -> Result<u64, String> {
    let text = pod.pointer("/metadata/annotations/gang-size").and_then(Value::as_str);
    let text = text.ok_or("it has the label gang, but no annotation gang-size")?;
    let size = text.parse().ok().filter(|size| *size > 0);
    size.ok_or_else(|| format!("annotation gang-size: `{text}` is no number above 0"))
}

impl BatchPlugin for Gang {
    fn new(args: &[u8]) -> Result<Self, String> {
        let arguments: Arguments = orlop_sdk::parse_config(args)?;
        let timeout = Duration::from_secs(arguments.timeout_seconds);
        Ok(Self { timeout, mirror: Mirror::default(), members: Members::default(), waiting: HashMap::new() })
    }

    fn sync(&mut self, delta: Delta) -> Synced {
        if delta.full {
            self.members = Members::default();
        }
        let before = self.mirror.exchange(delta);
        self.members.update(&before, &self.mirror);
        Synced::rows(self.mirror.checksum())
    }

    // Pods without a gang are let through here, and the host does not call `permit` for them.
    fn prepare(&mut self, _class: u32, pod: &Value) -> Result<Prepared, String> {
        if gang(pod).is_none() {
            return Ok(Prepared::skip());
        }
        Ok(match size(pod) {
            Ok(_) => Prepared { skip_filter: true, skip_score: true, ..Prepared::default() },
            Err(why) => Prepared::reject(Reason::unresolvable(why)),
        })
    }

    fn release(&mut self, _class: u32) {}

    fn filter(&mut self, _class: u32, rows: &[u32]) -> Vec<u64> {
        Asked::new(rows, self.mirror.slots()).mask(|slot| self.mirror.is_live(slot))
    }

    // The pod itself, and those that wait, are among the members already: the host placed them.
    fn permit(&mut self, placement: Placement) -> (Verdict, Vec<Decision>) {
        let Some(name) = gang(&placement.fields) else { return (Verdict::Allow, Vec::new()) };
        let wanted = match size(&placement.fields) {
            Ok(wanted) => wanted,
            Err(why) => return (Verdict::reject(why), Vec::new()),
        };
        let there = self.members.of(&name);
        if there >= wanted {
            let waiting = self.waiting.remove(&name).unwrap_or_default();
            return (Verdict::Allow, waiting.into_iter().map(Decision::allow).collect());
        }
        let why = format!("waits for its gang {}: {there} of {wanted} pods have a node", name.1);
        self.waiting.entry(name).or_default().push(placement.pod);
        (Verdict::wait(self.timeout, why), Vec::new())
    }

    fn unreserve(&mut self, placement: Placement) -> Vec<Decision> {
        let Some(name) = gang(&placement.fields) else { return Vec::new() };
        let waiting = self.waiting.remove(&name).unwrap_or_default();
        let why = format!("its gang {} did not get together: {} gave up", name.1, placement.name);
        let others = waiting.into_iter().filter(|pod| *pod != placement.pod);
        others.map(|pod| Decision::reject(pod, why.clone())).collect()
    }
}

orlop_sdk::export_scheduler!(Gang);

#[cfg(test)]
mod tests;
