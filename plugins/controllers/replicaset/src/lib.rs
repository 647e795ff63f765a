//! Keeps the number of pods that a ReplicaSet asks for.
