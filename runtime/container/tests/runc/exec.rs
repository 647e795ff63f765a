//! Exec, attach and port-forward.

use std::time::Duration;

use orlop_container::RuntimeError;
use orlop_container::cri::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

async fn running(f: &Fixture) -> (String, String) {
    let pod = f.run_pod("exec").await;
    let id = f.run_container(&pod, shell("main", "sleep 1000")).await;
    (pod, id)
}

fn sh(script: &str) -> Vec<String> {
    vec!["/bin/sh".into(), "-c".into(), script.into()]
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_and_end() {
    let f = Fixture::new().await;
    let (_, id) = running(&f).await;
    let done = f.runtime.exec_sync(&id, sh("echo out; echo err >&2; exit 5"), PATIENCE).await.unwrap();
    assert_eq!(
        (done.stdout.as_slice(), done.stderr.as_slice(), done.exit_code),
        (&b"out\n"[..], &b"err\n"[..], 5)
    );
    let done = f.runtime.exec_sync(&id, sh("kill -9 $$"), PATIENCE).await.unwrap();
    assert_eq!(done.exit_code, 137);
    let error = f.runtime.exec_sync(&id, vec!["/no/such".into()], PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("/no/such"), "{error}");
    let error =
        f.runtime.exec_sync(&id, sh("echo $$ > /tmp/pid; sleep 1000"), Duration::from_millis(500)).await;
    assert!(matches!(error, Err(RuntimeError::DeadlineExceeded(_))), "{error:?}");
    until("the timed-out command is gone", || async {
        let done =
            f.runtime.exec_sync(&id, sh("kill -0 $(cat /tmp/pid) 2>/dev/null"), PATIENCE).await.unwrap();
        (done.exit_code != 0).then_some(())
    })
    .await;
    let large =
        f.runtime.exec_sync(&id, sh("dd if=/dev/zero bs=1M count=3 2>/dev/null"), PATIENCE).await.unwrap();
    assert_eq!(large.stdout.len(), 3 << 20);
    let many = (0..8).map(|n| f.runtime.exec_sync(&id, sh(&format!("exit {n}")), PATIENCE).boxed_by(n));
    for (n, done) in futures::future::join_all(many).await {
        assert_eq!(done.unwrap().exit_code, n);
    }
}

trait BoxedBy: Sized {
    /// The future, its output paired with `n`.
    fn boxed_by<T>(self, n: T) -> impl Future<Output = (T, Self::Output)>
    where
        Self: Future,
    {
        async move { (n, self.await) }
    }
}

impl<F: Future> BoxedBy for F {}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_reaches_the_command_and_its_end_too() {
    let f = Fixture::new().await;
    let (_, id) = running(&f).await;
    let request = ExecRequest {
        container_id: id,
        cmd: vec!["/bin/cat".into()],
        stdin: true,
        stdout: true,
        ..Default::default()
    };
    let session = f.runtime.exec(request).await.unwrap();
    let (mut stdin, mut stdout) = (session.stdin.unwrap(), session.stdout.unwrap());
    let sent = vec![b'x'; 300_000];
    let copy = sent.clone();
    let writer = tokio::spawn(async move {
        stdin.write_all(&copy).await.unwrap();
        stdin.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    stdout.read_to_end(&mut got).await.unwrap();
    writer.await.unwrap();
    assert!(got == sent);
    assert_eq!(session.exit.await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_size() {
    let f = Fixture::new().await;
    let (_, id) = running(&f).await;
    let request = ExecRequest {
        container_id: id,
        cmd: sh("read line; echo got:$line; stty size; exit 4"),
        tty: true,
        stdin: true,
        stdout: true,
        ..Default::default()
    };
    let session = f.runtime.exec(request).await.unwrap();
    session.resize.as_ref().unwrap().send(TerminalSize { width: 101, height: 37 }).await.unwrap();
    let mut stdin = session.stdin.unwrap();
    // The size is set by a task of its own; give the shell its line once it is.
    until("the resize is taken", || {
        let free = session.resize.as_ref().unwrap().capacity() == 4;
        async move { free.then_some(()) }
    })
    .await;
    stdin.write_all(b"typed\n").await.unwrap();
    let mut text = String::new();
    session.stdout.unwrap().read_to_string(&mut text).await.unwrap();
    assert!(text.contains("got:typed\r\n") && text.contains("37 101\r\n"), "{text:?}");
    assert_eq!(session.exit.await.unwrap(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_joins_the_main_process() {
    let f = Fixture::new().await;
    let pod = f.run_pod("attach").await;
    let mut config = shell("main", "while read line; do echo got $line; done; exit 9");
    config.stdin = true;
    config.stdin_once = true;
    let id = f.run_container(&pod, config).await;
    let request =
        AttachRequest { container_id: id.clone(), stdin: true, stdout: true, stderr: true, tty: false };
    let session = f.runtime.attach(request).await.unwrap();
    let (mut stdin, mut stdout) = (session.stdin.unwrap(), session.stdout.unwrap());
    stdin.write_all(b"a\nb\n").await.unwrap();
    drop(stdin);
    let mut text = String::new();
    stdout.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "got a\ngot b\n");
    assert_eq!(session.exit.await.unwrap(), 9);
    assert_eq!(f.wait_exit(&id).await.exit_code, 9);
    assert_eq!(f.log_text(&id).await, "got a\ngot b\n");

    let mut config = shell("tty", "stty size; read x; stty size; exit 2");
    config.stdin = true;
    config.tty = true;
    let id = f.run_container(&pod, config).await;
    let request =
        AttachRequest { container_id: id.clone(), stdin: true, stdout: true, stderr: false, tty: true };
    let session = f.runtime.attach(request).await.unwrap();
    let resize = session.resize.unwrap();
    resize.send(TerminalSize { width: 90, height: 20 }).await.unwrap();
    let mut stdin = session.stdin.unwrap();
    until("the size is set", || async {
        let done = f.runtime.exec_sync(&id, sh("stty size < /proc/1/fd/0"), PATIENCE).await.unwrap();
        done.stdout.starts_with(b"20 90").then_some(())
    })
    .await;
    stdin.write_all(b"\n").await.unwrap();
    assert_eq!(session.exit.await.unwrap(), 2);
    assert!(f.log_text(&id).await.contains("20 90"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_forwarded_into_the_pod() {
    let f = Fixture::new().await;
    let pod = f.run_pod("forward").await;
    let server = "nc -l -p 8000 -e /bin/cat";
    f.run_container(&pod, shell("main", server)).await;
    let mut stream =
        until("the server listens", || async { f.runtime.port_forward(&pod, 8000).await.ok() }).await;
    stream.write_all(b"ping").await.unwrap();
    let mut got = [0; 4];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"ping");
    let error = f.runtime.port_forward(&pod, 9).await.err().unwrap().to_string();
    assert!(error.contains("localhost:9"), "{error}");
}
