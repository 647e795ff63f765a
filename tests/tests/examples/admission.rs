//! The admission checks.

use super::*;

fn deployment(name: &str, labels: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec:\n  \
         replicas: 0\n  selector: {{matchLabels: {{app: a}}}}\n  template:\n    metadata: {{labels: {{app: a}}}}\n    \
         spec: {{containers: [{{name: c, image: none}}]}}\n"
    )
}

#[test]
fn workloads_say_whose_they_are_and_images_come_from_the_registry() -> Result<()> {
    let c = cluster()?;
    c.apply(&deployment("before", ""))?;
    apply(&c, "require-labels", Some(r#"{"labels": {"team": [], "tier": ["front", "back"]}}"#))?;
    let refused = c.try_apply(&deployment("web", "tier: middle"))?;
    let why = "label team is missing; label tier is `middle`, not one of front, back";
    ensure!(!refused.success && refused.stderr.contains(why), "{refused:?}");
    c.apply(&deployment("web", "tier: front, team: sales"))?;
    // What was there before is asked for its labels when it is changed next.
    let refused = c.try_kubectl(&["annotate", "deployment", "before", "a=b"])?;
    ensure!(!refused.success && refused.stderr.contains("label team is missing"), "{refused:?}");
    c.kubectl(&["delete", "deployment", "before"])?;

    c.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: old}\nspec: {containers: [{name: c, image: nginx}]}\n",
    )?;
    let bare = built("default-registry")?;
    let out = capture(c.command(binary()?).args(["plugin", "apply"]).arg(bare))?;
    ensure!(!out.success && out.stderr.contains("registry"), "without a registry it is refused: {out:?}");
    apply(&c, "default-registry", Some(r#"{"registry": "registry.example.com/mirror"}"#))?;
    c.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: new}\nspec:\n  initContainers: [{name: i, image: 'team/init:1'}]\n  \
         containers: [{name: c, image: nginx}, {name: d, image: quay.io/a/b}]\n",
    )?;
    let images =
        c.jsonpath(&["pod", "new"], "{.spec.initContainers[*].image} {.spec.containers[*].image}")?;
    ensure!(
        images == "registry.example.com/mirror/team/init:1 registry.example.com/mirror/nginx quay.io/a/b",
        "{images}"
    );
    c.kubectl(&["label", "pod", "old", "seen=yes"])?;
    ensure!(c.jsonpath(&["pod", "old"], "{.spec.containers[0].image}")? == "nginx", "it keeps its image");
    c.kubectl(&["set", "image", "pod/old", "c=nginx:2"])?;
    let image = c.jsonpath(&["pod", "old"], "{.spec.containers[0].image}")?;
    ensure!(image == "registry.example.com/mirror/nginx:2", "{image}");
    Ok(())
}
