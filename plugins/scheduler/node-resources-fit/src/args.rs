//! `NodeResourcesFitArgs`

use orlop_sdk::serde::Deserialize;

/// One resource and its weight.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(crate = "orlop_sdk::serde", deny_unknown_fields)]
pub(crate) struct ResourceSpec {
    pub(crate) name: String,
    #[serde(default = "one")]
    pub(crate) weight: i64,
}

const fn one() -> i64 {
    1
}

#[derive(Clone, Debug, Deserialize)]
#[serde(crate = "orlop_sdk::serde", rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Strategy {
    r#type: String,
    pub(crate) resources: Vec<ResourceSpec>,
}

impl Default for Strategy {
    fn default() -> Self {
        Self { r#type: "LeastAllocated".to_owned(), resources: Vec::new() }
    }
}

/// The arguments.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(crate = "orlop_sdk::serde", rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Args {
    ignored_resources: Vec<String>,
    ignored_resource_groups: Vec<String>,
    pub(crate) scoring_strategy: Strategy,
}

impl Args {
    /// Reads and checks the arguments, and fills in defaults.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let mut args: Self = orlop_sdk::parse_config(json)?;
        let strategy = &mut args.scoring_strategy;
        if !matches!(strategy.r#type.as_str(), "LeastAllocated" | "MostAllocated") {
            return Err(format!(
                "scoringStrategy.type: {:?} is not supported, want LeastAllocated or MostAllocated",
                strategy.r#type
            ));
        }
        if strategy.resources.is_empty() {
            let spec = |name: &str| ResourceSpec { name: name.to_owned(), weight: 1 };
            strategy.resources = vec![spec("cpu"), spec("memory")];
        }
        for (i, resource) in strategy.resources.iter_mut().enumerate() {
            if resource.weight == 0 {
                resource.weight = 1;
            }
            if !(1..=100).contains(&resource.weight) {
                let name = &resource.name;
                return Err(format!("scoringStrategy.resources[{i}].weight: of {name:?} must be 1 to 100"));
            }
        }
        if let Some(group) = args.ignored_resource_groups.iter().find(|g| g.contains('/')) {
            return Err(format!("ignoredResourceGroups: resource group name can't contain '/': {group:?}"));
        }
        Ok(args)
    }

    /// Whether the most requested node is the best.
    pub(crate) fn prefers_most(&self) -> bool {
        self.scoring_strategy.r#type == "MostAllocated"
    }

    /// Whether CPU and memory count, equally, and the emptier node is preferred.
    pub(crate) fn are_usual(&self) -> bool {
        let weight =
            |name: &str| self.scoring_strategy.resources.iter().find(|r| r.name == name).map(|r| r.weight);
        !self.prefers_most()
            && self.scoring_strategy.resources.len() == 2
            && weight("cpu").is_some()
            && weight("cpu") == weight("memory")
    }

    /// Whether an extended resource is not looked at.
    pub(crate) fn ignores(&self, resource: &str) -> bool {
        let group = resource.split_once('/').map_or("", |(group, _)| group);
        self.ignored_resources.iter().any(|r| r == resource)
            || self.ignored_resource_groups.iter().any(|g| g == group)
    }
}
