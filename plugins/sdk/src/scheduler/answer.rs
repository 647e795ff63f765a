//! What a plugin answers about pods and nodes.

use super::pack;

/// Why a node, or all of them, are rejected.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reason {
    /// What the user reads after the number of nodes.
    pub text: String,
    /// Whether evicting pods cannot help.
    pub unresolvable: bool,
}

impl Reason {
    /// Evicting pods could help.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), unresolvable: false }
    }

    /// Evicting pods cannot help.
    pub fn unresolvable(text: impl Into<String>) -> Self {
        Self { text: text.into(), unresolvable: true }
    }
}

/// What `prepare` answers. The default asks the plugin about everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Every node passes.
    pub skip_filter: bool,
    /// The score is 0 everywhere.
    pub skip_score: bool,
    /// The hooks from `reserve` to `post_bind` are not to be called for pods of this class.
    pub skip_placing: bool,
    /// The answer depends on watched objects: `prepare` is called again after they changed.
    pub reads_objects: bool,
    /// No node fits, whatever its state.
    pub rejected: Option<Reason>,
}

impl Prepared {
    /// The plugin has nothing to say about these pods.
    #[must_use]
    pub fn skip() -> Self {
        Self { skip_filter: true, skip_score: true, skip_placing: true, ..Self::default() }
    }

    /// No node fits, whatever its state.
    #[must_use]
    pub fn reject(reason: Reason) -> Self {
        Self { rejected: Some(reason), ..Self::default() }
    }

    /// Bits as on the wire.
    #[must_use]
    pub fn flags(&self) -> u32 {
        let rejected = self.rejected.as_ref();
        [
            self.skip_filter,
            self.skip_score,
            rejected.is_some(),
            rejected.is_some_and(|r| r.unresolvable),
            self.reads_objects,
            self.skip_placing,
        ]
        .iter()
        .zip(0..)
        .fold(0, |flags, (set, bit)| flags | u32::from(*set) << bit)
    }
}

/// Collects the reasons of several rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Each reason once.
    pub reasons: Vec<Reason>,
    /// One more than rows.
    pub offsets: Vec<u32>,
    /// Indexes into `reasons`.
    pub refs: Vec<u32>,
}

impl Default for Explanation {
    fn default() -> Self {
        Self { reasons: Vec::new(), offsets: vec![0], refs: Vec::new() }
    }
}

impl Explanation {
    /// Adds a reason to the row that is being explained.
    pub fn because(&mut self, reason: Reason) {
        let at = self.reasons.iter().position(|r| *r == reason).unwrap_or_else(|| {
            self.reasons.push(reason);
            self.reasons.len() - 1
        });
        self.refs.push(u32::try_from(at).unwrap_or(0));
    }

    /// Ends the row.
    pub fn end_row(&mut self) {
        self.offsets.push(u32::try_from(self.refs.len()).unwrap_or(u32::MAX));
    }
}

/// The rows of a question: those named, or all slots where none is.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'a> {
    /// Slots from 0 to this.
    All(usize),
    /// These slots.
    Rows(&'a [u32]),
}

impl<'a> Asked<'a> {
    /// As the host asks: an empty list means all.
    #[must_use]
    pub const fn new(rows: &'a [u32], slots: usize) -> Self {
        if rows.is_empty() { Self::All(slots) } else { Self::Rows(rows) }
    }

    /// How many answers are due.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::All(slots) => *slots,
            Self::Rows(rows) => rows.len(),
        }
    }

    /// Whether none is due.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One answer per row.
    pub fn map<T>(&self, mut f: impl FnMut(usize) -> T) -> Vec<T> {
        match self {
            Self::All(slots) => (0..*slots).map(f).collect(),
            Self::Rows(rows) => rows.iter().map(|slot| f(*slot as usize)).collect(),
        }
    }

    /// One bit per row.
    pub fn mask(&self, mut f: impl FnMut(usize) -> bool) -> Vec<u64> {
        match self {
            Self::All(slots) => pack(*slots, f),
            Self::Rows(rows) => pack(rows.len(), |i| rows.get(i).is_some_and(|slot| f(*slot as usize))),
        }
    }
}
