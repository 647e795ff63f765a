//! Streams to a node: a stand-in for the node's agent answers over TLS.

use super::*;
use hyper::service::service_fn;
use std::convert::Infallible;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// An agent that answers logs with the path it was asked, and echoes upgraded streams.
async fn agent(f: &Fixture) -> u16 {
    let listener = TcpListener::bind((IpAddr::from([127, 0, 0, 1]), 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls = crate::pki::server_config(&f.pki.node_serving, &f.pki.ca.certificate).unwrap();
    let mut tls = (*tls).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::task::spawn_local(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                assert!(stream.get_ref().1.peer_certificates().is_some());
                let service = service_fn(|mut request: http::Request<Incoming>| async move {
                    let uri = request.uri().to_string();
                    if request.headers().contains_key("upgrade") {
                        let upgrade = hyper::upgrade::on(&mut request);
                        tokio::task::spawn_local(async move {
                            let mut stream = TokioIo::new(upgrade.await.unwrap());
                            let mut buffer = [0; 64];
                            let n = stream.read(&mut buffer).await.unwrap();
                            stream.write_all(&buffer[..n]).await.unwrap();
                        });
                        let protocol = request.headers().get("sec-websocket-protocol").cloned();
                        let mut response = http::Response::builder()
                            .status(101)
                            .header("connection", "Upgrade")
                            .header("upgrade", "websocket")
                            .header("x-path", uri)
                            .body(Full::new(Bytes::new()))
                            .unwrap();
                        if let Some(protocol) = protocol {
                            response.headers_mut().insert("sec-websocket-protocol", protocol);
                        }
                        return Ok::<_, Infallible>(response);
                    }
                    if uri.contains("missing") {
                        let body = Full::new(Bytes::from_static(b"container not found"));
                        return Ok(http::Response::builder().status(404).body(body).unwrap());
                    }
                    Ok(http::Response::new(Full::new(Bytes::from(format!("log of {uri}")))))
                });
                let connection = hyper::server::conn::http1::Builder::new();
                let _ = connection.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
            });
        }
    });
    port
}

async fn bound_pod(f: &Fixture) {
    let port = agent(f).await;
    f.post("/api/v1/nodes", &json!({"metadata":{"name":"n1"}})).await.ok();
    let status = json!({"status":{"addresses":[{"type":"InternalIP","address":"127.0.0.1"}],
        "daemonEndpoints":{"kubeletEndpoint":{"Port":port}}}});
    f.patch("/api/v1/nodes/n1/status", "merge-patch+json", &status).await.ok();
    let mut p = pod("p");
    p["spec"]["nodeName"] = json!("n1");
    p["spec"]["containers"].as_array_mut().unwrap().push(json!({"name":"missing","image":"b"}));
    f.post(PODS, &p).await.ok();
}

#[test]
fn logs_come_from_the_node() {
    run(async {
        let f = start().await;
        bound_pod(&f).await;
        let log = f.get(&format!("{PODS}/p/log?container=c&tailLines=5&follow=true")).await;
        assert_eq!(log.text, "log of /containerLogs/default/p/c?follow=true&tailLines=5");
        let which = f.get(&format!("{PODS}/p/log")).await.refused(400);
        assert_eq!(which, "a container name must be specified for pod p, choose one of: [c missing]");
        let wrong = f.get(&format!("{PODS}/p/log?container=x")).await.refused(400);
        assert_eq!(wrong, "container x is not valid for pod p");
        assert_eq!(
            f.get(&format!("{PODS}/p/log?container=missing")).await.refused(404),
            "container not found"
        );
        f.post(PODS, &pod("q")).await.ok();
        assert_eq!(f.get(&format!("{PODS}/q/log")).await.refused(400), "pod q does not have a host assigned");
        let proxied = f.get("/api/v1/nodes/n1/proxy/stats/summary?only_cpu=true").await;
        assert_eq!(proxied.text, "log of /stats/summary?only_cpu=true");
    });
}

#[test]
fn exec_becomes_a_pipe_to_the_node() {
    run(async {
        let f = start().await;
        bound_pod(&f).await;
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v5.channel.k8s.io"),
        ];
        let path = format!(
            "{PODS}/p/exec?container=c&command=sh&command=-c&command=echo%20a&stdin=true&stdout=true&tty=true"
        );
        let mut response = f.send(Caller::Admin, "GET", &path, &headers, "").await;
        assert_eq!(response.status().as_u16(), 101);
        assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
        assert_eq!(
            response.headers()["x-path"],
            "/exec/default/p/c?input=1&output=1&tty=1&command=sh&command=-c&command=echo%20a"
        );
        let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
        stream.write_all(b"hello").await.unwrap();
        let mut echoed = [0; 5];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut echoed)).await.unwrap().unwrap();
        assert_eq!(&echoed, b"hello");
        f.get(&format!("{PODS}/p/exec?container=c")).await.refused(400);
    });
}
