//! The node agent: pod workers, probes, volumes, status, exec and logs.
//!
//! [`Node`] stands in for the kubelet. Pods come from the API (those bound to this node) and from
//! a folder (static pods); one worker per pod compares what is wanted with what the runtime has
//! and takes the next steps, as decided by a pure function. Everything is level-triggered: a
//! killed agent that comes back adopts what runs and restarts nothing.
#![forbid(unsafe_code)]

mod api;
mod config;
mod container;
mod events;
mod host_facts;
mod images;
mod logs;
mod node;
mod node_status;
mod objects;
mod pod;
mod pods;
mod qos;
mod quantity;
mod server;
mod static_pods;
#[cfg(test)]
mod tests;
mod tokens;
mod volumes;

pub use config::{NodeConfig, NodeServer};
pub use node::{Node, NodeError};
