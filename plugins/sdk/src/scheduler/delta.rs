//! What the host tells a plugin of the node table, and what the plugin answers.

/// New entries of a dictionary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DictionaryDelta {
    /// Its number.
    pub dictionary: u32,
    /// Number of the first entry.
    pub first: u32,
    /// The entries.
    pub entries: Vec<String>,
}

/// Cells of a column of lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListCells {
    /// One more than rows.
    pub offsets: Vec<u32>,
    /// The cells, one after the other.
    pub values: Vec<u64>,
}

/// What changed in the node table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Start from nothing.
    pub full: bool,
    /// Number of slots from now on.
    pub slots: u32,
    /// Changed slots, ascending.
    pub rows: Vec<u32>,
    /// Bit i: `rows[i]` holds a node.
    pub live: Vec<u64>,
    /// New dictionary entries.
    pub dictionaries: Vec<DictionaryDelta>,
    /// Columns of s64 by number, one value per row.
    pub s64_columns: Vec<(u32, Vec<i64>)>,
    /// Columns of u32 by number, one value per row.
    pub u32_columns: Vec<(u32, Vec<u32>)>,
    /// Columns of lists by number.
    pub list_columns: Vec<(u32, ListCells)>,
}

impl Delta {
    /// Takes the new entries of one dictionary out, for plugins that decode them themselves: a mirror
    /// that never sees them keeps no copy.
    pub fn take_dictionary(&mut self, dictionary: u32) -> Vec<DictionaryDelta> {
        self.dictionaries.extract_if(.., |d| d.dictionary == dictionary).collect()
    }
}

/// Classes for which any row may have a new answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stale {
    /// None.
    #[default]
    Nothing,
    /// These.
    Classes(Vec<u32>),
    /// All.
    Everything,
}

impl Stale {
    /// As on the wire, where the single entry 0 stands for all.
    #[must_use]
    pub fn into_wire(self) -> Vec<u32> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Classes(classes) => classes,
            Self::Everything => vec![0],
        }
    }
}

impl From<Vec<u32>> for Stale {
    fn from(classes: Vec<u32>) -> Self {
        if classes.is_empty() { Self::Nothing } else { Self::Classes(classes) }
    }
}

/// What `sync` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// [`Mirror::checksum`](super::Mirror::checksum), or 0.
    pub checksum: u64,
    /// Classes whose answers may have changed for other rows than those of the delta.
    pub stale: Stale,
}

impl Synced {
    /// Only the rows of the delta may have new answers.
    #[must_use]
    pub const fn rows(checksum: u64) -> Self {
        Self { checksum, stale: Stale::Nothing }
    }
}
