//! Profiles as users write them.

use super::*;

fn known() -> Vec<String> {
    DEFAULT_PLUGINS.iter().map(|(name, _)| (*name).to_owned()).chain(["Custom".to_owned()]).collect()
}

fn parse(profiles: &str) -> Result<SchedulerConfig, String> {
    let yaml =
        format!("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n{profiles}");
    SchedulerConfig::parse(&yaml, &known()).map_err(|e| e.to_string())
}

fn plugin<'a>(config: &'a SchedulerConfig, name: &str) -> Option<&'a PluginSpec> {
    config.profiles[0].plugins.iter().find(|p| p.name == name)
}

#[test]
fn the_file_that_we_ship_is_the_default() {
    let shipped = SchedulerConfig::parse(DEFAULT_CONFIG, &known()).unwrap();
    assert_eq!(shipped.profiles.len(), 1);
    let names: Vec<&str> = shipped.profiles[0].plugins.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, DEFAULT_PLUGINS.map(|(name, _)| name));
    assert_eq!(plugin(&shipped, "TaintToleration").unwrap().weight, 3);
    assert_eq!(plugin(&shipped, "NodeName").unwrap().weight, 1);
    assert_eq!(shipped.backoff, Backoff::default());
    assert_eq!(shipped.profiles[0].orders, []);
}

#[test]
fn a_default_plugin_that_does_not_exist_is_left_out() {
    let known = ["NodeName".to_owned(), "TaintToleration".to_owned()];
    let config = SchedulerConfig::parse(DEFAULT_CONFIG, &known).unwrap();
    let names: Vec<&str> = config.profiles[0].plugins.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["NodeName", "TaintToleration"]);
}

#[test]
fn points_have_an_order_of_their_own() {
    let config = parse(
        "profiles:
- plugins:
    multiPoint: {enabled: [{name: Custom}, {name: NodeAffinity}]}
    filter: {enabled: [{name: TaintToleration}, {name: NodeName}], disabled: [{name: NodePorts}]}
    score: {enabled: [{name: Custom, weight: 4}, {name: ImageLocality}]}
    permit: {disabled: [{name: Custom}]}
    postFilter: {disabled: [{name: '*'}], enabled: [{name: Custom}]}
",
    )
    .unwrap();
    let names: Vec<&str> = config.profiles[0].plugins.iter().map(|p| p.name.as_str()).take(4).collect();
    assert_eq!(names, ["TaintToleration", "NodeName", "SchedulingGates", "PrioritySort"]);
    let ports = plugin(&config, "NodePorts").unwrap().hooks;
    assert!(!ports.has(Hooks::FILTER) && !ports.has(Hooks::OVERLAY) && ports.has(Hooks::SCORE));
    // A default plugin that is configured again without a weight counts once.
    assert_eq!(plugin(&config, "NodeAffinity").unwrap().weight, 1);
    let custom = plugin(&config, "Custom").unwrap();
    assert_eq!(custom.weight, 4);
    assert!(custom.hooks.has(Hooks::RESERVE) && !custom.hooks.has(Hooks::PERMIT));
    assert!(custom.hooks.has(Hooks::POST_FILTER));
    assert!(!plugin(&config, "DefaultPreemption").unwrap().hooks.has(Hooks::POST_FILTER));
    let [scores, ..] = &config.profiles[0].orders[..] else { panic!("scores have their own order") };
    assert_eq!(
        (scores.0, &scores.1[..2]),
        (Hooks::SCORE, &["Custom".to_owned(), "ImageLocality".to_owned()][..])
    );
}

#[test]
fn weights_disabling_and_additions() {
    let config = parse(
        "profiles:
- schedulerName: mine
  percentageOfNodesToScore: 10
  plugins:
    multiPoint:
      enabled: [{name: Custom, weight: 7}]
      disabled: [{name: ImageLocality}]
    score:
      disabled: [{name: TaintToleration}]
      enabled: [{name: NodeAffinity, weight: 9}]
  pluginConfig:
  - name: Custom
    args: {apiVersion: v1, kind: CustomArgs, x: 1}
",
    )
    .unwrap();
    assert_eq!(config.profiles[0].scheduler_name, "mine");
    assert_eq!(plugin(&config, "ImageLocality"), None);
    let taints = plugin(&config, "TaintToleration").unwrap();
    assert_eq!((taints.hooks.has(Hooks::FILTER), taints.hooks.has(Hooks::SCORE)), (true, false));
    assert_eq!(plugin(&config, "NodeAffinity").unwrap().weight, 9);
    let custom = plugin(&config, "Custom").unwrap();
    assert_eq!((custom.weight, custom.args.clone()), (7, serde_json::json!({"x": 1})));
}

#[test]
fn everything_off_but_one() {
    let config = parse(
        "profiles:
- plugins:
    multiPoint: {disabled: [{name: '*'}]}
    filter: {enabled: [{name: NodeName}]}
",
    )
    .unwrap();
    let [only] = &config.profiles[0].plugins[..] else { panic!("more than one") };
    assert_eq!(
        (only.name.as_str(), only.hooks.has(Hooks::FILTER), only.hooks.has(Hooks::SCORE)),
        ("NodeName", true, false)
    );
}

#[test]
fn mistakes_are_named() {
    for (yaml, says) in [
        ("profiles: [{plugins: {multiPoint: {enabled: [{name: Nope}]}}}]", "plugin \"Nope\" does not exist"),
        ("profiles: [{}, {}]", "profiles[1].schedulerName: Duplicate value"),
        ("extenders: [{urlPrefix: x}]", "extenders: not supported"),
        ("podInitialBackoffSeconds: 20", "podMaxBackoffSeconds"),
        ("profiles: [{nope: 1}]", "malformed"),
        ("percentageOfNodesToScore: 101", "range"),
        ("profiles: [{plugins: {nope: {}}}]", "malformed"),
        (
            "profiles: [{plugins: {multiPoint: {enabled: [{name: Custom}, {name: Custom}]}}}]",
            "already registered",
        ),
        ("profiles: [{plugins: {queueSort: {enabled: [{name: Custom}, {name: PrioritySort}]}}}]", "only one"),
        (
            "profiles: [{plugins: {score: {enabled: [{name: Custom, weight: -1}]}}}]",
            "score.enabled[0]: weight",
        ),
    ] {
        let error = parse(yaml).unwrap_err();
        assert!(error.contains(says), "{yaml}: {error}");
    }
}
