//! Services carry traffic: from the host, from pods, by address and by node port, while endpoints
//! come and go.

use anyhow::{Result, ensure};
use orlop_tests::{Cluster, capture, eventually};

const SERVERS: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: busybox
        imagePullPolicy: Never
        command: [sh, -c, 'mkdir /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www']
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  type: NodePort
  selector: {app: echo}
  ports: [{port: 80, targetPort: http, nodePort: 30123}]
---
apiVersion: v1
kind: Pod
metadata: {name: visitor}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: busybox, imagePullPolicy: Never, command: [sleep, '3600']}]
";

fn fetch(c: &Cluster, address: &str) -> Result<Option<String>> {
    let out = capture(c.command("curl").args(["-sf", "-m", "2", &format!("http://{address}/")]))?;
    Ok(out.success.then(|| out.stdout.trim().to_owned()))
}

#[test]
fn traffic_flows_and_follows_the_endpoints() -> Result<()> {
    let c = Cluster::start()?;
    c.apply(SERVERS)?;
    c.kubectl(&["rollout", "status", "deployment/echo", "--timeout=60s"])?;
    c.kubectl(&["wait", "--for=condition=Ready", "pod/visitor", "--timeout=60s"])?;
    let vip = c.jsonpath(&["service", "echo"], "{.spec.clusterIP}")?;
    let mut pods: Vec<String> = c
        .jsonpath(&["pods", "-l", "app=echo"], "{.items[*].metadata.name}")?
        .split(' ')
        .map(str::to_owned)
        .collect();
    pods.sort();

    let mut seen = std::collections::BTreeSet::new();
    eventually("both servers to answer at the cluster address", || {
        seen.extend(fetch(&c, &format!("{vip}:80"))?);
        Ok((seen.iter().cloned().collect::<Vec<_>>() == pods).then_some(()))
    })?;
    let node = c.netns().address();
    eventually("the node port", || fetch(&c, &format!("{node}:30123")))?;
    // From another host.
    let out = eventually("the node port from outside", || {
        let out = capture(std::process::Command::new("curl").args([
            "-sf",
            "-m",
            "2",
            &format!("http://{node}:30123/"),
        ]))?;
        Ok(out.success.then_some(out.stdout))
    })?;
    ensure!(pods.contains(&out.trim().to_owned()), "{out}");

    // From a pod, and from a server to itself by way of its Service.
    let netns_fetch = |pod: &str| -> Result<Option<String>> {
        let out =
            c.try_kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].containerID}"])?;
        let id = out.stdout.rsplit('/').next().unwrap_or_default().to_owned();
        let Some(pid) = pid_in_cgroup(&id)? else { return Ok(None) };
        let out =
            capture(std::process::Command::new("nsenter").arg(format!("--net=/proc/{pid}/ns/net")).args([
                "--",
                "curl",
                "-sf",
                "-m",
                "2",
                &format!("http://{vip}/"),
            ]))?;
        Ok(out.success.then(|| out.stdout.trim().to_owned()))
    };
    eventually("an answer for a pod", || netns_fetch("visitor"))?;
    let mut hairpin = false;
    eventually("a server to reach itself", || {
        hairpin |= netns_fetch(&pods[0])?.as_deref() == Some(pods[0].as_str());
        Ok(hairpin.then_some(()))
    })?;

    c.kubectl(&["scale", "deployment", "echo", "--replicas=1"])?;
    c.wait_for(&["deployment", "echo"], "{.status.replicas}", "1")?;
    // A pod that is ending is listed, but is no replica any more.
    let left = eventually("one pod to be left", || {
        let names = c.jsonpath(&["pods", "-l", "app=echo"], "{.items[*].metadata.name}")?;
        Ok((names.split(' ').count() == 1).then_some(names))
    })?;
    eventually("the gone server to get no more traffic", || {
        for _ in 0..10 {
            if fetch(&c, &format!("{vip}:80"))?.as_deref() != Some(left.as_str()) {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })?;
    c.kubectl(&["scale", "deployment", "echo", "--replicas=0"])?;
    eventually("a refusal where nobody serves", || {
        let probe = ["-s", "-m", "2", "-w", "%{exitcode}", &format!("http://{vip}/")];
        // 7: refused; 28: timed out.
        Ok((capture(c.command("curl").args(probe))?.stdout == "7").then_some(()))
    })
}

fn pid_in_cgroup(container: &str) -> Result<Option<u32>> {
    ensure!(!container.is_empty(), "the pod has no container id");
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        // A process may end between the two reads.
        if std::fs::read_to_string(entry.path().join("cgroup")).is_ok_and(|g| g.contains(container)) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}
