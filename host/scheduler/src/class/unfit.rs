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
    /// Whether the profile also looks for claims that could be given up, which is told with the rest.
    pub deallocates: bool,
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
        let preemption = match preemption {
            Preemption::Found => return message,
            Preemption::Unavailable => None,
            Preemption::Ineligible(why) => Some(format!("preemption: {why}")),
            Preemption::NotFound(reasons) => {
                let reasons = histogram(reasons.iter().cloned());
                Some(format!("preemption: 0/{nodes} nodes are available: {reasons}."))
            }
        };
        let claims = self.deallocates.then(|| "no new claims to deallocate".to_owned());
        let tried: Vec<String> = claims.into_iter().chain(preemption).collect();
        if !tried.is_empty() {
            message.push_str(&format!(" {}", tried.join(", ")));
        }
        message
    }
}

fn histogram(reasons: impl Iterator<Item = (String, u32)>) -> String {
    let mut texts: Vec<String> = reasons.map(|(text, nodes)| format!("{nodes} {text}")).collect();
    texts.sort();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::EventSet;

    #[test]
    fn what_was_tried_after_the_filters_is_told_in_one_sentence() {
        let mut unfit = Unfit {
            nodes: 3,
            rejected: None,
            reasons: vec![("Insufficient cpu".into(), 2), ("Too many pods".into(), 1)],
            unresolvable: 0,
            resolvable: Vec::new(),
            deallocates: true,
            events: EventSet::NONE,
        };
        let never = Preemption::Ineligible("not eligible due to preemptionPolicy=Never.".into());
        let filters = "0/3 nodes are available: 1 Too many pods, 2 Insufficient cpu.";
        let claims = "no new claims to deallocate";
        let preemption = "preemption: not eligible due to preemptionPolicy=Never.";
        assert_eq!(unfit.message(&never), format!("{filters} {claims}, {preemption}"));
        assert_eq!(unfit.message(&Preemption::Unavailable), format!("{filters} {claims}"));
        unfit.deallocates = false;
        assert_eq!(unfit.message(&never), format!("{filters} {preemption}"));
        assert_eq!(unfit.message(&Preemption::Unavailable), filters);
    }
}
