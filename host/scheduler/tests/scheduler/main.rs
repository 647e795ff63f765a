//! The scheduler with the real plugins' logic, natively.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod acting;
mod batched;
mod choices;
mod cluster;
mod columns;
mod engine;
mod live;
mod native;
mod placing;
mod preempting;
mod reference;
mod scripted;
mod storm;
