//! Pairing of forwarded streams, and a command against frames that were made by hand.

use super::*;
use crate::server::spdy::testing;
use orlop_container::RuntimeError;
use tokio::io::AsyncReadExt;

#[test]
fn streams_are_paired_by_request() {
    let of =
        |kind, port, request| Headers::of(&[("streamtype", kind), ("port", port), ("requestid", request)]);
    let mut pairs = HashMap::new();
    assert_eq!(pair(&mut pairs, 1, &of("error", "80", "0")), Ok(None));
    assert_eq!(pair(&mut pairs, 3, &of("error", "80", "1")), Ok(None));
    assert_eq!(pair(&mut pairs, 5, &of("error", "80", "1")), Err(()), "there is one already");
    assert_eq!(pair(&mut pairs, 7, &of("data", "80", "1")), Ok(Some((80, 7, 3))));
    assert_eq!(pair(&mut pairs, 9, &of("data", "80", "0")), Ok(Some((80, 9, 1))));
    assert_eq!(pair(&mut pairs, 11, &of("error", "81", "")), Ok(None));
    assert_eq!(pair(&mut pairs, 13, &of("data", "81", "")), Ok(Some((81, 13, 11))));
    for bad in [of("data", "0", "2"), of("data", "65536", "2"), of("shape", "80", "2"), of("data", "", "2")] {
        assert_eq!(pair(&mut pairs, 15, &bad), Err(()));
    }
    assert!(pairs.is_empty());
}

/// A command that answers its input, then its terminal's size, and exits with 3.
fn session() -> ExecSession {
    let (stdin, mut input) = tokio::io::duplex(1024);
    let (mut output, stdout) = tokio::io::duplex(1024);
    let (resize, mut sizes) = mpsc::channel(1);
    let exit = Box::pin(async move {
        let mut all = Vec::new();
        input.read_to_end(&mut all).await.map_err(|e| RuntimeError::io("read", e))?;
        let size: orlop_container::cri::TerminalSize = sizes.recv().await.unwrap();
        all.extend_from_slice(format!(" {}x{}", size.width, size.height).as_bytes());
        output.write_all(&all).await.map_err(|e| RuntimeError::io("write", e))?;
        Ok(3)
    });
    ExecSession {
        stdin: Some(Box::new(stdin)),
        stdout: Some(Box::new(stdout)),
        stderr: None,
        resize: Some(resize),
        exit,
    }
}

#[tokio::test]
async fn a_command_with_a_terminal() {
    let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
    let wants = Wants { stdin: true, stdout: true, stderr: false, tty: true, sizes: true };
    let server = command(ours, wants, async { Ok(session()) });
    let mut client = testing::Client::new();
    let mut bytes = Vec::new();
    for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "resize")] {
        bytes.extend_from_slice(&client.open(id, &[("streamtype", kind)]));
    }
    bytes.extend_from_slice(&data(7, b"{\"Width\":80,"));
    bytes.extend_from_slice(&data(3, b"hello"));
    bytes.extend_from_slice(&data(7, b"\"Height\":24}\n"));
    bytes.extend_from_slice(&end(3));
    theirs.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    let (result, read) = tokio::join!(server, theirs.read_to_end(&mut answer));
    result.unwrap();
    read.unwrap();
    let streams = testing::streams(&answer);
    assert_eq!(streams[&5], (b"hello 80x24".to_vec(), true));
    let status: serde_json::Value = serde_json::from_slice(&streams[&1].0).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert!(streams[&1].1, "the error stream ends");
}

#[tokio::test]
async fn a_command_that_does_not_start() {
    let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
    let wants = Wants { stdin: false, stdout: true, stderr: false, tty: false, sizes: false };
    let server = command(ours, wants, async { Err("no such file".to_owned()) });
    let mut client = testing::Client::new();
    let bytes = [client.open(1, &[("streamtype", "error")]), client.open(3, &[("streamtype", "stdout")])];
    theirs.write_all(&bytes.concat()).await.unwrap();
    let mut answer = Vec::new();
    let (result, read) = tokio::join!(server, theirs.read_to_end(&mut answer));
    result.unwrap();
    read.unwrap();
    let streams = testing::streams(&answer);
    let status: serde_json::Value = serde_json::from_slice(&streams[&1].0).unwrap();
    assert_eq!(status["message"], "Internal error occurred: no such file");
}
