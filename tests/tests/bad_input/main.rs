//! Clear words where something is wrong, and nothing half-done left behind.

use anyhow::{Result, ensure};

use orlop_tests::{Cluster, Options, binary, capture};
use std::fs;
use std::net::TcpListener;
use std::process::Command;

fn orlop(args: &[&str]) -> Result<orlop_tests::Output> {
    capture(Command::new(binary()?).args(args))
}

#[test]
fn a_data_folder_in_use_foreign_or_of_another_version_is_refused() -> Result<()> {
    let c = Cluster::start_with(Options { without_image: true, ..Default::default() })?;
    let data = c.dir().join("data");
    let out = capture(
        c.command(binary()?).args(["server", "--listen", "127.0.0.1:7443", "--data-dir"]).arg(&data),
    )?;
    ensure!(!out.success && out.stderr.contains("in use"), "{out:?}");

    let dir = tempfile::tempdir()?;
    fs::create_dir(dir.path().join("store"))?;
    fs::write(dir.path().join("store/notes.txt"), "mine")?;
    let out = orlop(&["server", "--data-dir", &dir.path().to_string_lossy(), "--listen", "127.0.0.1:7444"])?;
    ensure!(!out.success && !out.stderr.contains("panicked"), "{out:?}");
    ensure!(fs::read_to_string(dir.path().join("store/notes.txt"))? == "mine", "left alone");
    Ok(())
}

#[test]
fn a_taken_port_is_named() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    let out = orlop(&["server", "--data-dir", &data.to_string_lossy(), "--listen", &address])?;
    ensure!(!out.success && out.stderr.contains(&address), "{out:?}");
    Ok(())
}

#[test]
fn missing_programs_are_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let out = capture(
        Command::new(binary()?)
            .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path().join("data"))
            .env("PATH", dir.path()),
    )?;
    ensure!(!out.success && out.stderr.contains("runc") && out.stderr.contains("apt-get install"), "{out:?}");
    Ok(())
}

#[test]
fn commands_say_what_is_wrong() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let junk = dir.path().join("junk");
    fs::write(&junk, "junk")?;
    let junk = junk.to_string_lossy();
    let data = dir.path().join("data");
    let data = data.to_string_lossy();
    for args in [
        vec!["image", "import", junk.as_ref(), "--data-dir", data.as_ref()],
        vec!["image", "import", "/does/not/exist.tar", "--data-dir", data.as_ref()],
        vec!["plugin", "apply", junk.as_ref(), "--kubeconfig", "/does/not/exist"],
        vec!["plugin", "inspect", junk.as_ref()],
        vec!["server", "--data-dir", data.as_ref(), "--pod-cidr", "10.0.0.0/99"],
        vec!["server", "--data-dir", data.as_ref(), "--policies", "/does/not/exist"],
        vec!["frobnicate"],
    ] {
        let out = orlop(&args)?;
        ensure!(!out.success && !out.stderr.trim().is_empty(), "{args:?}: {out:?}");
        ensure!(!out.stderr.contains("panicked"), "{args:?}: {out:?}");
    }
    Ok(())
}

#[test]
fn requests_that_make_no_sense_get_a_status() -> Result<()> {
    let c = Cluster::start_with(Options { without_image: true, ..Default::default() })?;
    let post = |body: &[u8], content_type: &str| -> Result<String> {
        let file = c.dir().join("body");
        fs::write(&file, body)?;
        let out = capture(
            c.command("curl")
                .args(["-sS", "-k", "-X", "POST", "-H", &format!("Content-Type: {content_type}")])
                .arg("--cert")
                .arg(c.dir().join("data/pki/admin.crt"))
                .arg("--key")
                .arg(c.dir().join("data/pki/admin.key"))
                .arg("--data-binary")
                .arg(format!("@{}", file.display()))
                .arg(format!("{}/api/v1/namespaces/default/configmaps", c.server_url())),
        )?;
        Ok(out.stdout)
    };
    let json = "application/json";
    for (body, content_type, code) in [
        (&b"{not json"[..], json, 400),
        (&b"[]"[..], json, 400),
        (&br#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}"#[..], json, 400),
        (&br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":1}}"#[..], json, 400),
        (&br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"X_"}}"#[..], json, 422),
        (&b"a: b: c"[..], "application/yaml", 400),
        (&b"hello"[..], "text/plain", 415),
        (&[b' '; 4 << 20][..], json, 413),
    ] {
        let answer = post(body, content_type)?;
        let status: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
        ensure!(
            status["kind"] == "Status" && status["code"] == code && status["message"].is_string(),
            "{code} wanted for {:?}, got {answer}",
            String::from_utf8_lossy(body.get(..80).unwrap_or(body))
        );
    }
    let out = c.try_kubectl(&[
        "--token=nonsense",
        "--server",
        &c.server_url(),
        "--insecure-skip-tls-verify",
        "--kubeconfig=/dev/null",
        "get",
        "pods",
    ])?;
    ensure!(
        !out.success && out.stderr.contains("Unauthorized") || out.stderr.contains("logged in"),
        "{out:?}"
    );
    Ok(())
}
