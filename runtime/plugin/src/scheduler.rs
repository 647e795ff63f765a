//! Bindings of `orlop:scheduler`, majors 1 and 2, behind one set of calls.
//!
//! A plugin of either major is called through [`Instance<SchedulerWorld>`], in the terms of 2.0: what 1.0
//! lacks is never asked of it. What comes back is checked here against all that the interface says and
//! that can be known without the node table: lengths, ranges, class numbers, reserved bits and codes. An answer that
//! fails is [`PluginError::BadOutput`] and ends the instance.
//!
//! A scheduler instance keeps a mirror and prepared classes, so it is never replaced behind its
//! caller's back: after a failure the caller makes a new [`Instance`] and tells it everything again.

mod calls;
mod check;
mod placing;
mod world;

pub use calls::prepared;
pub use placing::bind;
pub use world::SchedulerWorld;
pub use world::v2::exports::orlop::scheduler::objects::Change;
pub use world::v2::exports::orlop::scheduler::placing::{Decision, Placement, Verdict};
pub use world::v2::exports::orlop::scheduler::plugin::{
    Delta, Dictionary, Explanation, ListColumn, Prepared, Reason, S64Column, Synced, U32Column,
};
pub use world::v2::exports::orlop::scheduler::preemption::Pods;
