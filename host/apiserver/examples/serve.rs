//! An API server over a store in memory, for trying clients against it.
//!
//! `serve FOLDER PORT`: certificates and `admin.kubeconfig` go to the folder.

use orlop_apiserver::pki::{Names, Pki};
use orlop_apiserver::{ApiServer, Config, Parts};
use orlop_store::MemoryStore;
use std::error::Error;
use std::net::IpAddr;
use std::path::PathBuf;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let began = std::time::Instant::now();
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(port)) = (arguments.next(), arguments.next()) else {
        return Err("usage: serve FOLDER PORT".into());
    };
    let (folder, port) = (PathBuf::from(folder), port.parse::<u16>()?);
    let local = IpAddr::from([127, 0, 0, 1]);
    let config = Config { advertise_address: local, secure_port: port, ..Config::default() };
    let names = Names {
        node_name: "node".into(),
        addresses: vec![local],
        service_ip: config.service_network.first(),
    };
    let pki = Pki::load_or_create(&folder.join("pki"), &names)?;
    pki.write_kubeconfig(&folder.join("admin.kubeconfig"), &format!("https://127.0.0.1:{port}"))?;
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let parts = Parts {
        store: MemoryStore::new(tracker.clone(), cancel.clone()),
        tokens: pki.token_issuer(&config.service_account_issuer, &config.api_audiences)?,
        nodes: Some(pki.kubelet_client_config()?),
        authorizer: None,
        tracker: tracker.clone(),
        cancel: cancel.clone(),
    };
    let server = ApiServer::start(config, parts).await?;
    let listener = TcpListener::bind((local, port)).await?;
    tracker.spawn(server.serve_task(listener, pki.server_config()?));
    tracing::info!(port, took = ?began.elapsed(), "serving");
    tokio::signal::ctrl_c().await?;
    cancel.cancel();
    tracker.close();
    tracker.wait().await;
    Ok(())
}
