//! What a runtime call can answer besides success, in gRPC's and the kubelet's terms.

/// Error of a [`crate::cri::Runtime`] call.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No such sandbox, container or image. Not retryable.
    #[error("{kind} \"{id}\" not found")]
    NotFound {
        /// `sandbox`, `container`, `image`, …
        kind: &'static str,
        /// What was asked for.
        id: String,
    },
    /// The request can never succeed as it is; the user must change the pod.
    #[error("{0}")]
    InvalidArgument(String),
    /// Not in this state (a sandbox that is not ready, a container that does not run). Retryable once
    /// the state has changed.
    #[error("{0}")]
    FailedPrecondition(String),
    /// A deadline passed. Retryable.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// The node lacks something (runc, overlayfs, the shim); the message says what to install.
    #[error("{0}")]
    Unavailable(String),
    /// This runtime has no such call.
    #[error("{0} is not supported by this runtime")]
    Unimplemented(&'static str),
    /// The image name cannot be parsed (the kubelet's `InvalidImageName`). The user must fix the pod.
    #[error("couldn't parse image name \"{image}\": {message}")]
    InvalidImageName {
        /// As written.
        image: String,
        /// Why.
        message: String,
    },
    /// The image could not be pulled (the kubelet's `ErrImagePull`). Retried with back-off.
    #[error("failed to pull image \"{image}\": {message}")]
    ImagePull {
        /// Normalised name.
        image: String,
        /// What the registry or the network said.
        message: String,
    },
    /// The registry could not be reached at all (the kubelet's `RegistryUnavailable`). Retried with back-off.
    #[error("failed to pull image \"{image}\": registry is unavailable: {message}")]
    RegistryUnavailable {
        /// Normalised name.
        image: String,
        /// What the network said.
        message: String,
    },
    /// The archive or image is damaged or hostile. The user must bring another.
    #[error("invalid image: {0}")]
    InvalidImage(String),
    /// The pod network failed. Retried with a new sandbox.
    #[error("failed to set up network for sandbox \"{id}\"")]
    Network {
        /// Sandbox id.
        id: String,
        /// Cause.
        #[source]
        source: crate::cri::NetworkError,
    },
    /// runc refused; its own words are in the message (the kubelet's `RunContainerError`).
    #[error("{context}: {message}")]
    Runc {
        /// What was tried.
        context: &'static str,
        /// What runc said.
        message: String,
    },
    /// The kernel or the disk failed. Retryable unless the disk is full.
    #[error("{context}")]
    Io {
        /// What was tried, with the path.
        context: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// Anything else; a human must look.
    #[error("{0}")]
    Internal(String),
}

impl RuntimeError {
    /// An I/O error with what was tried.
    pub fn io(context: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { context: context.into(), source: source.into() }
    }

    /// Whether the thing asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}
