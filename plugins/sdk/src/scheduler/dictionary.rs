//! Numbers of dictionaries, as in `wit/scheduler/scheduler.wit`.

/// Node names.
pub const NAMES: u32 = 1;
/// `key=value`
pub const LABELS: u32 = 2;
/// JSON arrays of taints.
pub const TAINT_SETS: u32 = 3;
/// `region/zone`
pub const ZONES: u32 = 4;
/// Image names.
pub const IMAGES: u32 = 5;
/// Host IPs.
pub const HOST_IPS: u32 = 6;
/// Names of extended resources.
pub const EXTENDED: u32 = 7;
/// Placed pods, as JSON with the declared fields.
pub const PODS: u32 = 8;
/// Features that nodes declare.
pub const FEATURES: u32 = 9;
