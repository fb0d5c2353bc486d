//! What goes first when there is too much to do: requests that their callers call critical.
//!
//! Only within the mesh's own limits, and only a quarter beyond them: whoever calls everything critical wins little.

use http::{HeaderMap, HeaderName, HeaderValue};

/// `critical`, or absent. Applications may set it, and tell it on.
pub const PRIORITY: HeaderName = HeaderName::from_static("byrnie-priority");
const CRITICAL: &[u8] = b"critical";

/// Whether a request is.
pub fn is_critical(headers: &HeaderMap) -> bool {
    headers.get(PRIORITY).is_some_and(|value| value.as_bytes() == CRITICAL)
}

/// Says so.
pub fn set_critical(headers: &mut HeaderMap) {
    headers.insert(PRIORITY, HeaderValue::from_static("critical"));
}
