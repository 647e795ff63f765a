//! The scheduler with the real plugins' logic, natively.

mod batched;
mod cluster;
mod columns;
mod engine;
mod live;
mod native;
mod reference;
