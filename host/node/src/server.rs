//! The node's HTTPS API: health, pods, logs, exec, attach, port-forward.
//!
//! Every connection has shown a client certificate of the cluster's CA (the TLS configuration
//! sees to that); only the API server and administrators hold one that gets this far.

mod routes;
mod spdy;
mod stats;
mod streams;
pub(crate) mod tls;

use crate::pod::actions::Shared;
use crate::pods::Registry;
use bytes::Bytes;
use http::Response;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Body of an answer; streams do not fail, they end.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How long a client may take for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections served at a time; more wait to be accepted.
const CONNECTIONS: usize = 256;

/// See the module.
#[derive(Clone)]
pub(crate) struct Server {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// Spawns what HTTP/2 needs beside the connection, tracked.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// A plain text answer.
fn text(code: http::StatusCode, message: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(full(message.into()));
    *response.status_mut() = code;
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    response
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

impl Server {
    pub(crate) fn new(
        shared: Arc<Shared>,
        registry: Arc<Registry>,
        tasks: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        Self { shared, registry, tasks, cancel }
    }

    /// Serves until the cancellation that it was made with.
    pub(crate) async fn run(self, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
        let acceptor = tokio_rustls::TlsAcceptor::from(tls);
        let limit = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
        loop {
            let Ok(permit) = limit.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = self.cancel.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    // Out of file descriptors, mostly: wait for some to be closed.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (server, acceptor) = (self.clone(), acceptor.clone());
            self.tasks.spawn(async move {
                let _permit = permit;
                server.connection(socket, acceptor).await;
            });
        }
    }

    async fn connection(self, socket: TcpStream, acceptor: tokio_rustls::TlsAcceptor) {
        if let Err(error) = socket.set_nodelay(true) {
            tracing::trace!(%error, "TCP_NODELAY could not be set");
        }
        let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                return;
            }
            Err(_) => return,
        };
        self.serve(stream).await;
    }

    /// Serves one connection, HTTP/1.1 or HTTP/2.
    pub(crate) async fn serve<S>(self, stream: S)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (cancel, tasks) = (self.cancel.clone(), self.tasks.clone());
        let service = service_fn(move |request: http::Request<Incoming>| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.handle(request).await) }
        });
        let builder = hyper_util::server::conn::auto::Builder::new(Tracked(tasks));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::trace!(error = %error, "a connection ended");
                }
            }
            () = cancel.cancelled() => {}
        }
    }
}
