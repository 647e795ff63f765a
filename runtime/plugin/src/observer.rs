//! Whoever wants to know what instances do: their log, and what calls cost.

use std::fmt::Debug;

/// Is told of every instance of a runtime, on the thread that calls it. It must be quick and must not panic.
pub trait Observer: Debug + Send + Sync {
    /// A line of a plugin's log. `plugin` is the name in its options, `level` as in `orlop:types/log`.
    fn log(&self, plugin: &str, level: u32, message: &str) {
        let _ = (plugin, level, message);
    }

    /// A call ended, well or not. `fuel` is what it burnt, 0 where the runtime does not meter;
    /// `memory_bytes` is the linear memory that the instance holds now.
    fn called(&self, plugin: &str, fuel: u64, memory_bytes: usize) {
        let _ = (plugin, fuel, memory_bytes);
    }
}
