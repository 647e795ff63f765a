//! Numbers of columns, as in `wit/scheduler/scheduler.wit`.

/// Milli-CPU.
pub const ALLOCATABLE_CPU: u32 = 1;
/// Bytes.
pub const ALLOCATABLE_MEMORY: u32 = 2;
/// Bytes.
pub const ALLOCATABLE_EPHEMERAL: u32 = 3;
/// Pods.
pub const ALLOCATABLE_PODS: u32 = 4;
/// Milli-CPU.
pub const REQUESTED_CPU: u32 = 5;
/// Bytes.
pub const REQUESTED_MEMORY: u32 = 6;
/// Bytes.
pub const REQUESTED_EPHEMERAL: u32 = 7;
/// Pods.
pub const REQUESTED_PODS: u32 = 8;
/// Milli-CPU, containers without a request counted with 100.
pub const NONZERO_CPU: u32 = 9;
/// Bytes, containers without a request counted with 200 MiB.
pub const NONZERO_MEMORY: u32 = 10;
/// Entry of [`super::dictionary::NAMES`].
pub const NAME: u32 = 32;
/// 1 where unschedulable.
pub const UNSCHEDULABLE: u32 = 33;
/// Entry of [`super::dictionary::TAINT_SETS`].
pub const TAINTS: u32 = 34;
/// Entry of [`super::dictionary::ZONES`].
pub const ZONE: u32 = 35;
/// Entries of [`super::dictionary::LABELS`].
pub const LABELS: u32 = 64;
/// Entries of [`super::dictionary::IMAGES`].
pub const IMAGES: u32 = 65;
/// Bytes, in the order of [`IMAGES`].
pub const IMAGE_SIZES: u32 = 66;
/// Packed: IP, protocol, port.
pub const HOST_PORTS: u32 = 67;
/// Entries of [`super::dictionary::PODS`], one for each placed pod.
pub const PODS: u32 = 68;
/// Entries of [`super::dictionary::FEATURES`].
pub const FEATURES: u32 = 69;
/// Allocatable units of extended resource 0; requested units follow, then the next resource.
pub const EXTENDED: u32 = 256;
