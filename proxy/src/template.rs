//! A request that can be made again: its head, and its body as far as that is kept.

use std::{cell::RefCell, rc::Rc, time::Duration};

use byrnie_model::Retry;
use http::{HeaderMap, Method, Request, Version, header, request};

use crate::{
    body::{ProxyBody, Upload, Whole},
    deadline, headers, said,
};

/// Doing it twice is doing it once (RFC 9110 section 9.2.2).
const IDEMPOTENT: [Method; 5] = [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE];

/// A request that can be made again.
#[derive(Debug)]
pub struct Template {
    head: request::Parts,
    body: Source,
    grpc: bool,
}

#[derive(Debug)]
enum Source {
    Nothing,
    Upload(Rc<RefCell<Upload>>),
    Whole(Whole),
}

impl Template {
    /// A request whose body, if it has one, is read through an [`Upload`].
    pub fn new(head: request::Parts, body: Option<Rc<RefCell<Upload>>>) -> Self {
        let grpc = is_grpc(head.version, &head.headers);
        let body = body.map_or(Source::Nothing, Source::Upload);
        Self { head, body, grpc }
    }

    /// The same request for somebody else, once it has been sent. `None`: not all of it has come in or is still here, or
    /// it asks for more than an answer.
    pub fn into_copy(mut self) -> Option<Self> {
        if self.head.headers.contains_key(header::UPGRADE) {
            return None;
        }
        if let Source::Upload(upload) = &self.body {
            let whole = upload.borrow().whole()?;
            self.body = Source::Whole(whole);
        }
        headers::detach(&mut self.head);
        Some(self)
    }

    /// Whether it is a copy of a request, whose answer nobody waits for.
    pub fn is_copy(&self) -> bool {
        self.head.headers.contains_key(said::MIRRORED)
    }

    /// Its headers, to be changed before it is made.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.head.headers
    }

    /// How it travels.
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// Whether it is a call of gRPC.
    pub fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// Makes it, for a mesh peer with the time that is left to it.
    pub fn make(&self, meshed: bool, left: Option<Duration>) -> Request<ProxyBody> {
        let body = match &self.body {
            Source::Nothing => ProxyBody::Empty,
            Source::Upload(upload) => ProxyBody::Upload(Upload::open(upload)),
            Source::Whole(whole) => ProxyBody::Whole(Box::new(whole.clone())),
        };
        let mut request = Request::from_parts(self.head.clone(), body);
        if let Some(left) = left.filter(|_| meshed) {
            deadline::tell(request.headers_mut(), left);
        }
        request
    }

    /// Whether all of it is still here.
    pub fn is_replayable(&self) -> bool {
        match &self.body {
            Source::Upload(upload) => upload.borrow().is_replayable(),
            Source::Nothing | Source::Whole(_) => true,
        }
    }

    /// Doing it twice is doing it once, and there is nothing in it to be half done.
    pub fn is_idempotent(&self) -> bool {
        IDEMPOTENT.contains(&self.head.method)
            && matches!(self.body, Source::Nothing)
            && !self.head.headers.contains_key(header::UPGRADE)
    }

    /// Whether a policy lets such requests be sent again.
    pub fn is_covered(&self, retry: &Retry) -> bool {
        let by_code = self.grpc && !retry.grpc_codes.is_empty();
        (by_code || retry.methods.contains(&self.head.method))
            && !self.head.headers.contains_key(header::UPGRADE)
    }

    /// No try will follow: nothing more is kept.
    pub fn release(&self) {
        if let Source::Upload(upload) = &self.body {
            upload.borrow_mut().release();
        }
    }
}

/// Whether a request is a call of gRPC.
pub fn is_grpc(version: Version, headers: &HeaderMap) -> bool {
    let kind = || headers.get(header::CONTENT_TYPE);
    version == Version::HTTP_2 && kind().is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}
