//! The server as clients see it: real HTTPS over the store in memory.

mod auth;
mod bindings;
mod crds;
mod deletion;
mod eviction;
mod lists;
mod loopback;
mod patches;
mod rbac;
mod services;
mod streams;
mod types;
mod watches;
mod writes;

use crate::pki::{Names, Pki};
use crate::{ApiServer, Config, Parts};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use orlop_store::{MemoryStore, Store};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Long enough for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

struct Fixture {
    server: ApiServer,
    pki: Pki,
    store: Arc<MemoryStore>,
    address: SocketAddr,
    cancel: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// An answer, read to its end.
struct Answer {
    code: u16,
    headers: http::HeaderMap,
    text: String,
    body: Value,
}

impl Answer {
    fn ok(self) -> Value {
        assert!((200..300).contains(&self.code), "{}: {}", self.code, self.text);
        self.body
    }

    /// The message of a refusal with that code.
    fn refused(self, code: u16) -> String {
        assert_eq!(self.code, code, "{}", self.text);
        assert_eq!(self.body["kind"], "Status", "{}", self.text);
        assert_eq!(self.body["code"], code);
        self.body["message"].as_str().unwrap().to_owned()
    }
}

/// Who calls.
#[derive(Clone, Copy)]
enum Caller<'a> {
    Admin,
    Node,
    Nobody,
    Token(&'a str),
}

async fn start() -> Fixture {
    start_with(|_| {}).await
}

async fn start_with(adjust: impl FnOnce(&mut Config)) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let local = IpAddr::from([127, 0, 0, 1]);
    let listener = TcpListener::bind((local, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut config = Config { advertise_address: local, secure_port: address.port(), ..Config::default() };
    adjust(&mut config);
    let names =
        Names { node_name: "n1".into(), addresses: vec![local], service_ip: config.service_network.first() };
    let pki = Pki::load_or_create(folder.path(), &names).unwrap();
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let store = MemoryStore::new(tracker.clone(), cancel.clone());
    let parts = Parts {
        store: store.clone() as Arc<dyn Store>,
        tokens: pki.token_issuer(&config.service_account_issuer, &config.api_audiences).unwrap(),
        nodes: Some(pki.kubelet_client_config().unwrap()),
        authorizer: None,
        tracker: tracker.clone(),
        cancel: cancel.clone(),
    };
    let server = ApiServer::start(config, parts).await.unwrap();
    tracker.spawn(server.serve_task(listener, pki.server_config().unwrap()));
    Fixture { server, pki, store, address, cancel, _folder: folder }
}

impl Fixture {
    /// Another server over the same store, as after a restart.
    async fn second(&self) -> ApiServer {
        let local = self.address.ip();
        let config =
            Config { advertise_address: local, secure_port: self.address.port(), ..Config::default() };
        let parts = Parts {
            store: self.store.clone() as Arc<dyn Store>,
            tokens: self.pki.token_issuer(&config.service_account_issuer, &config.api_audiences).unwrap(),
            nodes: None,
            authorizer: None,
            tracker: TaskTracker::new(),
            cancel: self.cancel.clone(),
        };
        ApiServer::start(config, parts).await.unwrap()
    }

    async fn send(
        &self,
        caller: Caller<'_>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<Incoming> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pki.ca.certificate.as_bytes()).unwrap()).unwrap();
        let builder =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
        let pair = match caller {
            Caller::Admin => Some(&self.pki.admin),
            Caller::Node => Some(&self.pki.node_client),
            Caller::Nobody | Caller::Token(_) => None,
        };
        let config = match pair {
            Some(pair) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap(),
                )
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::from(self.address.ip());
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::task::spawn_local(connection.with_upgrades());
        let mut request = http::Request::builder().method(method).uri(path).header("host", "localhost");
        if let Caller::Token(token) = caller {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        sender.send_request(request.body(Full::new(body.into())).unwrap()).await.unwrap()
    }

    async fn call(
        &self,
        caller: Caller<'_>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let work = async {
            let response = self.send(caller, method, path, headers, body).await;
            let (parts, body) = response.into_parts();
            let bytes = body.collect().await.unwrap().to_bytes();
            (parts, bytes)
        };
        let (parts, bytes) = tokio::time::timeout(PATIENCE, work).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Answer { code: parts.status.as_u16(), headers: parts.headers, text, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(Caller::Admin, "GET", path, &[], "").await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let json = [("content-type", "application/json")];
        self.call(Caller::Admin, "POST", path, &json, body.to_string()).await
    }

    async fn put(&self, path: &str, body: &Value) -> Answer {
        let json = [("content-type", "application/json")];
        self.call(Caller::Admin, "PUT", path, &json, body.to_string()).await
    }

    async fn patch(&self, path: &str, kind: &str, body: &Value) -> Answer {
        let kind = format!("application/{kind}");
        self.call(Caller::Admin, "PATCH", path, &[("content-type", &kind)], body.to_string()).await
    }

    async fn delete(&self, path: &str, body: Option<Value>) -> Answer {
        let body = body.map(|b| b.to_string()).unwrap_or_default();
        self.call(Caller::Admin, "DELETE", path, &[("content-type", "application/json")], body).await
    }

    async fn watch(&self, path: &str, headers: &[(&str, &str)]) -> Events {
        let response = self.send(Caller::Admin, "GET", path, headers, "").await;
        let code = response.status().as_u16();
        Events { code, body: response.into_body(), buffer: Vec::new() }
    }
}

/// A watch being read.
struct Events {
    code: u16,
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.unwrap()?;
            if let Ok(data) = frame.unwrap().into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// Type and name of the next event.
    async fn brief(&mut self) -> (String, String) {
        let event = self.next().await.expect("the watch ended");
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}

/// Runs a test on one thread, so that client tasks need no `Send`.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

fn config_map(name: &str, labels: Value, value: &str) -> Value {
    json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":name,"labels":labels},"data":{"k":value}})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":name},
        "spec":{"containers":[{"name":"c","image":"busybox"}]}})
}

fn deployment(name: &str) -> Value {
    json!({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":name},"spec":{"replicas":1,
        "selector":{"matchLabels":{"app":name}},"template":{"metadata":{"labels":{"app":name}},
        "spec":{"containers":[{"name":"c","image":"busybox"}]}}}})
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
