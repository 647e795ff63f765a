//! Framing against a WebSocket client that we did not write.

use super::*;
use orlop_container::RuntimeError;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Client = WebSocketStream<tokio::io::DuplexStream>;

/// A session that upper-cases its input until end of file, then exits with `code`.
fn shouting(code: i32) -> ExecSession {
    let (stdin, mut input) = tokio::io::duplex(1024);
    let (mut output, stdout) = tokio::io::duplex(1024);
    let exit = Box::pin(async move {
        let mut block = [0; 64];
        loop {
            match input.read(&mut block).await {
                Ok(0) | Err(_) => break,
                Ok(n) => output
                    .write_all(&block[..n].to_ascii_uppercase())
                    .await
                    .map_err(|e| RuntimeError::io("write", e))?,
            }
        }
        Ok(code)
    });
    ExecSession {
        stdin: Some(Box::new(stdin)),
        stdout: Some(Box::new(stdout)),
        stderr: None,
        resize: None,
        exit,
    }
}

async fn run(protocol: &str, code: i32, talk: impl AsyncFnOnce(&mut Client) -> Vec<Message>) -> Vec<Message> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let socket = WebSocketStream::from_raw_socket(ours, Role::Server, None).await;
    let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
    let wants = Wants { stdin: true, stdout: true, stderr: false, tty: false, sizes: false };
    let server = serve(socket, Wire::of(protocol), wants, shouting(code));
    let (_, seen) = tokio::join!(server, talk(&mut client));
    seen
}

async fn rest(client: &mut Client) -> Vec<Message> {
    let mut seen = Vec::new();
    while let Some(Ok(message)) = client.next().await {
        let close = message.is_close();
        seen.push(message);
        if close {
            break;
        }
    }
    seen
}

#[tokio::test]
async fn v5_closes_stdin_and_reports_success() {
    let seen = run("v5.channel.k8s.io", 0, async |client| {
        client.send(Message::binary(vec![0, b'h', b'i'])).await.unwrap();
        client.send(Message::binary(vec![255, 0])).await.unwrap();
        rest(client).await
    })
    .await;
    let frames: Vec<&[u8]> = seen
        .iter()
        .filter_map(|m| if let Message::Binary(b) = m { Some(b.as_ref()) } else { None })
        .collect();
    assert_eq!(frames.first(), Some(&[1_u8].as_ref()), "an empty frame says that it is open");
    assert_eq!(frames.get(1), Some(&b"\x01HI".as_ref()));
    let status: serde_json::Value = serde_json::from_slice(&frames.last().unwrap()[1..]).unwrap();
    assert_eq!((frames.last().unwrap()[0], &status["status"]), (3, &json!("Success")));
    assert!(matches!(seen.last(), Some(Message::Close(Some(f))) if f.code == CloseCode::Normal), "{seen:?}");
}

#[tokio::test]
async fn exit_codes_are_causes() {
    let seen = run("v5.channel.k8s.io", 3, async |client| {
        client.send(Message::binary(vec![255, 0])).await.unwrap();
        rest(client).await
    })
    .await;
    let last =
        seen.iter().rev().find_map(|m| if let Message::Binary(b) = m { Some(b.clone()) } else { None });
    let status: serde_json::Value = serde_json::from_slice(&last.unwrap()[1..]).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
}

#[tokio::test]
async fn base64_frames_and_a_client_that_goes() {
    let seen = run("v4.base64.channel.k8s.io", 0, async |client| {
        client.send(Message::text(format!("0{}", STANDARD.encode("hi")))).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            seen.push(client.next().await.unwrap().unwrap());
        }
        client.send(Message::Close(None)).await.unwrap();
        seen
    })
    .await;
    assert_eq!(seen[1], Message::text(format!("1{}", STANDARD.encode("HI"))));
}
