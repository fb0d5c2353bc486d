//! Paths that one reader may understand differently from another.
//!
//! The proxy matches the raw bytes of a path and forwards the same bytes. That is only safe when the application
//! cannot read another path out of them, so on a port with any path rule these are refused before matching.
//! Precedents: CVE-2021-31920 (`//`, `%2f`, `%5c`), CVE-2019-9901 (dot segments), CVE-2021-39156 (`#`).

use std::fmt;

/// Why a path is ambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathFault {
    /// Does not start with `/`.
    NotAbsolute,
    /// Two slashes in a row: some servers merge them.
    EmptySegment,
    /// `.` or `..`, plain, encoded or followed by `;parameters`.
    DotSegment,
    /// `\`, or an encoded `/` or `\`.
    Separator,
    /// A control byte, plain or encoded.
    Control,
    /// A byte that is not ASCII.
    NonAscii,
    /// `%` without two hexadecimal digits.
    BadEscape,
    /// An escape of a character that needs none (RFC 3986 section 2.3), or of `%` before two hexadecimal digits.
    NeedlessEscape,
    /// `#`, which no request path has (RFC 9112 section 3.2).
    Fragment,
}

impl fmt::Display for PathFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAbsolute => "path does not start with '/'",
            Self::EmptySegment => "path has an empty segment",
            Self::DotSegment => "path has a dot segment",
            Self::Separator => "path has a backslash or an encoded slash",
            Self::Control => "path has a control character",
            Self::NonAscii => "path has a byte that is not ASCII",
            Self::BadEscape => "path has '%' without two hexadecimal digits",
            Self::NeedlessEscape => "path has an escape of a character that needs none",
            Self::Fragment => "path has a fragment",
        })
    }
}

/// The first ambiguity of a path (without its query), if there is one.
pub fn fault(path: &str) -> Option<PathFault> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Some(PathFault::NotAbsolute);
    }
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            0..0x20 | 0x7f => return Some(PathFault::Control),
            0x80.. => return Some(PathFault::NonAscii),
            b'\\' => return Some(PathFault::Separator),
            b'#' => return Some(PathFault::Fragment),
            b'%' => {
                if let Some(fault) = escape_fault(&bytes[at + 1..]) {
                    return Some(fault);
                }
                at += 2;
            }
            _ => {}
        }
        at += 1;
    }
    let segments = path[1..].split('/');
    let last = segments.clone().count() - 1;
    for (index, segment) in segments.enumerate() {
        let name = segment.split(';').next().unwrap_or_default();
        if name == "." || name == ".." {
            return Some(PathFault::DotSegment);
        }
        if name.is_empty() && (index != last || !segment.is_empty()) {
            return Some(PathFault::EmptySegment);
        }
    }
    None
}

fn escape_fault(rest: &[u8]) -> Option<PathFault> {
    let Some(byte) = hex_pair(rest) else { return Some(PathFault::BadEscape) };
    match byte {
        b'.' => Some(PathFault::DotSegment),
        b'/' | b'\\' => Some(PathFault::Separator),
        0..0x20 | 0x7f => Some(PathFault::Control),
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => Some(PathFault::NeedlessEscape),
        b'%' if hex_pair(&rest[2..]).is_some() => Some(PathFault::NeedlessEscape),
        _ => None,
    }
}

fn hex_pair(bytes: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

/// Whether `path` is `prefix` or lies below it, by whole segments.
pub fn has_prefix(path: &str, prefix: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// As [`has_prefix`] (or equality), as the most lenient application would read it: without regard to case,
/// `;parameters` and a slash at the end. A Deny matches like this, so that no spelling slips past it.
pub fn reads_as(path: &str, pattern: &str, whole: bool) -> bool {
    let name = |segment: &str| segment.split(';').next().unwrap_or_default().to_ascii_lowercase();
    let mut have = path.trim_end_matches('/').split('/').map(name);
    for want in pattern.trim_end_matches('/').split('/').map(name) {
        if have.next() != Some(want) {
            return false;
        }
    }
    !whole || have.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_are_fine() {
        for path in
            ["/", "/a", "/a/", "/a/b.c", "/a/..b", "/a;v=1/b", "/%20x", "/%25", "/a:b@c", "/...", "/%C3%BC"]
        {
            assert_eq!(fault(path), None, "{path}");
        }
    }

    #[test]
    fn ambiguous_paths_are_named() {
        for (path, why) in [
            ("", PathFault::NotAbsolute),
            ("a", PathFault::NotAbsolute),
            ("*", PathFault::NotAbsolute),
            ("//admin", PathFault::EmptySegment),
            ("/a//b", PathFault::EmptySegment),
            ("/a/;x/b", PathFault::EmptySegment),
            ("/a/;x", PathFault::EmptySegment),
            ("/a/./b", PathFault::DotSegment),
            ("/a/..", PathFault::DotSegment),
            ("/a/..;x/b", PathFault::DotSegment),
            ("/a/%2e%2E/b", PathFault::DotSegment),
            ("/a%2fb", PathFault::Separator),
            ("/a%5Cb", PathFault::Separator),
            ("/a\\b", PathFault::Separator),
            ("/a%00", PathFault::Control),
            ("/a%0a", PathFault::Control),
            ("/a\u{7f}", PathFault::Control),
            ("/ü", PathFault::NonAscii),
            ("/%zz", PathFault::BadEscape),
            ("/%4", PathFault::BadEscape),
            ("/%", PathFault::BadEscape),
            ("/%61dmin", PathFault::NeedlessEscape),
            ("/%2561dmin", PathFault::NeedlessEscape),
            ("/a#b", PathFault::Fragment),
        ] {
            assert_eq!(fault(path), Some(why), "{path}");
        }
    }

    #[test]
    fn a_prefix_is_whole_segments() {
        assert!(
            has_prefix("/a", "/a")
                && has_prefix("/a/b", "/a")
                && has_prefix("/a/b", "/a/")
                && has_prefix("/x", "/")
        );
        assert!(!has_prefix("/ab", "/a") && !has_prefix("/A", "/a") && !has_prefix("/", "/a"));
    }

    #[test]
    fn a_deny_reads_leniently() {
        for path in ["/admin", "/Admin/", "/admin;x=1/keys", "/ADMIN/keys"] {
            assert!(reads_as(path, "/admin", false), "{path}");
        }
        assert!(reads_as("/Admin/", "/admin", true) && !reads_as("/admin/keys", "/admin", true));
        assert!(!reads_as("/administrator", "/admin", false));
        assert!(reads_as("/anything", "/", false));
    }
}
