//! One call to the API server, with a time limit: kube has none and retries a failing server for minutes.

use std::{future::Future, time::Duration};

use thiserror::Error;

/// How long any single call may take.
pub const LIMIT: Duration = Duration::from_secs(5);

/// Why a call has no result.
#[derive(Debug, Error)]
pub enum ApiError {
    /// No answer in time.
    #[error("the API server did not answer within {} s", LIMIT.as_secs())]
    TimedOut,
    /// An answer that is an error, or no connection.
    #[error("{0}")]
    Refused(#[from] kube::Error),
    /// The object changed since it was read (HTTP 409).
    #[error("the object changed at the same time, or exists already")]
    Conflict,
    /// There is no such object (HTTP 404).
    #[error("the object does not exist")]
    NotFound,
}

/// Waits for a call, but not for long.
pub async fn call<T>(future: impl Future<Output = kube::Result<T>> + Send) -> Result<T, ApiError> {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(ApiError::Conflict),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(ApiError::NotFound),
        Ok(Err(e)) => Err(ApiError::Refused(e)),
        Err(_) => Err(ApiError::TimedOut),
    }
}
