//! What the server is told at start.

use crate::alloc::ServiceNetwork;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of an [`crate::ApiServer`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Address under which this server is reached: the endpoint of `default/kubernetes`.
    pub advertise_address: IpAddr,
    /// Port of the HTTPS listener, in the same endpoint.
    pub secure_port: u16,
    /// Network of the cluster addresses of Services.
    pub service_network: ServiceNetwork,
    /// `iss` of service-account tokens.
    pub service_account_issuer: String,
    /// `aud` of tokens that name none, and what this server accepts.
    pub api_audiences: Vec<String>,
    /// ABAC policies as YAML, read again when the file changes. `None` uses the built-in ones.
    pub policy_file: Option<PathBuf>,
    /// `token,user,uid,"group1,group2"` per line.
    pub token_file: Option<PathBuf>,
    /// After which time Events vanish.
    pub event_ttl: Duration,
    /// How often superseded states are forgotten.
    pub compaction_interval: Duration,
    /// Requests other than watches that only read.
    pub max_requests_inflight: usize,
    /// Requests that write.
    pub max_mutating_requests_inflight: usize,
    /// Deadline of requests that are no streams.
    pub request_timeout: Duration,
    /// Longest life of a watch that names none; each gets between this and twice as much.
    pub min_request_timeout: Duration,
    /// Largest body.
    pub max_body: usize,
}

impl Default for Config {
    fn default() -> Self {
        let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
        Self {
            advertise_address: IpAddr::from([127, 0, 0, 1]),
            secure_port: 6443,
            service_network: ServiceNetwork::DEFAULT,
            api_audiences: vec![issuer.clone()],
            service_account_issuer: issuer,
            policy_file: None,
            token_file: None,
            event_ttl: Duration::from_secs(3600),
            compaction_interval: Duration::from_secs(300),
            max_requests_inflight: 400,
            max_mutating_requests_inflight: 200,
            request_timeout: Duration::from_secs(60),
            min_request_timeout: Duration::from_secs(1800),
            max_body: 3 * 1024 * 1024,
        }
    }
}
