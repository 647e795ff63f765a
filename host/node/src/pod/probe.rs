//! Probes: when each is due, what it asks, and what its answer means.
//!
//! The schedule belongs to the worker and is pure; only [`ask`] does I/O.
//!
//! Source of the rules: `pkg/kubelet/prober`.

use super::model::{FailedProbe, PodModel, Role};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use orlop_container::Runtime;
use std::net::IpAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    Liveness,
    Readiness,
    Startup,
}

impl ProbeKind {
    const ALL: [Self; 3] = [Self::Startup, Self::Readiness, Self::Liveness];

    /// As in events.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
            Self::Startup => "Startup",
        }
    }

    pub(crate) fn of(self, spec: &Container) -> Option<&Probe> {
        match self {
            Self::Liveness => spec.liveness_probe.as_ref(),
            Self::Readiness => spec.readiness_probe.as_ref(),
            Self::Startup => spec.startup_probe.as_ref(),
        }
    }
}

/// One probe of one container instance.
#[derive(Clone, Debug)]
pub(crate) struct ProbeState {
    pub(crate) kind: ProbeKind,
    pub(crate) at: usize,
    pub(crate) container_id: Box<str>,
    pub(crate) next: Timestamp,
    pub(crate) in_flight: bool,
    /// Equal answers in a row, and what they were.
    run: (u32, bool),
    /// Extra tries of a readiness probe before its first period is over.
    early: u32,
}

/// What one probe said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Success,
    Failure(String),
    /// The probe itself did not work; counts as neither.
    Unknown(String),
}

/// What an answer means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The result is now this.
    pub(crate) result: Option<bool>,
    /// To be reported as an `Unhealthy` event.
    pub(crate) event: Option<String>,
}

fn period(probe: &Probe) -> SignedDuration {
    SignedDuration::from_secs(i64::from(probe.period_seconds.unwrap_or(10).max(1)))
}

/// Brings the list of probes to what the model asks for: one per probe of every running instance.
/// Liveness and readiness wait for startup; liveness and startup end with the pod.
pub(crate) fn reconcile(m: &PodModel, probes: &mut Vec<ProbeState>, now: Timestamp) {
    let wanted = |at: usize, kind: ProbeKind| {
        let c = m.containers.get(at)?;
        let spec = m.container_spec(at)?;
        let probe = kind.of(spec)?;
        let instance = c.current.as_ref()?;
        let active = match kind {
            ProbeKind::Startup => !c.health.started,
            ProbeKind::Liveness | ProbeKind::Readiness => c.health.started,
        } && c.is_running()
            && instance.hook_done
            && c.role != Role::Init
            && c.health.failed.is_none()
            && (m.stop.is_none() || kind == ProbeKind::Readiness);
        active.then_some((probe, instance))
    };
    probes.retain(|p| wanted(p.at, p.kind).is_some_and(|(_, instance)| instance.id == p.container_id));
    for at in 0..m.containers.len() {
        for kind in ProbeKind::ALL {
            if probes.iter().any(|p| p.at == at && p.kind == kind) {
                continue;
            }
            let Some((probe, instance)) = wanted(at, kind) else { continue };
            let delay = SignedDuration::from_secs(i64::from(probe.initial_delay_seconds.unwrap_or(0).max(0)));
            let first = instance.started_at.and_then(|s| s.checked_add(delay).ok()).unwrap_or(now);
            probes.push(ProbeState {
                kind,
                at,
                container_id: instance.id.clone(),
                next: first.max(now),
                in_flight: false,
                run: (0, false),
                early: 0,
            });
        }
    }
}

impl ProbeState {
    /// Takes in an answer: counts it, plans the next probe.
    pub(crate) fn answer(&mut self, probe: &Probe, answer: &Answer, ready: bool, now: Timestamp) -> Verdict {
        self.in_flight = false;
        let every = period(probe);
        self.next = now.saturating_add(every).unwrap_or(now);
        let (ok, output) = match answer {
            Answer::Success => (true, None),
            Answer::Failure(output) => (false, Some(output)),
            Answer::Unknown(why) => {
                let event =
                    format!("{} probe errored and resulted in unknown state: {why}", self.kind.as_str());
                return Verdict { result: None, event: Some(event) };
            }
        };
        // A server that is about to listen is asked again soon, without counting: a pod need not
        // be unready for a whole period because it was asked a moment too early.
        let cheap = probe.http_get.is_some() || probe.tcp_socket.is_some();
        if !ok && self.kind == ProbeKind::Readiness && !ready && cheap && self.early < 12 {
            self.early += 1;
            let soon = SignedDuration::from_millis((25_i64 << self.early.min(6)).min(1000));
            if soon < every {
                self.next = now.saturating_add(soon).unwrap_or(now);
                if self.early > 1 {
                    return Verdict::default();
                }
            }
        }
        self.run = if self.run.0 > 0 && self.run.1 == ok { (self.run.0 + 1, ok) } else { (1, ok) };
        let threshold =
            if ok { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        let reached = self.run.0 >= u32::try_from(threshold.max(1)).unwrap_or(1);
        Verdict {
            result: reached.then_some(ok),
            event: output.map(|o| format!("{} probe failed: {o}", self.kind.as_str())),
        }
    }

    /// Which restart a failed result asks for.
    pub(crate) fn failed(&self) -> Option<FailedProbe> {
        match self.kind {
            ProbeKind::Liveness => Some(FailedProbe::Liveness),
            ProbeKind::Startup => Some(FailedProbe::Startup),
            ProbeKind::Readiness => None,
        }
    }
}

/// The number of a port that may be given by name.
pub(crate) fn port_number(port: &IntOrString, spec: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => *n,
        IntOrString::String(name) => {
            match spec.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name)) {
                Some(p) => p.container_port,
                None => name
                    .parse()
                    .map_err(|_| format!("couldn't find port: {name:?} in container {}", spec.name))?,
            }
        }
    };
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// Asks once.
pub(crate) async fn ask(
    runtime: &dyn Runtime,
    probe: &Probe,
    spec: &Container,
    container_id: &str,
    pod_ip: Option<IpAddr>,
) -> Answer {
    let timeout = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1).max(1)).unwrap_or(1));
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        return match runtime.exec_sync(container_id, command, timeout).await {
            Ok(r) => {
                let mut output = r.stdout;
                output.extend_from_slice(&r.stderr);
                output.truncate(10 * 1024);
                let output = String::from_utf8_lossy(&output).into_owned();
                if r.exit_code == 0 { Answer::Success } else { Answer::Failure(output) }
            }
            Err(orlop_container::RuntimeError::DeadlineExceeded(_)) => Answer::Failure(format!(
                "command timed out: {shown:?} timed out after {}s",
                timeout.as_secs()
            )),
            Err(e) => Answer::Unknown(e.to_string()),
        };
    }
    if let Some(get) = &probe.http_get {
        return match http_get(get, spec, pod_ip, timeout).await {
            Ok((code, _)) if (200..400).contains(&code) => Answer::Success,
            Ok((code, _)) => Answer::Failure(format!("HTTP probe failed with statuscode: {code}")),
            Err(why) => Answer::Failure(why),
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        let port = match port_number(&tcp.port, spec) {
            Ok(port) => port,
            Err(why) => return Answer::Unknown(why),
        };
        let host = host_of(tcp.host.as_deref(), pod_ip);
        return match connect(&host, port, timeout).await {
            Ok(_) => Answer::Success,
            Err(why) => Answer::Failure(why),
        };
    }
    if probe.grpc.is_some() {
        return Answer::Unknown("grpc probes are not supported by this node".to_owned());
    }
    Answer::Unknown("missing probe handler".to_owned())
}

fn host_of(host: Option<&str>, pod_ip: Option<IpAddr>) -> String {
    match host.filter(|h| !h.is_empty()) {
        Some(host) => host.to_owned(),
        None => pod_ip.map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string()),
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// As Go's dialler words it.
async fn connect(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, String> {
    let address = authority(host, port);
    match tokio::time::timeout(timeout, TcpStream::connect(&address)).await {
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
        Ok(Err(e)) => {
            let why = match e.kind() {
                std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
                std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
                std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
                std::io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
                _ => e.to_string(),
            };
            Err(format!("dial tcp {address}: connect: {why}"))
        }
        Ok(Ok(stream)) => Ok(stream),
    }
}

/// GET as `kube-probe` sends it; the status and up to 10 KiB of the body.
pub(crate) async fn http_get(
    get: &HTTPGetAction,
    spec: &Container,
    pod_ip: Option<IpAddr>,
    timeout: Duration,
) -> Result<(u16, Bytes), String> {
    let port = port_number(&get.port, spec)?;
    let host = host_of(get.host.as_deref(), pod_ip);
    let path = get.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let url = format!("{scheme}://{}{path}", authority(&host, port));
    let explain = |why: String| format!("Get {url:?}: {why}");
    let work = async {
        let stream = connect(&host, port, timeout).await?;
        if scheme == "https" {
            let name = rustls::pki_types::ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
            let connector = tokio_rustls::TlsConnector::from(crate::server::tls::trust_anyone()?);
            let stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
            exchange(stream, get, &path, &authority(&host, port)).await
        } else {
            exchange(stream, get, &path, &authority(&host, port)).await
        }
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result.map_err(explain),
        Err(_) => Err(explain(
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned(),
        )),
    }
}

async fn exchange<S>(
    stream: S,
    get: &HTTPGetAction,
    path: &str,
    authority: &str,
) -> Result<(u16, Bytes), String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let mut request = http::Request::get(path);
    let mut host = authority.to_owned();
    let (mut agent, mut accept) = (false, false);
    for header in get.http_headers.iter().flatten() {
        match header.name.to_ascii_lowercase().as_str() {
            "host" => host.clone_from(&header.value),
            name => {
                agent |= name == "user-agent";
                accept |= name == "accept";
                request = request.header(&header.name, &header.value);
            }
        }
    }
    if !agent {
        request = request.header("User-Agent", "kube-probe/1.36");
    }
    if !accept {
        request = request.header("Accept", "*/*");
    }
    let request = request
        .header("Host", host)
        .header("Connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    // The connection is driven here and dropped with this future: nothing is left behind.
    tokio::pin!(connection);
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), 10 * 1024).collect().await;
        Ok((code, body.map(|b| b.to_bytes()).unwrap_or_default()))
    };
    tokio::pin!(answer);
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            ended = &mut connection, if open => {
                open = false;
                if let Err(error) = ended {
                    tracing::trace!(%error, "a probe's connection ended");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn probe(value: serde_json::Value) -> Probe {
        serde_json::from_value(value).unwrap()
    }

    fn state(kind: ProbeKind) -> ProbeState {
        ProbeState {
            kind,
            at: 0,
            container_id: "c".into(),
            next: Timestamp::UNIX_EPOCH,
            in_flight: true,
            run: (0, false),
            early: 0,
        }
    }

    #[test]
    fn thresholds() {
        let p = probe(json!({"exec": {"command": ["x"]}, "failureThreshold": 2, "successThreshold": 1}));
        let mut s = state(ProbeKind::Liveness);
        let now = Timestamp::UNIX_EPOCH;
        let fail = Answer::Failure("no".into());
        let first = s.answer(&p, &fail, true, now);
        assert_eq!(first, Verdict { result: None, event: Some("Liveness probe failed: no".into()) });
        assert_eq!(s.answer(&p, &Answer::Success, true, now).result, Some(true));
        assert_eq!(s.answer(&p, &fail, true, now).result, None, "a success starts the count again");
        assert_eq!(s.answer(&p, &Answer::Unknown("?".into()), true, now).result, None);
        assert_eq!(s.answer(&p, &fail, true, now).result, Some(false));
        assert_eq!(s.next, now + SignedDuration::from_secs(10));
    }

    #[test]
    fn an_unready_server_is_asked_again_soon() {
        let p = probe(json!({"tcpSocket": {"port": 80}, "periodSeconds": 10}));
        let mut s = state(ProbeKind::Readiness);
        let now = Timestamp::UNIX_EPOCH;
        let fail = Answer::Failure("no".into());
        s.answer(&p, &fail, false, now);
        assert!(s.next < now + SignedDuration::from_secs(1));
        for _ in 0..20 {
            assert!(s.answer(&p, &fail, false, now).result.is_none() || s.early >= 12);
        }
        assert_eq!(s.next, now + SignedDuration::from_secs(10), "but not for ever");
    }

    #[test]
    fn ports_by_name() {
        let spec: Container =
            serde_json::from_value(json!({"name": "c", "ports": [{"name": "http", "containerPort": 80}]}))
                .unwrap();
        assert_eq!(port_number(&IntOrString::String("http".into()), &spec), Ok(80));
        assert_eq!(port_number(&IntOrString::String("81".into()), &spec), Ok(81));
        assert!(port_number(&IntOrString::String("none".into()), &spec).is_err());
        assert!(port_number(&IntOrString::Int(0), &spec).is_err());
    }

    #[tokio::test]
    async fn http_over_a_real_socket() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async {
            let mut seen = String::new();
            for code in ["200 OK", "503 No"] {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut buffer = [0_u8; 1024];
                let n = socket.read(&mut buffer).await.unwrap();
                seen = String::from_utf8_lossy(&buffer[..n]).into_owned();
                let answer = format!("HTTP/1.1 {code}\r\nContent-Length: 2\r\n\r\nhi");
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
            seen
        };
        let spec: Container = serde_json::from_value(json!({"name": "c"})).unwrap();
        let get: HTTPGetAction = serde_json::from_value(json!({"port": port, "path": "ok",
            "httpHeaders": [{"name": "Host", "value": "example.org"}]}))
        .unwrap();
        let limit = Duration::from_secs(20);
        let client = async {
            let ip = Some("127.0.0.1".parse().unwrap());
            let first = http_get(&get, &spec, ip, limit).await.unwrap();
            let second = http_get(&get, &spec, ip, limit).await.unwrap();
            (first, second)
        };
        let (seen, (first, second)) = tokio::join!(server, client);
        assert!(seen.starts_with("GET /ok HTTP/1.1\r\n"), "{seen}");
        assert!(seen.to_lowercase().contains("host: example.org\r\n"), "{seen}");
        assert_eq!((first.0, first.1.as_ref(), second.0), (200, b"hi".as_ref(), 503));
        drop(listener);
        let error = http_get(&get, &spec, Some("127.0.0.1".parse().unwrap()), limit).await.unwrap_err();
        assert_eq!(
            error,
            format!(
                "Get \"http://127.0.0.1:{port}/ok\": dial tcp 127.0.0.1:{port}: connect: connection refused"
            )
        );
    }
}
