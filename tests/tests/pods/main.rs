//! What a node promises a pod: its files, its environment, its probes, its limits, its end.

use anyhow::{Context, Result, ensure};
use orlop_tests::{Cluster, eventually};

fn pod(name: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|l| format!("  {l}\n")).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{app: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{spec}"
    )
}

fn logs_of(c: &Cluster, args: &[&str], wanted: &str) -> Result<String> {
    let mut all = vec!["logs"];
    all.extend_from_slice(args);
    eventually(&format!("`{wanted}` in the log"), || {
        let out = c.try_kubectl(&all)?;
        Ok(out.stdout.contains(wanted).then_some(out.stdout))
    })
    .with_context(|| format!("{:?}", c.try_kubectl(&all)))
}

#[test]
fn files_environment_and_init_containers() -> Result<()> {
    let c = Cluster::start()?;
    c.kubectl(&[
        "create",
        "configmap",
        "settings",
        "--from-literal=colour=blue",
        "--from-literal=file.txt=hello",
    ])?;
    c.kubectl(&["create", "secret", "generic", "keys", "--from-literal=token=s3cret"])?;
    c.apply(&pod(
        "files",
        "restartPolicy: Never
initContainers:
- name: first
  image: busybox
  imagePullPolicy: Never
  command: [sh, -c, 'echo one > /work/a']
  volumeMounts: [{name: work, mountPath: /work}]
- name: second
  image: busybox
  imagePullPolicy: Never
  command: [sh, -c, 'cat /work/a > /work/b; echo two >> /work/b']
  volumeMounts: [{name: work, mountPath: /work}]
containers:
- name: main
  image: busybox
  imagePullPolicy: Never
  command: [sh, -c]
  args:
  - |
    echo b=$(tr '\\n' , < /work/b)
    echo colour=$COLOUR token=$TOKEN name=$NAME ns=$NS cpu=$CPU greeting=$GREETING
    echo file=$(cat /etc/settings/file.txt) secret=$(cat /etc/keys/token)
    echo ca=$(head -1 /var/run/secrets/kubernetes.io/serviceaccount/ca.crt)
    echo sa=$(cat /var/run/secrets/kubernetes.io/serviceaccount/namespace)
    echo api=$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT
    hostname
    id -u
  env:
  - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
  - {name: TOKEN, valueFrom: {secretKeyRef: {name: keys, key: token}}}
  - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: NS, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
  - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
  - {name: GREETING, value: hi-$(NAME)}
  resources: {limits: {cpu: 250m, memory: 64Mi}}
  securityContext: {runAsUser: 1234}
  volumeMounts:
  - {name: work, mountPath: /work}
  - {name: settings, mountPath: /etc/settings}
  - {name: keys, mountPath: /etc/keys, readOnly: true}
volumes:
- {name: work, emptyDir: {}}
- {name: settings, configMap: {name: settings}}
- {name: keys, secret: {secretName: keys}}",
    ))?;
    c.wait_for(&["pod", "files"], "{.status.phase}", "Succeeded")?;
    let log = c.kubectl(&["logs", "files"])?;
    for wanted in [
        "b=one,two,",
        "colour=blue token=s3cret name=files ns=default cpu=250 greeting=hi-files",
        "file=hello secret=s3cret",
        "ca=-----BEGIN CERTIFICATE-----",
        "sa=default",
        "api=10.96.0.1:443",
        "\nfiles\n",
        "\n1234\n",
    ] {
        ensure!(log.contains(wanted), "`{wanted}` is not in:\n{log}");
    }
    let out = c.kubectl(&["get", "pod", "files"])?;
    ensure!(out.contains("Completed"), "{out}");
    Ok(())
}

#[test]
fn restarts_back_off_and_logs_of_the_last_life_stay() -> Result<()> {
    let c = Cluster::start()?;
    c.apply(&pod(
        "crasher",
        "containers: [{name: c, image: busybox, imagePullPolicy: Never, command: [sh, -c, 'echo life; exit 7']}]",
    ))?;
    eventually("a second life", || {
        let n = c.jsonpath(&["pod", "crasher"], "{.status.containerStatuses[0].restartCount}")?;
        Ok(n.parse::<u32>().is_ok_and(|n| n >= 1).then_some(()))
    })?;
    eventually("CrashLoopBackOff", || {
        Ok(c.kubectl(&["get", "pod", "crasher"])?.contains("CrashLoopBackOff").then_some(()))
    })?;
    c.wait_for(&["pod", "crasher"], "{.status.containerStatuses[0].lastState.terminated.exitCode}", "7")?;
    ensure!(c.kubectl(&["logs", "crasher", "--previous"])?.contains("life"));

    c.apply(&pod(
        "once",
        "restartPolicy: Never\ncontainers: [{name: c, image: busybox, imagePullPolicy: Never, command: [sh, -c, 'exit 3']}]",
    ))?;
    c.wait_for(&["pod", "once"], "{.status.phase}", "Failed")?;
    c.wait_for(&["pod", "once"], "{.status.containerStatuses[0].state.terminated.exitCode}", "3")?;
    Ok(())
}

#[test]
fn probes_decide() -> Result<()> {
    let c = Cluster::start()?;
    c.apply(&pod(
        "probed",
        "containers:
- name: c
  image: busybox
  imagePullPolicy: Never
  command: [sh, -c, 'touch /tmp/alive; sleep 3600']
  livenessProbe: {exec: {command: [cat, /tmp/alive]}, periodSeconds: 1, failureThreshold: 1}
  readinessProbe: {exec: {command: [cat, /tmp/ready]}, periodSeconds: 1}
  startupProbe: {exec: {command: ['true']}, periodSeconds: 1}",
    ))?;
    c.wait_for(&["pod", "probed"], "{.status.containerStatuses[0].started}", "true")?;
    c.wait_for(&["pod", "probed"], "{.status.conditions[?(@.type=='Ready')].status}", "False")?;
    orlop_exec(&c, "probed", &["touch", "/tmp/ready"])?;
    c.wait_for(&["pod", "probed"], "{.status.conditions[?(@.type=='Ready')].status}", "True")?;
    orlop_exec(&c, "probed", &["rm", "/tmp/alive"])?;
    c.wait_for(&["pod", "probed"], "{.status.containerStatuses[0].restartCount}", "1")?;
    eventually("the event", || {
        let events = c.kubectl(&["get", "events", "--field-selector=involvedObject.name=probed"])?;
        Ok((events.contains("Unhealthy") && events.contains("Liveness probe failed")).then_some(()))
    })
}

/// Runs a command in a container through kube-rs, over WebSocket.
fn orlop_exec(c: &Cluster, pod: &str, command: &[&str]) -> Result<(String, bool)> {
    tokio::runtime::Runtime::new()?.block_on(exec(c, pod, command, None))
}

async fn exec(c: &Cluster, pod: &str, command: &[&str], stdin: Option<&[u8]>) -> Result<(String, bool)> {
    use k8s_openapi::api::core::v1::Pod;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let pods: kube::Api<Pod> = kube::Api::default_namespaced(orlop_tests::api::client(c).await?);
    let params = kube::api::AttachParams::default().stdin(stdin.is_some()).stderr(false);
    let mut process = pods.exec(pod, command.to_vec(), &params).await?;
    if let Some(bytes) = stdin {
        let mut writer = process.stdin().context("no stdin")?;
        writer.write_all(bytes).await?;
        writer.shutdown().await?;
    }
    let status = process.take_status().context("no status")?;
    let mut out = String::new();
    process.stdout().context("no stdout")?.read_to_string(&mut out).await?;
    let status = status.await.context("the stream ended without a status")?;
    process.join().await?;
    Ok((out, status.status.as_deref() == Some("Success")))
}

#[test]
fn exec_and_logs_stream() -> Result<()> {
    let c = Cluster::start()?;
    c.apply(&pod(
        "talker",
        "containers: [{name: c, image: busybox, imagePullPolicy: Never, command: [sh, -c, 'i=0; while true; do echo line $i; i=$((i+1)); sleep 0.2; done']}]",
    ))?;
    c.kubectl(&["wait", "--for=condition=Ready", "pod/talker", "--timeout=60s"])?;
    let (out, ok) = orlop_exec(&c, "talker", &["sh", "-c", "echo out; exit 0"])?;
    ensure!(out == "out\n" && ok, "{out}");
    let (_, ok) = orlop_exec(&c, "talker", &["sh", "-c", "exit 42"])?;
    ensure!(!ok, "an exit status other than 0 is a failure");
    let (out, ok) = tokio::runtime::Runtime::new()?.block_on(exec(
        &c,
        "talker",
        &["head", "-c", "6"],
        Some(b"piped!"),
    ))?;
    ensure!(out == "piped!" && ok, "{out}");
    logs_of(&c, &["talker"], "line 3")?;
    let tail = c.kubectl(&["logs", "talker", "--tail=1"])?;
    ensure!(tail.lines().count() == 1, "{tail}");

    let mut follow =
        c.command("kubectl").args(["logs", "-f", "talker"]).stdout(std::process::Stdio::piped()).spawn()?;
    c.kubectl(&["delete", "pod", "talker", "--timeout=60s"])?;
    let status = eventually("the follower to end with its container", || Ok(follow.try_wait()?))?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// Forwards a port as kubectl does: over SPDY, which newer ones put into a WebSocket.
#[test]
fn a_port_is_forwarded() -> Result<()> {
    use std::io::{BufRead, BufReader};
    let c = Cluster::start()?;
    let web = pod(
        "web",
        "containers:
- name: c
  image: busybox
  imagePullPolicy: Never
  command: [sh, -c]
  args:
  - |
    mkdir /www && echo forwarded > /www/index.html && yes | head -c 300000 > /www/big
    exec httpd -f -p 127.0.0.1:8080 -h /www
  readinessProbe: {exec: {command: [wget, -q, -O, /dev/null, 'http://127.0.0.1:8080/']}, periodSeconds: 1}",
    );
    let file = c.dir().join("web.yaml");
    std::fs::write(&file, web)?;
    // How a client validates differs between versions, and is not what this is about.
    c.kubectl(&["create", "--validate=false", "-f", &file.to_string_lossy()])?;
    c.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"])?;
    let mut kubectl = c
        .command("kubectl")
        .args(["port-forward", "pod/web", ":8080", ":81"])
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let output = kubectl.stdout.take();
    let check = || -> Result<()> {
        let mut lines = BufReader::new(output.context("no output")?).lines();
        let mut address = |port: &str| -> Result<String> {
            loop {
                let line = lines.next().context("kubectl ended")??;
                let address = line.strip_prefix("Forwarding from 127.0.0.1:");
                if let Some((local, to)) = address.and_then(|rest| rest.split_once(" -> ")) {
                    ensure!(to == port, "{line}");
                    return Ok(format!("http://127.0.0.1:{local}"));
                }
            }
        };
        let (web, closed) = (address("8080")?, address("81")?);
        let get = |url: &str| orlop_tests::capture(c.command("curl").args(["-sS", "--max-time", "30", url]));
        let page = get(&web)?;
        ensure!(page.stdout == "forwarded\n", "{page:?}");
        for _ in 0..5 {
            let big = get(&format!("{web}/big"))?;
            ensure!(big.success && big.stdout.len() == 300_000, "{} bytes, {}", big.stdout.len(), big.stderr);
        }
        ensure!(!get(&closed)?.success, "nothing listens on port 81");
        Ok(())
    };
    let checked = check();
    kubectl.kill()?;
    kubectl.wait()?;
    checked
}

#[test]
fn a_static_pod_is_mirrored() -> Result<()> {
    let c = Cluster::start()?;
    let file = c.dir().join("manifests/static.yaml");
    std::fs::write(
        &file,
        pod(
            "keeper",
            "containers: [{name: c, image: busybox, imagePullPolicy: Never, command: [sleep, '3600']}]",
        ),
    )?;
    c.wait_for(&["pod", "keeper-node-1"], "{.status.phase}", "Running")?;
    let uid = c.jsonpath(&["pod", "keeper-node-1"], "{.metadata.uid}")?;
    c.kubectl(&["delete", "pod", "keeper-node-1", "--grace-period=0", "--force"])?;
    eventually("a new mirror", || {
        let now = c.jsonpath(&["pod", "keeper-node-1"], "{.metadata.uid}")?;
        Ok((!now.is_empty() && now != uid).then_some(()))
    })?;
    std::fs::remove_file(&file)?;
    eventually("the mirror to go", || {
        Ok(c.jsonpath(&["pod", "keeper-node-1"], "{.metadata.uid}")?.is_empty().then_some(()))
    })
}
