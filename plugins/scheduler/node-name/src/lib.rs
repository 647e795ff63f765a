//! NodeName: a pod that names its node fits only there.
