//! Why a request got no response, as far as that decides whether it may be sent again.
//!
//! Owns the reading of hyper's, h2's and rustls' errors, so that nobody else needs to.

use std::{error::Error, io, rc::Rc, time::Duration};

use http::Request;
use rustls::AlertDescription;
use thiserror::Error;

use super::{MAX_HTTP1, QUEUE_LIMIT};
use crate::{
    body::{BodyError, ProxyBody},
    dial::DialError,
};

/// Why no response came.
#[derive(Debug)]
pub struct SendError {
    /// What happened.
    pub cause: Cause,
    /// The request, if not a byte of it was sent.
    pub unsent: Option<Request<ProxyBody>>,
}

/// What happened instead of a response.
#[derive(Debug, Error)]
pub enum Cause {
    /// There is no connection.
    #[error(transparent)]
    Dial(Rc<DialError>),
    /// The protocol's own first exchange failed.
    #[error("the endpoint ended a connection before its first request")]
    Setup(#[source] hyper::Error),
    /// Too many connections are busy.
    #[error("all {MAX_HTTP1} connections to the endpoint stayed busy for {QUEUE_LIMIT:?}")]
    Full,
    /// The connection ended before the request was sent.
    #[error("the connection ended before the request was sent")]
    Unsent(#[source] hyper::Error),
    /// The endpoint says that it has not processed the request (REFUSED_STREAM, GOAWAY).
    #[error("the endpoint refused the stream unprocessed")]
    Unprocessed(#[source] hyper::Error),
    /// The request's own body ended early: its sender is at fault, not the endpoint.
    #[error("the request's body ended early")]
    Body(#[source] hyper::Error),
    /// The connection had been idle, and ended when it was used again.
    #[error("an idle connection ended when it was used again")]
    Stale(#[source] hyper::Error),
    /// The connection ended before the response began.
    #[error("the connection ended before the response began")]
    Reset(#[source] hyper::Error),
    /// The endpoint's time for this one try is over.
    #[error("the endpoint did not begin to answer within {0:?}")]
    Late(Duration),
    /// The request's time is over.
    #[error("the request's time is over")]
    Deadline,
}

impl SendError {
    pub(super) fn new(error: hyper::Error, unsent: Option<Request<ProxyBody>>, reused: bool) -> Self {
        let cause = match unsent {
            Some(_) => Cause::Unsent(error),
            None if source::<BodyError>(&error).is_some() => Cause::Body(error),
            None if was_refused(&error) => Cause::Setup(error),
            None if was_not_processed(&error) => Cause::Unprocessed(error),
            None if reused => Cause::Stale(error),
            None => Cause::Reset(error),
        };
        Self { cause, unsent }
    }
}

/// The first error of a type among those that led to this one.
fn source<E: Error + 'static>(error: &hyper::Error) -> Option<&E> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// A TLS 1.3 client learns only at its first read that the server refused its certificate: the request was not read.
fn was_refused(error: &hyper::Error) -> bool {
    let io = source::<io::Error>(error).and_then(|io| io.get_ref()?.downcast_ref::<rustls::Error>());
    matches!(io, Some(rustls::Error::AlertReceived(alert)) if *alert != AlertDescription::CloseNotify)
}

/// HTTP/2 only: the peer reset the stream as refused, or ended the connection before it took the stream.
fn was_not_processed(error: &hyper::Error) -> bool {
    source::<h2::Error>(error).is_some_and(|error| match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => true,
        Some(h2::Reason::NO_ERROR) => error.is_go_away() && error.is_remote(),
        _ => false,
    })
}
