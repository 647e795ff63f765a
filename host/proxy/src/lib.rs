//! Services and EndpointSlices into iptables rules.
