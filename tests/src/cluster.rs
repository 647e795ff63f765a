//! One node, started from the real binary and removed without a trace.

use crate::{NetNs, artifact, eventually};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What a test asks for beyond the default.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// More arguments of `orlop server`.
    pub args: Vec<String>,
    /// Leave out the import of the busybox image.
    pub without_image: bool,
}

/// A running one-node cluster.
pub struct Cluster {
    netns: NetNs,
    dir: TempDir,
    args: Vec<String>,
    server: Option<Child>,
    time_to_serve: Duration,
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct Output {
    /// Whether it exited with 0.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Cluster {
    /// Starts a cluster and waits until its node is Ready.
    ///
    /// # Errors
    /// Where something is missing or does not start; the end of the server's log is part of it.
    pub fn start() -> Result<Self> {
        Self::start_with(Options::default())
    }

    /// As [`Cluster::start`], with options.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_with(options: Options) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("orlop-test-").tempdir()?;
        let policies = dir.path().join("policies");
        fs::create_dir(&policies)?;
        for entry in fs::read_dir(repository().join("policies"))? {
            let entry = entry?;
            fs::copy(entry.path(), policies.join(entry.file_name()))?;
        }
        fs::create_dir(dir.path().join("manifests"))?;
        let mut cluster = Self {
            netns: NetNs::new()?,
            dir,
            args: options.args,
            server: None,
            time_to_serve: Duration::ZERO,
        };
        cluster.spawn()?;
        if !options.without_image {
            let image = artifact("ORLOP_TEST_IMAGE", "orlop/busybox.tar")?;
            cluster.orlop(&["image", "import", &image.to_string_lossy()])?;
        }
        cluster.wait_for_node()?;
        Ok(cluster)
    }

    /// The folder of the cluster: `data`, `policies`, `manifests`, `orlop.log`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The namespace in which the node lives.
    #[must_use]
    pub const fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Path of the administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir().join("data/admin.kubeconfig")
    }

    /// `https://address:port` of the API.
    #[must_use]
    pub fn server_url(&self) -> String {
        format!("https://{}:6443", self.netns.address())
    }

    /// Process id of the server.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// From exec of the server to its first ready answer; to some milliseconds, for it is asked
    /// that often.
    #[must_use]
    pub const fn time_to_serve(&self) -> Duration {
        self.time_to_serve
    }

    /// Starts the server again after [`Cluster::kill`] or [`Cluster::stop`], and waits for the node.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_for_node()
    }

    /// `kill -9`; containers run on.
    ///
    /// # Errors
    /// Where there is no server.
    pub fn kill(&mut self) -> Result<()> {
        let mut server = self.server.take().context("no server runs")?;
        server.kill()?;
        server.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// Where there is no server, or it does not end.
    pub fn stop(&mut self) -> Result<()> {
        let mut server = self.server.take().context("no server runs")?;
        run(Command::new("kill").arg(server.id().to_string()))?;
        let status = eventually("the server to stop", || Ok(server.try_wait()?))?;
        if !status.success() {
            bail!("the server stopped with {status}: {}", self.log_tail());
        }
        Ok(())
    }

    /// A command on the node's network, with KUBECONFIG set.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.netns.command(program);
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.dir()).stdin(Stdio::null());
        command
    }

    /// Runs kubectl to its end, whatever that is.
    ///
    /// # Errors
    /// Where kubectl cannot be run.
    pub fn try_kubectl(&self, args: &[&str]) -> Result<Output> {
        capture(self.command("kubectl").args(args))
    }

    /// Runs kubectl, which must succeed; returns its standard output.
    ///
    /// # Errors
    /// Where it fails; with what it said and the end of the server's log.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let out = self.try_kubectl(args)?;
        if !out.success {
            bail!("`kubectl {}` failed: {}{}\n{}", args.join(" "), out.stdout, out.stderr, self.log_tail());
        }
        Ok(out.stdout)
    }

    /// `kubectl apply -f -`
    ///
    /// # Errors
    /// As [`Cluster::kubectl`].
    pub fn apply(&self, manifest: &str) -> Result<String> {
        let out = self.try_apply(manifest)?;
        if !out.success {
            bail!("`kubectl apply` failed: {}{}\n{}", out.stdout, out.stderr, self.log_tail());
        }
        Ok(out.stdout)
    }

    /// `kubectl apply -f -`, whatever its end.
    ///
    /// # Errors
    /// Where kubectl cannot be run.
    pub fn try_apply(&self, manifest: &str) -> Result<Output> {
        let mut child = self
            .command("kubectl")
            .args(["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(manifest.as_bytes())?;
        }
        Ok(output(&child.wait_with_output()?))
    }

    /// One value by JSONPath; empty where there is none or the object is missing.
    ///
    /// # Errors
    /// Where kubectl cannot be run.
    pub fn jsonpath(&self, args: &[&str], path: &str) -> Result<String> {
        let path = format!("jsonpath={path}");
        let mut all = vec!["get"];
        all.extend_from_slice(args);
        all.extend_from_slice(&["-o", &path]);
        let out = self.try_kubectl(&all)?;
        Ok(if out.success { out.stdout } else { String::new() })
    }

    /// Waits until `kubectl get ARGS -o jsonpath=PATH` prints `wanted`.
    ///
    /// # Errors
    /// Where it never does; with what it printed last and the end of the server's log.
    pub fn wait_for(&self, args: &[&str], path: &str, wanted: &str) -> Result<()> {
        let mut last = String::new();
        let what = format!("{} {path} to be `{wanted}`", args.join(" "));
        eventually(&what, || {
            last = self.jsonpath(args, path)?;
            Ok((last == wanted).then_some(()))
        })
        .with_context(|| format!("it was `{last}`\n{}", self.log_tail()))
    }

    /// Runs `orlop ARGS --data-dir …`, which must succeed.
    ///
    /// # Errors
    /// Where it fails; with what it said.
    pub fn orlop(&self, args: &[&str]) -> Result<String> {
        let out = self.try_orlop(args)?;
        if !out.success {
            bail!("`orlop {}` failed: {}{}", args.join(" "), out.stdout, out.stderr);
        }
        Ok(out.stdout)
    }

    /// Runs `orlop ARGS --data-dir …`, whatever its end.
    ///
    /// # Errors
    /// Where it cannot be run.
    pub fn try_orlop(&self, args: &[&str]) -> Result<Output> {
        capture(self.command(binary()?).args(args).arg("--data-dir").arg(self.dir().join("data")))
    }

    /// The end of the server's log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.dir().join("orlop.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default();
        format!("--- end of the server's log ---\n{}", tail.join("\n"))
    }

    fn spawn(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.dir().join("orlop.log"))?;
        let dir = self.dir().to_path_buf();
        let mut command = self.netns.command(binary()?);
        command
            .arg("server")
            .arg("--data-dir")
            .arg(dir.join("data"))
            .arg("--policies")
            .arg(dir.join("policies"))
            .arg("--manifests")
            .arg(dir.join("manifests"))
            .args(["--node-name", "node-1", "--node-ip"])
            .arg(self.netns.address().to_string())
            .arg("--plugin-cache")
            .arg(plugin_cache()?)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let begin = Instant::now();
        self.server = Some(command.spawn().context("cannot start orlop")?);
        let ready = eventually("the API to be ready", || {
            if let Some(status) = self.server.as_mut().and_then(|s| s.try_wait().ok().flatten()) {
                bail!("the server ended: {status}");
            }
            let probe = ["-sk", "--max-time", "2", &format!("{}/readyz", self.server_url())];
            let ready = self.kubeconfig().is_file()
                && capture(self.netns.command("curl").args(probe))?.stdout == "ok";
            Ok(ready.then_some(()))
        });
        self.time_to_serve = begin.elapsed();
        ready.with_context(|| self.log_tail())
    }

    fn wait_for_node(&self) -> Result<()> {
        self.wait_for(&["node", "node-1"], "{.status.conditions[?(@.type=='Ready')].status}", "True")?;
        eventually("the default ServiceAccount", || {
            Ok(self.try_kubectl(&["get", "serviceaccount", "default"])?.success.then_some(()))
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        match self.try_orlop(&["reset"]) {
            Ok(out) if out.success => {}
            Ok(out) => eprintln!("`orlop reset` failed: {}{}", out.stdout, out.stderr),
            Err(error) => eprintln!("`orlop reset` failed: {error:#}"),
        }
    }
}

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The binary under test.
///
/// # Errors
/// Where it was not built.
pub fn binary() -> Result<PathBuf> {
    artifact("ORLOP_BIN", "release/orlop")
}

/// Compiled plugins, shared by all clusters of the tests.
fn plugin_cache() -> Result<PathBuf> {
    let artifacts = artifact("ORLOP_TEST_IMAGE", "orlop/busybox.tar")?;
    Ok(artifacts.parent().context("the image is in no folder")?.join("plugin-cache"))
}

/// Runs a command to its end and returns what it said.
///
/// # Errors
/// Where it cannot be run.
pub fn capture(command: &mut Command) -> Result<Output> {
    let shown = format!("{command:?}");
    Ok(output(&command.output().with_context(|| format!("cannot run {shown}"))?))
}

fn output(out: &std::process::Output) -> Output {
    Output {
        success: out.status.success(),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

fn run(command: &mut Command) -> Result<()> {
    let out = capture(command)?;
    if !out.success {
        bail!("{command:?} failed: {}", out.stderr);
    }
    Ok(())
}
