//! Services and EndpointSlices into iptables rules: kube-proxy's design, chain by chain.
//!
//! [`render`] turns one Service into a [`Fragment`] and [`Ruleset`] turns fragments into the input
//! of `iptables-restore`; both are pure. [`Proxy`] watches, applies what changed, and writes
//! everything again now and then and when somebody has flushed the rules. Connections live in
//! conntrack and survive every update.
//!
//! Not here: health-check node ports, ipvs, nftables.
#![forbid(unsafe_code)]

mod chains;
mod conntrack;
mod iptables;
pub mod model;
mod proxy;
mod render;
mod ruleset;

pub use orlop_netfilter::NetfilterError;
pub use proxy::{Config, Proxy};
pub use render::{Fragment, Settings, UdpEntry, render};
pub use ruleset::Ruleset;
