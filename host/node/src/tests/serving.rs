//! The node's API over a plain connection (TLS is rustls' business).

use super::*;
use crate::pod::actions::Shared;
use crate::pods::Registry;
use crate::server::Server;
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

async fn get(server: &Server, path: &str) -> (u16, String) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let serve = server.clone().serve(theirs);
    let talk = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.unwrap();
        let request = http::Request::get(path).header("Host", "n").body(Empty::<Bytes>::new()).unwrap();
        let answer = async {
            let response = sender.send_request(request).await.unwrap();
            let code = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            drop(sender);
            (code, String::from_utf8_lossy(&body).into_owned())
        };
        tokio::join!(answer, connection).0
    };
    tokio::join!(serve, talk).1
}

#[tokio::test]
async fn logs_pods_and_exec() {
    let mut c = Cluster::new();
    let cancel = CancellationToken::new();
    c.start();
    let uid = c.create("web", one());
    c.until_ready("web").await;
    // A second view of the same pods, without a socket: the parts of the agent behind its server.
    let registry: Arc<Registry> = Arc::default();
    let shared = shared_for_tests(&c, &cancel);
    let server = Server::new(shared, registry.clone(), tokio_util::task::TaskTracker::new(), cancel.clone());
    let pod: k8s_openapi::api::core::v1::Pod = serde_json::from_value(c.pod("web").unwrap()).unwrap();
    let id = c.runtime.running("c").remove(0);
    registry.put_for_tests(&uid, Arc::new(pod), "c", &id);

    assert_eq!(get(&server, "/healthz").await, (200, "ok".to_owned()));
    let (code, pods) = get(&server, "/pods").await;
    let pods: Value = serde_json::from_str(&pods).unwrap();
    assert_eq!((code, &pods["items"][0]["metadata"]["name"]), (200, &json!("web")));
    assert_eq!(get(&server, "/containerLogs/default/web/c").await, (200, "hello\n".to_owned()));
    assert_eq!(get(&server, "/containerLogs/default/web/none").await.0, 404);
    assert_eq!(
        get(&server, "/containerLogs/default/none/c").await,
        (404, "pod \"none\" does not exist".to_owned())
    );
    assert_eq!(
        get(&server, "/containerLogs/default/web/c?previous=true").await,
        (400, "previous terminated container \"c\" in pod \"web\" not found".to_owned())
    );
    assert_eq!(get(&server, "/exec/default/web/c?command=x&output=1").await.0, 400, "no upgrade");
    assert_eq!(get(&server, "/nonsense").await.0, 404);

    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let serve = server.clone().serve(theirs);
    let talk = async {
        let mut request =
            "ws://n/exec/default/web/c?command=say&command=hi&output=1".into_client_request().unwrap();
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", "v5.channel.k8s.io, v4.channel.k8s.io".parse().unwrap());
        let (mut socket, response) = tokio_tungstenite::client_async(request, ours).await.unwrap();
        assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "v5.channel.k8s.io");
        let mut seen = Vec::new();
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Binary(b) = message {
                seen.push(b);
            } else {
                break;
            }
        }
        seen
    };
    let (_, seen) = tokio::join!(serve, talk);
    assert_eq!(seen[1].as_ref(), b"\x01say hi");
    let status: Value = serde_json::from_slice(&seen.last().unwrap()[1..]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "7");

    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let serve = server.clone().serve(theirs);
    let talk = async {
        use futures::SinkExt;
        let mut request = "ws://n/portForward/default/web?port=80".into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "v4.channel.k8s.io".parse().unwrap());
        let (mut socket, _) = tokio_tungstenite::client_async(request, ours).await.unwrap();
        let first = socket.next().await.unwrap().unwrap().into_data();
        let second = socket.next().await.unwrap().unwrap().into_data();
        socket.send(Message::binary(vec![0, b'a'])).await.unwrap();
        let echo = socket.next().await.unwrap().unwrap().into_data();
        socket.close(None).await.unwrap();
        (first, second, echo)
    };
    let (_, (first, second, echo)) = tokio::join!(serve, talk);
    assert_eq!(
        (first.as_ref(), second.as_ref(), echo.as_ref()),
        ([0, 80, 0].as_ref(), [1, 80, 0].as_ref(), b"\0a".as_ref())
    );
    c.stop().await;
}

fn shared_for_tests(c: &Cluster, cancel: &CancellationToken) -> Arc<Shared> {
    use crate::objects::Objects;
    let tasks = tokio_util::task::TaskTracker::new();
    let config = Arc::new(c.config.clone());
    let objects = Arc::new(Objects::new(c.client(), Arc::new(|_| {}), tasks, cancel.clone()));
    let (recorder, _) = crate::events::Recorder::new(c.client(), "n", cancel.clone());
    let informer = orlop_client::Informer::new(
        c.client(),
        Gvr::new("", "v1", "services"),
        orlop_client::ListOptions::default(),
    );
    Arc::new(Shared {
        volumes: crate::volumes::VolumeSet::new(
            config.clone(),
            objects.clone(),
            crate::tokens::Tokens::new(c.client()),
        ),
        config,
        runtime: Arc::new(c.runtime.clone()),
        client: c.client(),
        objects,
        recorder,
        services: informer.start(cancel.clone()).0,
        allocatable: std::collections::BTreeMap::new(),
        memory_capacity: 1,
        host_dns: orlop_container::cri::DnsConfig::default(),
        starts: tokio::sync::Semaphore::new(1),
    })
}
