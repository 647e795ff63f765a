//! The columns of the node table: names, numbers, and the bit that stands for each in a change
//! mask. The list is that of `wit/scheduler/scheduler.wit`; a test compares it with the SDK's.

/// A set of columns, one bit each. The order of bits is internal to the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ColumnSet(pub u32);

impl ColumnSet {
    /// No column.
    pub const NONE: Self = Self(0);
    /// Every column.
    pub const ALL: Self = Self((1 << (COLUMNS + 1)) - 1);
    /// Whether there is a node in the slot. Everybody who mirrors the table reads it.
    pub const PRESENCE: Self = Self(1 << COLUMNS);

    /// The set of one column.
    #[must_use]
    pub const fn one(index: usize) -> Self {
        Self(1 << index)
    }

    /// Whether the sets share a column.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the column at `index` is in the set.
    #[must_use]
    pub const fn has(self, index: usize) -> bool {
        self.0 & (1 << index) != 0
    }

    /// Both sets together.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Number of s64 columns with fixed numbers; they are the first indexes.
pub const S64: usize = 10;
/// Number of u32 columns; they follow.
pub const U32: usize = 4;
/// Number of list columns that are the same for every plugin; they follow.
pub const LISTS: usize = 5;
/// Index of `node.declared-features`.
pub const FEATURES: usize = 18;
/// Index of `node.pods`, whose cells differ from plugin to plugin.
pub const PODS: usize = S64 + U32 + LISTS;
/// Index that stands for all columns of extended resources.
pub const EXTENDED: usize = PODS + 1;
/// Number of indexes.
pub const COLUMNS: usize = EXTENDED + 1;

/// Index of `allocatable.cpu`; the other s64 columns follow in the order of the WIT.
pub const ALLOCATABLE_CPU: usize = 0;
/// Index of `allocatable.memory`.
pub const ALLOCATABLE_MEMORY: usize = 1;
/// Index of `allocatable.ephemeral-storage`.
pub const ALLOCATABLE_EPHEMERAL: usize = 2;
/// Index of `allocatable.pods`.
pub const ALLOCATABLE_PODS: usize = 3;
/// Index of `requested.cpu`.
pub const REQUESTED_CPU: usize = 4;
/// Index of `requested.memory`.
pub const REQUESTED_MEMORY: usize = 5;
/// Index of `requested.ephemeral-storage`.
pub const REQUESTED_EPHEMERAL: usize = 6;
/// Index of `requested.pods`.
pub const REQUESTED_PODS: usize = 7;
/// Index of `requested.nonzero-cpu`.
pub const NONZERO_CPU: usize = 8;
/// Index of `requested.nonzero-memory`.
pub const NONZERO_MEMORY: usize = 9;
/// Index of `node.name`.
pub const NAME: usize = 10;
/// Index of `node.unschedulable`.
pub const UNSCHEDULABLE: usize = 11;
/// Index of `node.taints`.
pub const TAINTS: usize = 12;
/// Index of `node.zone`.
pub const ZONE: usize = 13;
/// Index of `node.labels`.
pub const LABELS: usize = 14;
/// Index of `node.images`.
pub const IMAGES: usize = 15;
/// Index of `node.image-sizes`.
pub const IMAGE_SIZES: usize = 16;
/// Index of `node.host-ports`.
pub const HOST_PORTS: usize = 17;

/// Name in manifests and number on the wire, by index.
pub const TABLE: [(&str, u32); COLUMNS] = [
    ("allocatable.cpu", 1),
    ("allocatable.memory", 2),
    ("allocatable.ephemeral-storage", 3),
    ("allocatable.pods", 4),
    ("requested.cpu", 5),
    ("requested.memory", 6),
    ("requested.ephemeral-storage", 7),
    ("requested.pods", 8),
    ("requested.nonzero-cpu", 9),
    ("requested.nonzero-memory", 10),
    ("node.name", 32),
    ("node.unschedulable", 33),
    ("node.taints", 34),
    ("node.zone", 35),
    ("node.labels", 64),
    ("node.images", 65),
    ("node.image-sizes", 66),
    ("node.host-ports", 67),
    ("node.declared-features", 69),
    ("node.pods", 68),
    ("extended", EXTENDED_BASE),
];

/// Number of the allocatable column of the first extended resource.
pub const EXTENDED_BASE: u32 = 256;

/// Dictionaries, by `number - 1` of the WIT.
pub mod dictionary {
    /// Node names.
    pub const NAMES: usize = 0;
    /// `key=value`
    pub const LABELS: usize = 1;
    /// Taint sets as JSON.
    pub const TAINT_SETS: usize = 2;
    /// `region/zone`
    pub const ZONES: usize = 3;
    /// Image names.
    pub const IMAGES: usize = 4;
    /// Host IPs.
    pub const HOST_IPS: usize = 5;
    /// Names of extended resources.
    pub const EXTENDED: usize = 6;
    /// Placed pods; each plugin has its own.
    pub const PODS: usize = 7;
    /// Declared features.
    pub const FEATURES: usize = 8;
    /// How many there are.
    pub const COUNT: usize = 9;
}

/// The columns whose values are entries of a dictionary.
#[must_use]
pub const fn readers_of(dict: usize) -> ColumnSet {
    match dict {
        dictionary::NAMES => ColumnSet::one(NAME),
        dictionary::LABELS => ColumnSet::one(LABELS),
        dictionary::TAINT_SETS => ColumnSet::one(TAINTS),
        dictionary::ZONES => ColumnSet::one(ZONE),
        dictionary::IMAGES => ColumnSet::one(IMAGES),
        dictionary::HOST_IPS => ColumnSet::one(HOST_PORTS),
        dictionary::EXTENDED => ColumnSet::one(EXTENDED),
        dictionary::FEATURES => ColumnSet::one(FEATURES),
        _ => ColumnSet::NONE,
    }
}

/// Index of the column that manifests call `name`.
#[must_use]
pub fn by_name(name: &str) -> Option<usize> {
    TABLE.iter().position(|(n, _)| *n == name)
}

/// One term of a mirror's checksum, as the WIT defines it.
#[must_use]
pub const fn mix(slot: u32, column: u32, value: u64) -> u64 {
    let x = value
        ^ (slot as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ (column as u64).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    let x = (x ^ (x >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    x ^ (x >> 32)
}

/// The value that a list cell counts as in a checksum.
#[must_use]
pub fn fold(items: &[u64]) -> u64 {
    items.iter().fold(items.len() as u64, |h, item| (h ^ item).wrapping_mul(0x100_0000_01B3))
}
