//! `up` and `down`: a one-node cluster in the background, its data and log under `target/up/`.

use crate::shell::{output, root, run, step, target, which};
use crate::{artifacts, image, prerequisites};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const EXAMPLE: &str = "docs/examples/web.yaml";

struct Layout {
    folder: PathBuf,
}

impl Layout {
    fn new() -> Self {
        Self { folder: target().join("up") }
    }
    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }
    fn log(&self) -> PathBuf {
        self.folder.join("orlop.log")
    }
    fn kubeconfig(&self) -> PathBuf {
        self.data().join("admin.kubeconfig")
    }
    fn pid_file(&self) -> PathBuf {
        self.folder.join("orlop.pid")
    }
}

/// A server that an earlier `up` started.
struct Running {
    pid: u32,
    /// Whether it runs the binary that is on disk now.
    current: bool,
}

/// Sets up, starts, shows.
pub(crate) fn up() -> Result<()> {
    prerequisites::packages_to_run()?;
    prerequisites::wasm_target()?;
    artifacts::guests()?;
    artifacts::shim()?;
    artifacts::orlop()?;
    artifacts::test_image()?;
    if !prerequisites::is_root()? {
        bail!(
            "everything is built, but a node makes containers and networks, which takes root. Run:\n\n    \
             sudo -E env PATH=\"$PATH\" {} xtask up\n",
            std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
        );
    }

    let layout = Layout::new();
    fs::create_dir_all(&layout.folder)?;
    match running(&layout) {
        Some(server) if server.current => step(&format!("orlop runs already (pid {})", server.pid)),
        Some(server) => {
            step("restarting orlop with the new build (containers run on)");
            stop(server.pid)?;
            start(&layout)?;
        }
        None => {
            step("starting orlop");
            start(&layout)?;
        }
    }
    step("importing the example's image");
    run(Command::new(artifacts::binary())
        .args(["image", "import"])
        .arg(artifacts::image_file())
        .arg("--data-dir")
        .arg(layout.data())
        .stdout(Stdio::null()))?;
    step(&format!("applying {EXAMPLE}"));
    wait("the namespace's ServiceAccount", Duration::from_secs(30), || {
        Ok(kubectl(&layout).args(["get", "serviceaccount", "default"]).output()?.status.success())
    })?;
    run(kubectl(&layout).args(["apply", "-f"]).arg(root().join(EXAMPLE)))?;
    run(kubectl(&layout).args(["rollout", "status", "deployment/web", "--timeout=120s"]))?;
    let url = service_url(&layout)?;
    wait(&format!("{url} to answer"), Duration::from_secs(30), || Ok(fetch(url).is_ok()))?;
    summary(&layout, url)
}

/// Stops and removes all that `up` made.
pub(crate) fn down() -> Result<()> {
    let layout = Layout::new();
    if !layout.folder.exists() {
        eprintln!("nothing to do: there is no {}", layout.folder.display());
        return Ok(());
    }
    if !prerequisites::is_root()? {
        bail!("removing containers and networks takes root: run it as the user that ran `cargo xtask up`");
    }
    if let Some(server) = running(&layout) {
        step(&format!("stopping orlop (pid {})", server.pid));
        stop(server.pid)?;
    }
    if !artifacts::binary().is_file() {
        artifacts::orlop()?;
    }
    step("removing containers, mounts, network devices, iptables rules and cgroups");
    run(Command::new(artifacts::binary()).arg("reset").arg("--data-dir").arg(layout.data()))?;
    fs::remove_dir_all(&layout.folder)
        .with_context(|| format!("cannot remove {}", layout.folder.display()))?;
    Ok(())
}

fn running(layout: &Layout) -> Option<Running> {
    let pid: u32 = fs::read_to_string(layout.pid_file()).ok()?.trim().parse().ok()?;
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let exe = exe.to_string_lossy();
    let binary = artifacts::binary();
    let binary = binary.to_string_lossy();
    if exe == binary {
        return Some(Running { pid, current: true });
    }
    (exe.strip_suffix(" (deleted)") == Some(binary.as_ref())).then_some(Running { pid, current: false })
}

fn start(layout: &Layout) -> Result<()> {
    let log = File::options().create(true).append(true).open(layout.log())?;
    let mut command = Command::new("setsid");
    command
        .arg(artifacts::binary())
        .arg("server")
        .arg("--data-dir")
        .arg(layout.data())
        .arg("--policies")
        .arg(root().join("policies"))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut child = command.spawn().context("cannot start orlop")?;
    fs::write(layout.pid_file(), format!("{}\n", child.id()))?;
    let ready = wait_with("the API to be ready", Duration::from_secs(60), || {
        check_alive(&mut child, layout)?;
        Ok(layout.kubeconfig().is_file()
            && kubectl(layout).args(["get", "--raw", "/readyz"]).output()?.status.success())
    });
    if ready.is_err() {
        let _ = child.kill();
        let _ = fs::remove_file(layout.pid_file());
    }
    ready
}

fn check_alive(child: &mut Child, layout: &Layout) -> Result<()> {
    let Some(status) = child.try_wait()? else { return Ok(()) };
    let log = fs::read_to_string(layout.log()).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n");
    bail!("orlop ended at once ({status}). The end of {}:\n\n{tail}", layout.log().display());
}

fn stop(pid: u32) -> Result<()> {
    run(Command::new("kill").arg(pid.to_string()))?;
    let gone = || {
        Ok(!PathBuf::from(format!("/proc/{pid}/exe")).exists()
            || fs::read_link(format!("/proc/{pid}/exe")).is_err())
    };
    if wait("orlop to stop", Duration::from_secs(20), gone).is_err() {
        run(Command::new("kill").args(["-9", &pid.to_string()]))?;
        wait("orlop to stop", Duration::from_secs(10), gone)?;
    }
    Ok(())
}

fn kubectl(layout: &Layout) -> Command {
    let mut command = Command::new(which("kubectl").unwrap_or_else(|| "kubectl".into()));
    command.arg("--kubeconfig").arg(layout.kubeconfig()).stdin(Stdio::null());
    command
}

fn service_url(layout: &Layout) -> Result<SocketAddr> {
    let address =
        output(kubectl(layout).args(["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]))?;
    let address: Ipv4Addr =
        address.trim().parse().with_context(|| format!("the Service has no address: `{address}`"))?;
    Ok(SocketAddr::from((address, 80)))
}

fn fetch(address: SocketAddr) -> Result<String> {
    let timeout = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("no HTTP answer") };
    if !head.contains(" 200 ") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    Ok(body.trim().to_owned())
}

fn wait(what: &str, limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_with(what, limit, &mut done)
}

fn wait_with(what: &str, limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !done()? {
        if start.elapsed() > limit {
            bail!("waited {} s for {what}, in vain", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn summary(layout: &Layout, url: SocketAddr) -> Result<()> {
    let answer = fetch(url)?;
    println!();
    run(kubectl(layout).args(["get", "nodes,deployments,pods,services", "-o", "wide"]))?;
    let kubeconfig = layout.kubeconfig();
    let memory = running(layout).and_then(|r| resident_mib(r.pid));
    println!();
    println!("  cluster      up{}", memory.map(|m| format!(", {m} MiB resident")).unwrap_or_default());
    println!("  http://{url}  answers: {answer}");
    println!("  image        {}", image::REFERENCE);
    println!("  log          {}", layout.log().display());
    println!("  kubeconfig   {}", kubeconfig.display());
    println!();
    println!("Try next:");
    println!("  export KUBECONFIG={}", kubeconfig.display());
    println!("  kubectl scale deployment web --replicas=5 && kubectl get pods --watch");
    println!("  kubectl get plugins                  # everything that decides in this cluster");
    println!("  kubectl logs deployment/web -f       # `cargo xtask down` removes it all again");
    Ok(())
}

fn resident_mib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}
