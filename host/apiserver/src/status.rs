//! How failures of the parts below become `Status`, in one place.

use crate::storage::StorageError;
use orlop_apimachinery::status::{Cause, Details};
use orlop_apimachinery::{Reason, Status};
use orlop_store::StoreError;

/// The store's refusals, as clients see them.
pub(crate) fn from_store(error: &StoreError) -> Status {
    match error {
        StoreError::Compacted { .. } => expired(),
        StoreError::Future { requested, current } => too_large_revision(*requested, *current),
        StoreError::Unavailable | StoreError::SlowWatcher => with_retry(
            Status::failure(Reason::ServiceUnavailable, "the store is not available, try again"),
            1,
        ),
        StoreError::Invalid { message } => Status::failure(Reason::RequestEntityTooLarge, message.clone()),
        StoreError::NoSpace | StoreError::Poisoned { .. } => Status::internal(error.to_string()),
    }
}

/// A stored object that cannot be read or written.
pub(crate) fn from_storage(error: &StorageError) -> Status {
    Status::internal(error.to_string())
}

/// 410: a resourceVersion that is no longer known.
pub(crate) fn expired() -> Status {
    Status::expired("The resourceVersion for the provided list is too old.")
}

/// 410: a watch from a resourceVersion that is no longer known.
pub(crate) fn too_old(requested: u64, oldest: u64) -> Status {
    Status::expired(format!("too old resource version: {requested} ({oldest})"))
}

/// 410: a continue token whose revision is gone.
pub(crate) fn continue_expired() -> Status {
    Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    )
}

/// 504: a resourceVersion that is not there yet.
pub(crate) fn too_large_revision(requested: u64, current: u64) -> Status {
    let mut status = Status::failure(
        Reason::Timeout,
        format!("Too large resource version: {requested}, current: {current}"),
    );
    status.details = Some(Box::new(Details {
        causes: vec![Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        }],
        retry_after_seconds: 1,
        ..Details::default()
    }));
    status
}

/// 429
pub(crate) fn too_many_requests() -> Status {
    with_retry(Status::failure(Reason::TooManyRequests, "Too many requests, please try again later."), 1)
}

/// 404 for a path that nobody serves.
pub(crate) fn no_such_path() -> Status {
    let mut status = Status::failure(Reason::NotFound, "the server could not find the requested resource");
    status.details = Some(Box::default());
    status
}

/// 405 for a method that a resource does not offer.
pub(crate) fn method_not_allowed() -> Status {
    let mut status = Status::failure(
        Reason::MethodNotAllowed,
        "the server does not allow this method on the requested resource",
    );
    status.details = Some(Box::default());
    status
}

/// 401
pub(crate) fn unauthorized() -> Status {
    Status::failure(Reason::Unauthorized, "Unauthorized")
}

/// 504 for a request that took too long.
pub(crate) fn timeout() -> Status {
    Status::failure(Reason::Timeout, "Timeout: request did not complete within the allotted timeout")
}

fn with_retry(mut status: Status, seconds: i32) -> Status {
    status.details = Some(Box::new(Details { retry_after_seconds: seconds, ..Details::default() }));
    status
}

/// A successful `Status`, as DELETE answers.
pub(crate) fn success(details: Option<Details>) -> Status {
    Status { status: "Success".to_owned(), details: details.map(Box::new), code: 200, ..Status::default() }
}
