//! The life of a plugin, as kubectl sees it: revisions, shadow, canary, rollback, signatures, registries.

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer, SigningKey};
use orlop_tests::{Cluster, Options, capture, eventually, repository};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// The built-in plugin that these tests replace by itself, with other configurations.
const NAME: &str = "default-toleration-seconds";

/// An earlier build of it.
fn module() -> Result<PathBuf> {
    Ok(fs::canonicalize(repository().join(format!("tests/fixtures/frozen/{NAME}.wasm.gz")))?)
}

/// Runs a command that must succeed, and returns what it said.
fn run(command: &mut Command) -> Result<String> {
    let out = capture(command)?;
    ensure!(out.success, "{command:?}: {out:?}");
    Ok(out.stdout)
}

fn cluster() -> Result<Cluster> {
    Cluster::start_with(Options { without_image: true, ..Options::default() })
}

/// Changes `spec` as `kubectl patch` does; `null` removes a field.
fn patch(c: &Cluster, name: &str, spec: &Value) -> Result<()> {
    let patch = json!({ "spec": spec }).to_string();
    c.kubectl(&["patch", "plugin", name, "--type=merge", "-p", &patch]).map(drop)
}

/// Makes a pod that is never run, and returns how long it tolerates a node that is not ready.
fn tolerated(c: &Cluster, name: &str) -> Result<String> {
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeSelector: {{none: such}}\n  \
         containers: [{{name: c, image: none}}]\n"
    );
    c.apply(&pod)?;
    let seconds = "{.spec.tolerations[?(@.key=='node.kubernetes.io/not-ready')].tolerationSeconds}";
    c.jsonpath(&["pod", name], seconds)
}

fn file_with(seconds: u64, rollout: Value) -> Result<Value> {
    Ok(json!({
        "source": { "builtin": null, "file": module()? },
        "config": { "notReadyTolerationSeconds": seconds },
        "rollout": rollout,
    }))
}

fn status(c: &Cluster, name: &str, field: &str, wanted: &str) -> Result<()> {
    c.wait_for(&["plugin", name], &format!("{{.status.{field}}}"), wanted)
}

#[test]
fn a_new_configuration_is_watched_in_shadow_then_switched_on_and_rolled_back() -> Result<()> {
    let mut c = cluster()?;
    status(&c, NAME, "activeRevision", "1")?;
    ensure!(tolerated(&c, "before")? == "300");

    // In shadow the old one decides, and what the new one would say is there to be read.
    patch(&c, NAME, &file_with(60, json!({ "shadow": { "minimumRequests": 1_000_000 } }))?)?;
    status(&c, NAME, "state", "Shadow")?;
    for i in 0..5 {
        ensure!(tolerated(&c, &format!("shadow-{i}"))? == "300");
    }
    status(&c, NAME, "shadow.differences", "5")?;
    let example = c.jsonpath(&["plugin", NAME], "{.status.shadow.examples[0]}")?;
    ensure!(example.contains("create pods/default/shadow-0") && example.contains(":60"), "{example}");
    let metrics = c.kubectl(&["get", "--raw", "/metrics"])?;
    for line in [
        &format!("orlop_plugin_stage{{plugin=\"{NAME}\",stage=\"Shadow\",state=\"Shadow\"}} 1"),
        "orlop_plugin_shadow_comparisons_total",
        "orlop_plugin_call_duration_seconds_bucket",
        "orlop_plugin_memory_bytes",
    ] {
        ensure!(metrics.contains(line), "{line} is not in the metrics");
    }

    // Switched on; the one before is on standby.
    patch(&c, NAME, &json!({ "rollout": { "shadow": { "minimumRequests": 5 } } }))?;
    status(&c, NAME, "state", "Active")?;
    status(&c, NAME, "activeRevision", "2")?;
    ensure!(tolerated(&c, "after")? == "60");
    status(&c, NAME, "standbyRevision", "1")?;
    c.wait_for(&["pluginrevision", &format!("{NAME}-1")], "{.status.stage}", "Standby")?;

    // Rolled back at once, and so it stays over a restart.
    patch(&c, NAME, &json!({ "revision": 1 }))?;
    status(&c, NAME, "activeRevision", "1")?;
    ensure!(tolerated(&c, "back")? == "300");
    c.stop()?;
    c.restart()?;
    status(&c, NAME, "activeRevision", "1")?;
    ensure!(tolerated(&c, "still")? == "300");
    patch(&c, NAME, &json!({ "revision": null, "rollout": null }))?;
    status(&c, NAME, "activeRevision", "2")?;
    ensure!(tolerated(&c, "again")? == "60");

    // A budget for differences ends a candidate by itself.
    let rollout = json!({ "shadow": { "minimumRequests": 10, "maximumDifferences": 0.1 } });
    patch(&c, NAME, &file_with(61, rollout)?)?;
    status(&c, NAME, "state", "Shadow")?;
    ensure!(tolerated(&c, "other-1")? == "60" && tolerated(&c, "other-2")? == "60");
    status(&c, NAME, "state", "RolledBack")?;
    ensure!(tolerated(&c, "other-3")? == "60");
    let described = c.kubectl(&["describe", "plugin", NAME])?;
    for words in
        ["TooManyDifferences", "2 of 2 inputs were decided otherwise", "PluginShadow", "PluginActivated"]
    {
        ensure!(described.contains(words), "{words} is not in {described}");
    }

    // A canary decides about its share: all of it.
    patch(
        &c,
        NAME,
        &file_with(62, json!({ "shadow": null, "canary": { "percent": 100, "minimumRequests": 2 } }))?,
    )?;
    status(&c, NAME, "state", "Canary")?;
    ensure!(tolerated(&c, "canary-1")? == "62" && tolerated(&c, "canary-2")? == "62");
    status(&c, NAME, "state", "Active")?;

    // What the schema forbids is named.
    patch(&c, NAME, &json!({ "config": { "notReadyTolerationSeconds": -1 } }))?;
    status(&c, NAME, "state", "Refused")?;
    let message = c.jsonpath(&["plugin", NAME], "{.status.message}")?;
    ensure!(message.contains("notReadyTolerationSeconds: -1 is less than"), "{message}");
    Ok(())
}

/// Debian's docker-registry on loopback, beside the cluster.
struct Registry<'a> {
    cluster: &'a Cluster,
    child: Child,
}

impl Drop for Registry<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Registry<'a> {
    const ADDRESS: &'static str = "127.0.0.1:5000";

    fn start(cluster: &'a Cluster) -> Result<Self> {
        let data = cluster.dir().join("registry");
        let config = cluster.dir().join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\nhttp: {{addr: {}}}\n",
            data.display(),
            Self::ADDRESS
        );
        fs::write(&config, text)?;
        let child = cluster.command("docker-registry").arg("serve").arg(&config).spawn()?;
        let registry = Self { cluster, child };
        eventually("the registry to listen", || {
            let out = capture(registry.curl().arg(format!("http://{}/v2/", Self::ADDRESS)))?;
            Ok(out.success.then_some(()))
        })?;
        Ok(registry)
    }

    fn curl(&self) -> Command {
        let mut curl = self.cluster.command("curl");
        curl.args(["--silent", "--show-error", "--fail"]);
        curl
    }

    fn blob(&self, file: &Path) -> Result<(String, u64)> {
        let sum = run(self.cluster.command("sha256sum").arg(file))?;
        let digest = format!("sha256:{}", sum.split_whitespace().next().context("no digest")?);
        let begun = run(self
            .curl()
            .args(["-X", "POST", "-D", "-"])
            .arg(format!("http://{}/v2/team/plugin/blobs/uploads/", Self::ADDRESS)))?;
        let location = begun
            .lines()
            .find_map(|l| l.split_once(": ").filter(|(k, _)| k.eq_ignore_ascii_case("location")))
            .map(|(_, url)| url.trim().to_owned())
            .context("the registry names no place for the blob")?;
        let join = if location.contains('?') { '&' } else { '?' };
        run(self
            .curl()
            .args(["-X", "PUT", "-H", "Content-Type: application/octet-stream", "--data-binary"])
            .arg(format!("@{}", file.display()))
            .arg(format!("{location}{join}digest={digest}")))?;
        Ok((digest, fs::metadata(file)?.len()))
    }

    /// Pushes a module as an artifact and returns the reference with its digest.
    fn push(&self, tag: &str, module: &Path, annotations: &Value) -> Result<String> {
        let empty = self.cluster.dir().join("empty.json");
        fs::write(&empty, "{}")?;
        let (config, config_size) = self.blob(&empty)?;
        let (layer, layer_size) = self.blob(module)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": config_size },
            "layers": [{ "mediaType": "application/wasm", "digest": layer, "size": layer_size }],
            "annotations": annotations,
        });
        let file = self.cluster.dir().join("manifest.json");
        fs::write(&file, manifest.to_string())?;
        run(self
            .curl()
            .args([
                "-X",
                "PUT",
                "-H",
                "Content-Type: application/vnd.oci.image.manifest.v1+json",
                "--data-binary",
            ])
            .arg(format!("@{}", file.display()))
            .arg(format!("http://{}/v2/team/plugin/manifests/{tag}", Self::ADDRESS)))?;
        let sum = run(self.cluster.command("sha256sum").arg(&file))?;
        let digest = sum.split_whitespace().next().context("no digest")?;
        Ok(format!("oci://{}/team/plugin@sha256:{digest}", Self::ADDRESS))
    }
}

#[test]
fn modules_come_from_registries_and_are_signed_where_the_policy_says_so() -> Result<()> {
    let c = cluster()?;
    let registry = Registry::start(&c)?;
    let module = module()?;
    let plain = registry.push("plain", &module, &json!({}))?;
    status(&c, NAME, "state", "Active")?;

    // By digest, then by tag.
    let image = |reference: &str| json!({ "source": { "builtin": null, "image": reference } });
    patch(&c, NAME, &image(&plain))?;
    status(&c, NAME, "activeRevision", "2")?;
    c.wait_for(&["pluginrevision", &format!("{NAME}-2")], "{.spec.source.image}", &plain)?;
    let digest = c.jsonpath(&["plugin", NAME], "{.status.activeDigest}")?;
    let wrong = format!("{}/team/plugin:absent", Registry::ADDRESS);
    patch(&c, NAME, &image(&wrong))?;
    status(&c, NAME, "state", "Refused")?;
    let reason = "conditions[?(@.type=='Ready')].reason";
    status(&c, NAME, reason, "FetchFailed")?;
    ensure!(tolerated(&c, "meanwhile")? == "300", "what ran runs on");

    // From now on only what the key has signed.
    let key = SigningKey::from_bytes(&[42; 32]);
    let public = STANDARD.encode(key.verifying_key().as_bytes());
    let file = c.dir().join("policies/plugins.yaml");
    let policy = fs::read_to_string(&file)?.replace(
        "  keys: []\n  rules: []",
        &format!(
            "  keys: [{{name: release, publicKey: \"{public}\"}}]\n  rules: [{{sources: [image], requireSignature: true}}]"
        ),
    );
    fs::write(c.dir().join("policies/plugins.new"), &policy)?;
    fs::rename(c.dir().join("policies/plugins.new"), &file)?;
    let tagged = format!("{}/team/plugin:plain", Registry::ADDRESS);
    patch(&c, NAME, &image(&tagged))?;
    status(&c, NAME, reason, "SignatureRefused")?;

    let hex = digest.strip_prefix("sha256:").context("a digest")?;
    let mut message = b"orlop.dev/v1 Plugin sha256\0".to_vec();
    for i in (0..hex.len()).step_by(2) {
        message.push(u8::from_str_radix(hex.get(i..i + 2).unwrap_or_default(), 16)?);
    }
    let sign = |key: &SigningKey| STANDARD.encode(key.sign(&message).to_bytes());
    let forged = registry.push(
        "forged",
        &module,
        &json!({ "dev.orlop.plugin.signature": sign(&SigningKey::from_bytes(&[43; 32])) }),
    )?;
    patch(&c, NAME, &image(&forged))?;
    eventually("the forged one to be refused", || {
        let message = c.jsonpath(&["plugin", NAME], "{.status.message}")?;
        Ok(message.contains("none of the keys").then_some(()))
    })?;
    let signed = registry.push("signed", &module, &json!({ "dev.orlop.plugin.signature": sign(&key) }))?;
    patch(&c, NAME, &image(&signed))?;
    status(&c, NAME, "state", "Active")?;
    eventually("the revision to name the key", || {
        let number = c.jsonpath(&["plugin", NAME], "{.status.activeRevision}")?;
        let revision = format!("{NAME}-{number}");
        let by = c.jsonpath(&["pluginrevision", &revision], "{.spec.signature.signedBy}")?;
        Ok((by == "release").then_some(()))
    })?;
    Ok(())
}

#[test]
fn a_users_controller_does_what_it_was_given_and_no_more() -> Result<()> {
    const PUBLISHER: &str = "root-ca-certificate-publisher";
    let c = cluster()?;
    status(&c, PUBLISHER, "state", "Active")?;
    let module = repository().join(format!("tests/fixtures/frozen/{PUBLISHER}.wasm.gz"));
    let source = json!({ "builtin": null, "file": fs::canonicalize(module)? });
    let rule = |resources: &[&str], verbs: &[&str]| json!({ "apiGroups": [""], "resources": resources, "verbs": verbs });
    let shown = rule(&["namespaces", "configmaps"], &["list", "watch"]);

    // Nothing is shown that was not given.
    patch(&c, PUBLISHER, &json!({ "source": source }))?;
    status(&c, PUBLISHER, "conditions[?(@.type=='Ready')].reason", "Forbidden")?;
    let message = c.jsonpath(&["plugin", PUBLISHER], "{.status.message}")?;
    let user = format!("system:plugin:{PUBLISHER}");
    ensure!(message.contains(&format!("which {user} may not list")), "{message}");

    // Nothing is written that was not given, by the plugin's own name.
    patch(&c, PUBLISHER, &json!({ "grants": [shown] }))?;
    status(&c, PUBLISHER, "state", "Active")?;
    c.kubectl(&["create", "namespace", "given"])?;
    eventually("the write to be refused", || {
        let log = fs::read_to_string(c.dir().join("orlop.log"))?;
        let refused = format!("User \"{user}\" cannot create resource \"configmaps\"");
        Ok(log.contains(&refused).then_some(()))
    })
    .with_context(|| c.log_tail())?;
    let absent = c.try_kubectl(&["get", "configmap", "-n", "given", "kube-root-ca.crt"])?;
    ensure!(!absent.success, "{absent:?}");

    // What is given, by the object or by a role, is done.
    patch(&c, PUBLISHER, &json!({ "grants": [shown, rule(&["configmaps"], &["create", "patch"])] }))?;
    eventually("the certificate", || {
        let found = c.try_kubectl(&["get", "configmap", "-n", "given", "kube-root-ca.crt"])?;
        Ok(found.success.then_some(()))
    })
}
