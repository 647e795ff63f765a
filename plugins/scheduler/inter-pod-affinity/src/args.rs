//! `InterPodAffinityArgs`

use orlop_sdk::serde::Deserialize;

/// The arguments.
#[derive(Clone, Debug, Deserialize)]
#[serde(crate = "orlop_sdk::serde", rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Args {
    /// What a required affinity of a placed pod is worth in scores.
    pub(crate) hard_pod_affinity_weight: i64,
    /// Pods without preferred terms are not scored.
    pub(crate) ignore_preferred_terms_of_existing_pods: bool,
}

impl Default for Args {
    fn default() -> Self {
        Self { hard_pod_affinity_weight: 1, ignore_preferred_terms_of_existing_pods: false }
    }
}

impl Args {
    /// Reads and checks the arguments.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let args: Self = orlop_sdk::parse_config(json)?;
        match args.hard_pod_affinity_weight {
            0..=100 => Ok(args),
            weight => Err(format!("hardPodAffinityWeight: {weight} is not in the valid range 0 to 100")),
        }
    }
}
