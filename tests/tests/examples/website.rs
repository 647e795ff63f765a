//! The controller and its custom resource.

use super::*;

fn website(page: &str, replicas: u32) -> String {
    format!(
        "apiVersion: example.org/v1\nkind: Website\nmetadata: {{name: home}}\nspec: {{page: \"{page}\", replicas: {replicas}}}\n"
    )
}

/// What visitors of the Website get, by the address in its status.
fn visit(c: &Cluster) -> Result<String> {
    let address = c.jsonpath(&["website", "home"], "{.status.address}")?;
    let seen = capture(c.command("curl").args(["-s", "--max-time", "2", &format!("http://{address}/")]))?;
    Ok(seen.stdout)
}

fn shows(c: &Cluster, page: &str) -> Result<()> {
    let mut last = String::new();
    eventually(&format!("the page `{page}`"), || {
        last = visit(c)?;
        Ok((last == page).then_some(()))
    })
    .with_context(|| format!("it was `{last}`\n{}", c.log_tail()))
}

#[test]
fn a_website_becomes_a_page_that_is_served() -> Result<()> {
    let c = Cluster::start()?;
    c.apply(&fs::read_to_string(repository().join("examples/plugins/website-controller/crd.yaml"))?)?;
    c.kubectl(&["wait", "--for=condition=Established", "crd/websites.example.org", "--timeout=30s"])?;
    apply(&c, "website-controller", None)?;
    let refused = c.try_apply(&website("hello", 11))?;
    ensure!(!refused.success && refused.stderr.contains("spec.replicas"), "{refused:?}");
    c.apply(&website("hello", 1))?;
    shows(&c, "hello")?;
    c.wait_for(&["website", "home"], "{.status.readyReplicas}", "1")?;
    let table = c.kubectl(&["get", "web"])?;
    ensure!(table.contains("READY") && table.contains("ADDRESS") && table.contains("home"), "{table}");
    let events = c.kubectl(&["describe", "website", "home"])?;
    ensure!(events.contains("created Deployment home"), "{events}");

    // A new page, and what somebody broke.
    c.apply(&website("good bye", 2))?;
    shows(&c, "good bye")?;
    c.wait_for(&["website", "home"], "{.status.readyReplicas}", "2")?;
    c.wait_for(&["website", "home"], "{.status.observedGeneration}", "2")?;
    c.kubectl(&["delete", "service", "home"])?;
    shows(&c, "good bye")?;
    c.kubectl(&["scale", "deployment", "home", "--replicas=0"])?;
    c.wait_for(&["deployment", "home"], "{.spec.replicas}", "2")?;

    // All of it goes with the Website.
    c.kubectl(&["delete", "website", "home"])?;
    eventually("the children to go", || {
        let left = c.kubectl(&["get", "deployment,service,configmap,pod", "-o", "name"])?;
        Ok((!left.contains("/home")).then_some(()))
    })
    .with_context(|| c.log_tail())
}
