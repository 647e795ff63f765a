//! Types of one's own: what kubectl and the controllers do with a CustomResourceDefinition.

use anyhow::{Context, Result, ensure};
use orlop_tests::{Cluster, Options, eventually};

const DEFINITION: &str = include_str!("widgets.yaml");

fn widget(name: &str, spec: &str) -> String {
    format!("apiVersion: example.com/v1\nkind: Widget\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

fn start() -> Result<Cluster> {
    let c = Cluster::start_with(Options { without_image: true, ..Options::default() })?;
    let out = c.apply(DEFINITION)?;
    ensure!(
        out.contains("customresourcedefinition.apiextensions.k8s.io/widgets.example.com created"),
        "{out}"
    );
    c.kubectl(&["wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=30s"])?;
    Ok(c)
}

fn refused(c: &Cluster, manifest: &str, why: &str) -> Result<()> {
    let out = c.try_apply(manifest)?;
    ensure!(!out.success && out.stderr.contains(why), "{why} is not in {out:?}");
    Ok(())
}

#[test]
fn kubectl_works_on_a_custom_type_as_on_any_other() -> Result<()> {
    let c = start()?;
    let again = c.apply(DEFINITION)?;
    ensure!(again.contains("unchanged"), "{again}");

    refused(&c, &widget("a", "size: 11"), "spec.size: Invalid value: 11")?;
    refused(&c, &widget("a", "color: blue"), "spec.size: Required value")?;
    refused(&c, &widget("a", "size: 1, color: green"), "supported values: \"red\", \"blue\"")?;
    refused(&c, &widget("a", "size: 1, weight: 2"), "unknown field \"spec.weight\"")?;
    let out = c.apply(&widget("a", "size: 2, parts: [{id: x, weight: 1}]"))?;
    ensure!(out.contains("widget.example.com/a created"), "{out}");
    let out = c.apply(&widget("a", "size: 3, parts: [{id: x, weight: 1}]"))?;
    ensure!(out.contains("configured"), "{out}");
    ensure!(c.jsonpath(&["wd", "a"], "{.spec.color}/{.metadata.generation}")? == "red/2");
    c.apply(&widget("b", "size: 5, color: blue"))?;

    let table = c.kubectl(&["get", "widgets", "-o", "wide"])?;
    let heads: Vec<&str> = table.lines().next().context("a table")?.split_whitespace().collect();
    ensure!(heads == ["NAME", "SIZE", "PHASE", "COLOR", "AGE"], "{table}");
    let blue = c.kubectl(&["get", "wd", "--field-selector=spec.color=blue", "-o", "name"])?;
    ensure!(blue.trim() == "widget.example.com/b", "{blue}");
    let all = c.kubectl(&["get", "all", "-o", "name"])?;
    ensure!(all.contains("widget.example.com/a"), "{all}");
    let out =
        c.try_kubectl(&["get", "widgets.v1beta1.example.com", "a", "-o", "jsonpath={.apiVersion} {.spec}"])?;
    ensure!(
        out.stdout == r#"example.com/v1beta1 {"size":3}"# && out.stderr.contains("deprecated"),
        "{out:?}"
    );

    let explained = c.kubectl(&["explain", "widget.spec"])?;
    ensure!(
        explained.contains("How big it is, in inches.") && explained.contains("-required-"),
        "{explained}"
    );
    let resources = c.kubectl(&["api-resources", "--api-group=example.com"])?;
    ensure!(
        resources.contains("widgets") && resources.contains("wd") && resources.contains("Widget"),
        "{resources}"
    );

    // Part by part, each by whom it belongs to.
    let part = |manager: &str, id: &str| -> Result<()> {
        let file = c.dir().join(format!("{manager}.yaml"));
        std::fs::write(&file, widget("a", &format!("size: 3, parts: [{{id: {id}, weight: 7}}]")))?;
        let manager = format!("--field-manager={manager}");
        c.kubectl(&["apply", "--server-side", &manager, "-f", &file.to_string_lossy()]).map(drop)
    };
    part("one", "p")?;
    part("two", "q")?;
    // kubectl lets the first of them take over what it applied itself before, and that is not wanted now.
    let parts = c.jsonpath(&["wd", "a"], "{.spec.parts[*].id}")?;
    ensure!(parts == "p q", "{parts}");

    let out = c.kubectl(&["scale", "widget/a", "--replicas=4"])?;
    ensure!(out.contains("scaled"), "{out}");
    ensure!(c.jsonpath(&["wd", "a"], "{.spec.replicas}")? == "4");
    let phase = r#"{"status":{"phase":"Made"},"spec":{"size":9}}"#;
    c.kubectl(&["patch", "widget", "a", "--subresource=status", "--type=merge", "-p", phase])?;
    ensure!(c.jsonpath(&["wd", "a"], "{.status.phase} {.spec.size}")? == "Made 3");
    c.kubectl(&["label", "widget", "a", "tier=front"])?;
    let described = c.kubectl(&["describe", "widget", "a"])?;
    ensure!(described.contains("tier=front") && described.contains("Phase:"), "{described}");
    c.kubectl(&["delete", "widgets", "--all", "--timeout=30s"])?;
    ensure!(c.kubectl(&["get", "widgets", "-o", "name"])?.is_empty());
    Ok(())
}

#[test]
fn definitions_and_their_objects_survive_and_change_at_once() -> Result<()> {
    let mut c = start()?;
    c.apply(&widget("a", "size: 2"))?;
    c.kill()?;
    c.restart()?;
    ensure!(c.jsonpath(&["widget", "a"], "{.spec.size} {.spec.color}")? == "2 red");
    refused(&c, &widget("b", "size: 11"), "spec.size: Invalid value: 11")?;

    // A larger maximum and a field more, then without a server that remembers.
    let wider = DEFINITION.replace("maximum: 10", "maximum: 20").replace(
        "              replicas:\n",
        "              label: {type: string, default: none}\n              replicas:\n",
    );
    ensure!(c.apply(&wider)?.contains("configured"));
    c.apply(&widget("b", "size: 11, label: new"))?;
    ensure!(c.jsonpath(&["widgets"], "{.items[*].spec.label}")? == "none new");
    c.stop()?;
    c.restart()?;
    ensure!(c.jsonpath(&["widgets"], "{.items[*].spec.label}")? == "none new");
    // And back: what is not declared any more is not shown any more.
    ensure!(c.apply(&DEFINITION.replace("maximum: 10", "maximum: 20"))?.contains("configured"));
    ensure!(c.jsonpath(&["widget", "b"], "{.spec.size}{.spec.label}")? == "11");

    // While it is being deleted, with an object that is held.
    c.kubectl(&[
        "patch",
        "widget",
        "a",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":["example.com/held"]}}"#,
    ])?;
    c.kubectl(&["delete", "crd", "widgets.example.com", "--wait=false"])?;
    eventually("the other object to go", || {
        Ok((c.kubectl(&["get", "widgets", "-o", "name"])?.trim() == "widget.example.com/a").then_some(()))
    })?;
    c.kill()?;
    c.restart()?;
    let out = c.try_apply(&widget("late", "size: 1"))?;
    ensure!(!out.success, "nothing new is taken: {out:?}");
    c.kubectl(&["patch", "widget", "a", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#])?;
    c.kubectl(&["wait", "--for=delete", "crd/widgets.example.com", "--timeout=60s"])?;
    let out = c.try_kubectl(&["get", "widgets"])?;
    // kubectl may know the type from before.
    let unknown =
        ["the server doesn't have a resource type", "the server could not find the requested resource"];
    ensure!(!out.success && unknown.iter().any(|u| out.stderr.contains(u)), "{out:?}");

    c.apply(DEFINITION)?;
    c.kubectl(&["wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=30s"])?;
    ensure!(c.kubectl(&["get", "widgets", "-o", "name"])?.is_empty(), "a new type begins empty");
    Ok(())
}

#[test]
fn custom_objects_own_are_owned_and_go_with_their_namespace() -> Result<()> {
    let c = start()?;
    let settings = |name: &str, owner: &str| -> Result<()> {
        let uid = c.jsonpath(&["widget", owner], "{.metadata.uid}")?;
        c.apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  ownerReferences:\n  - {{apiVersion: \
             example.com/v1, kind: Widget, name: {owner}, uid: {uid}, blockOwnerDeletion: true}}\n"
        ))
        .map(drop)
    };
    let gone = |kind: &str, name: &str| {
        eventually(&format!("{kind} {name} to go"), || {
            Ok((!c.try_kubectl(&["get", kind, name])?.success).then_some(()))
        })
        .with_context(|| c.log_tail())
    };
    for name in ["a", "b", "c", "d"] {
        c.apply(&widget(name, "size: 1"))?;
        settings(&format!("of-{name}"), name)?;
    }
    c.kubectl(&["delete", "widget", "a", "--timeout=30s"])?;
    gone("configmap", "of-a")?;
    c.kubectl(&["delete", "widget", "b", "--cascade=foreground", "--timeout=30s"])?;
    ensure!(!c.try_kubectl(&["get", "configmap", "of-b"])?.success, "the dependent went first");
    c.kubectl(&["delete", "widget", "c", "--cascade=orphan", "--timeout=30s"])?;
    ensure!(c.jsonpath(&["configmap", "of-c"], "{.metadata.name}{.metadata.ownerReferences}")? == "of-c");

    // The other way round: a ConfigMap that owns a Widget.
    let uid = c.jsonpath(&["configmap", "of-c"], "{.metadata.uid}")?;
    let owners = format!(
        r#"{{"metadata":{{"ownerReferences":[{{"apiVersion":"v1","kind":"ConfigMap","name":"of-c","uid":"{uid}"}}]}}}}"#
    );
    c.apply(&widget("owned", "size: 1"))?;
    c.kubectl(&["patch", "widget", "owned", "--type=merge", "-p", &owners])?;
    c.kubectl(&["delete", "configmap", "of-c"])?;
    gone("widget", "owned")?;

    c.kubectl(&["create", "namespace", "team"])?;
    c.apply(
        &widget("e", "size: 1")
            .replace("name: e", "name: e, namespace: team, finalizers: [example.com/held]"),
    )?;
    c.kubectl(&["delete", "namespace", "team", "--wait=false"])?;
    let remaining = "{.status.conditions[?(@.type=='NamespaceContentRemaining')].message}";
    eventually("the namespace to say what it waits for", || {
        let message = c.jsonpath(&["namespace", "team"], remaining)?;
        Ok(message.contains("widgets.example.com has 1 resource instances").then_some(()))
    })
    .with_context(|| c.log_tail())?;
    c.kubectl(&[
        "-n",
        "team",
        "patch",
        "widget",
        "e",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ])?;
    c.kubectl(&["wait", "--for=delete", "namespace/team", "--timeout=60s"])?;

    // The whole type goes, and what its objects own.
    c.kubectl(&["delete", "crd", "widgets.example.com", "--timeout=60s"])?;
    gone("configmap", "of-d")
}

#[test]
fn what_is_not_supported_is_refused_and_said() -> Result<()> {
    let c = Cluster::start_with(Options { without_image: true, ..Options::default() })?;
    let rule = DEFINITION.replace(
        "            required: [size]\n",
        "            required: [size]\n            x-kubernetes-validations: [{rule: self.size > 1}]\n",
    );
    refused(&c, &rule, "rules in CEL are not supported yet")?;
    let webhook = DEFINITION.replace(
        "  scope: Namespaced\n",
        "  scope: Namespaced\n  conversion: {strategy: Webhook, webhook: {conversionReviewVersions: [v1], clientConfig: {url: 'https://a.example/'}}}\n",
    );
    refused(&c, &webhook, "conversion by webhook is not supported yet")?;
    refused(&c, &DEFINITION.replace("storage: false", "storage: true"), "exactly one version")?;
    let out = c.kubectl(&["get", "crds", "-o", "name"])?;
    ensure!(out.is_empty(), "nothing of it was stored: {out}");
    Ok(())
}
