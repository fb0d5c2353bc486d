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

/// What a caller says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The time that is left.
    pub timeout: Option<Duration>,
    /// Whether it goes first when there is too much to do. A quarter of the limits is kept for that, and no more: whoever
    /// calls everything critical wins little.
    pub critical: bool,
}

/// Takes it out of a request, with all else that only proxies may set.
pub fn take(fields: &mut HeaderMap, version: Version) -> Said {
    let reserved = headers::has_reserved(fields);
    if !reserved && version < Version::HTTP_2 {
        return Said::default();
    }
    let timeout = deadline::told(fields);
    let critical = reserved && fields.get(PRIORITY) == Some(&CRITICAL);
    if reserved {
        headers::strip_reserved(fields);
    }
    Said { timeout, critical }
}

impl Said {
    /// Says on what does not change on the way.
    pub fn tell(self, fields: &mut HeaderMap) {
        if self.critical {
            fields.insert(PRIORITY, CRITICAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_taken_with_everything_that_imitates_a_proxy() {
        let mut fields = HeaderMap::new();
        fields.insert("byrnie-timeout", HeaderValue::from_static("250"));
        fields.insert("byrnie-priority", HeaderValue::from_static("critical"));
        fields.insert("byrnie-client-id", HeaderValue::from_static("spiffe://a/b"));
        fields.insert("grpc-timeout", HeaderValue::from_static("1S"));
        let said = take(&mut fields, Version::HTTP_11);
        assert_eq!(said, Said { timeout: Some(Duration::from_millis(250)), critical: true });
        assert_eq!(fields.keys().collect::<Vec<_>>(), ["grpc-timeout"]);
        said.tell(&mut fields);
        assert_eq!(fields["byrnie-priority"], "critical");
        fields.remove("byrnie-priority");
        let grpc = Said { timeout: Some(Duration::from_secs(1)), critical: false };
        assert_eq!(take(&mut fields, Version::HTTP_2), grpc);
        assert_eq!(take(&mut HeaderMap::new(), Version::HTTP_2), Said::default());
    }
}
