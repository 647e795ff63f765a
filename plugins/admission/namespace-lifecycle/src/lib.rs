//! NamespaceLifecycle: nothing is created in a namespace that is missing or ending.
