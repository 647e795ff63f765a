//! `PodTopologySpreadArgs`

use orlop_sdk::serde::Deserialize;
use orlop_sdk::serde_json::{Value, json};

#[derive(Debug, Default, Deserialize)]
#[serde(crate = "orlop_sdk::serde", rename_all = "camelCase", deny_unknown_fields, default)]
struct Args {
    default_constraints: Vec<Value>,
    defaulting_type: Option<String>,
}

/// Constraints of pods that have none of their own.
#[derive(Debug, PartialEq)]
pub(crate) struct Defaults {
    /// As in a pod, without selectors.
    pub(crate) constraints: Vec<Value>,
    /// Nodes that miss a label are scored all the same.
    pub(crate) lenient: bool,
}

impl Defaults {
    /// Reads and checks the arguments.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let args: Args = orlop_sdk::parse_config(json)?;
        match args.defaulting_type.as_deref() {
            None | Some("" | "System") if args.default_constraints.is_empty() => Ok(Self {
                constraints: vec![
                    system("kubernetes.io/hostname", 3),
                    system("topology.kubernetes.io/zone", 5),
                ],
                lenient: true,
            }),
            None | Some("" | "System") => {
                Err("defaultConstraints: must be empty where defaultingType is System; set it to List".into())
            }
            Some("List") => {
                check(&args.default_constraints)?;
                Ok(Self { constraints: args.default_constraints, lenient: false })
            }
            Some(other) => Err(format!("defaultingType: {other:?} is not supported, want System or List")),
        }
    }
}

fn system(key: &str, max_skew: i64) -> Value {
    json!({"topologyKey": key, "maxSkew": max_skew, "whenUnsatisfiable": "ScheduleAnyway"})
}

fn check(constraints: &[Value]) -> Result<(), String> {
    let text = |c: &Value, key: &str| c.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let pair = |c: &Value| (text(c, "topologyKey"), text(c, "whenUnsatisfiable"));
    for (i, constraint) in constraints.iter().enumerate() {
        let at = |field: &str| format!("defaultConstraints[{i}].{field}");
        let (key, action) = pair(constraint);
        if constraint.get("maxSkew").and_then(Value::as_i64).unwrap_or(0) <= 0 {
            return Err(format!("{}: not in the valid range (0, inf)", at("maxSkew")));
        }
        if key.is_empty() {
            return Err(format!("{}: can not be empty", at("topologyKey")));
        }
        if !matches!(action.as_str(), "DoNotSchedule" | "ScheduleAnyway") {
            let field = at("whenUnsatisfiable");
            return Err(format!(
                "{field}: {action:?} is not supported, want DoNotSchedule or ScheduleAnyway"
            ));
        }
        if constraint.get("labelSelector").is_some_and(|s| !s.is_null()) {
            let field = at("labelSelector");
            return Err(format!(
                "{field}: constraint must not define a selector, as they deduced for each pod"
            ));
        }
        if constraints.iter().take(i).any(|other| pair(other) == pair(constraint)) {
            return Err(format!("defaultConstraints[{i}]: {key} with {action} is there twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &Value) -> Result<Defaults, String> {
        Defaults::parse(args.to_string().as_bytes())
    }

    #[test]
    fn system_is_the_default() {
        let system = parse(&json!({})).unwrap();
        assert!(system.lenient);
        assert_eq!(system.constraints.len(), 2);
        assert_eq!(parse(&json!({"defaultingType": "System"})).unwrap(), system);
        let none = parse(&json!({"defaultingType": "List"})).unwrap();
        assert_eq!(none, Defaults { constraints: Vec::new(), lenient: false });
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_place() {
        let good = json!({"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"});
        let with = |key: &str, value: Value| {
            let mut bad = good.clone();
            bad[key] = value;
            parse(&json!({"defaultingType": "List", "defaultConstraints": [bad]})).unwrap_err()
        };
        assert!(with("maxSkew", json!(0)).starts_with("defaultConstraints[0].maxSkew"));
        assert!(with("topologyKey", json!("")).starts_with("defaultConstraints[0].topologyKey"));
        assert!(with("whenUnsatisfiable", json!("Never")).contains("\"Never\" is not supported"));
        assert!(with("labelSelector", json!({})).starts_with("defaultConstraints[0].labelSelector"));
        let twice = json!({"defaultingType": "List", "defaultConstraints": [good, good]});
        assert!(parse(&twice).unwrap_err().contains("zone with DoNotSchedule is there twice"));
        let system = json!({"defaultConstraints": [good]});
        assert!(parse(&system).unwrap_err().contains("must be empty"));
        assert!(parse(&json!({"defaultingType": "Some"})).unwrap_err().contains("want System or List"));
    }
}
