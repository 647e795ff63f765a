//! Why a class fits nowhere, in Kubernetes' words.

use crate::preemption::Preemption;

/// Why a class fits nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// How many nodes there are.
    pub nodes: u32,
    /// Rejected as a whole, before any node was looked at.
    pub rejected: Option<String>,
    /// How many nodes gave which reason; a node may give several.
    pub reasons: Vec<(String, u32)>,
    /// Nodes where evicting pods cannot help.
    pub unresolvable: u32,
    /// The other nodes, as a packed bit set over slots.
    pub resolvable: Vec<u64>,
    /// What may help.
    pub events: crate::framework::EventSet,
}

impl Unfit {
    /// The message of the condition and of the event, in Kubernetes' words.
    #[must_use]
    pub fn message(&self, preemption: &Preemption) -> String {
        let nodes = self.nodes;
        if nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut message = format!("0/{nodes} nodes are available:");
        if let Some(rejected) = &self.rejected {
            message.push_str(&format!(" {rejected}."));
        } else {
            message.push_str(&format!(" {}.", histogram(self.reasons.iter().cloned())));
        }
        match preemption {
            Preemption::Unavailable | Preemption::Found => {}
            Preemption::Ineligible(why) => message.push_str(&format!(" preemption: {why}")),
            Preemption::NotFound(reasons) => {
                let reasons = histogram(reasons.iter().cloned());
                message.push_str(&format!(
                    " no new claims to deallocate, preemption: 0/{nodes} nodes are available: {reasons}."
                ));
            }
        }
        message
    }
}

fn histogram(reasons: impl Iterator<Item = (String, u32)>) -> String {
    let mut texts: Vec<String> = reasons.map(|(text, nodes)| format!("{nodes} {text}")).collect();
    texts.sort();
    texts.join(", ")
}
