//! The scheduler: queue, node table, pod classes, cycles, binding; plugins decide.
