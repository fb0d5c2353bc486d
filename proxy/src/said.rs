//! What a caller says about its own request: how long it waits, and whether it is critical.
//!
//! Said in headers that go no further as they are: each proxy reads them, and writes its own. Most requests have none of
//! them, and cost one look at each name.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Version};

use crate::{deadline, headers};

/// `critical`, or absent. Applications may set it, and tell it on.
pub const PRIORITY: HeaderName = HeaderName::from_static("byrnie-priority");
const CRITICAL: HeaderValue = HeaderValue::from_static("critical");
/// `true` where a proxy has copied the request: nobody waits for what is answered. An application may do less for those,
/// and so nobody else may call a request so: neither the applications that call nor callers without identity.
pub const MIRRORED: HeaderName = HeaderName::from_static("byrnie-mirrored");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// What a caller says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The time that is left.
    pub timeout: Option<Duration>,
    /// Whether it goes first when there is too much to do. Half of the limit is kept for that, and no more: whoever
    /// calls everything critical wins little.
    pub critical: bool,
    /// Whether it is a copy.
    pub mirrored: bool,
}

/// Takes it out of a request, with all else that only proxies may set.
pub fn take(fields: &mut HeaderMap, version: Version) -> Said {
    let reserved = headers::has_reserved(fields);
    if !reserved && version < Version::HTTP_2 {
        return Said::default();
    }
    let timeout = deadline::told(fields);
    let critical = reserved && fields.get(PRIORITY) == Some(&CRITICAL);
    let mirrored = reserved && fields.get(MIRRORED) == Some(&TRUE);
    if reserved {
        headers::strip_reserved(fields);
    }
    Said { timeout, critical, mirrored }
}

impl Said {
    /// Says on what does not change on the way.
    pub fn tell(self, fields: &mut HeaderMap) {
        if self.critical {
            fields.insert(PRIORITY, CRITICAL);
        }
    }

    /// Says on, to the application that is called, what a peer's proxy says.
    pub fn tell_of_peer(self, fields: &mut HeaderMap) {
        if self.mirrored {
            fields.insert(MIRRORED, TRUE);
        }
    }
}

/// Calls a request a copy. It goes behind what somebody waits for, whatever it is a copy of.
pub fn mark_copy(fields: &mut HeaderMap) {
    fields.remove(PRIORITY);
    fields.insert(MIRRORED, TRUE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_taken_with_everything_that_imitates_a_proxy() {
        let mut fields = HeaderMap::new();
        fields.insert("byrnie-timeout", HeaderValue::from_static("250"));
        fields.insert("byrnie-priority", HeaderValue::from_static("critical"));
        fields.insert("byrnie-mirrored", HeaderValue::from_static("true"));
        fields.insert("byrnie-client-id", HeaderValue::from_static("spiffe://a/b"));
        fields.insert("grpc-timeout", HeaderValue::from_static("1S"));
        let said = take(&mut fields, Version::HTTP_11);
        let timeout = Some(Duration::from_millis(250));
        assert_eq!(said, Said { timeout, critical: true, mirrored: true });
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["grpc-timeout"]);
        said.tell(&mut fields);
        assert_eq!(fields["byrnie-priority"], "critical");
        assert!(!fields.contains_key("byrnie-mirrored"), "that is not the caller's to say");
        said.tell_of_peer(&mut fields);
        assert_eq!(fields["byrnie-mirrored"], "true");
        mark_copy(&mut fields);
        assert!(!fields.contains_key("byrnie-priority"));
        fields.remove("byrnie-mirrored");
        let grpc = Said { timeout: Some(Duration::from_secs(1)), ..Said::default() };
        assert_eq!(take(&mut fields, Version::HTTP_2), grpc);
        assert_eq!(take(&mut HeaderMap::new(), Version::HTTP_2), Said::default());
    }
}
