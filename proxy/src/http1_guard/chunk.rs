//! The framing of a chunked body (RFC 9112 section 7.1), as strictly as heads.

use memchr::memchr;

use super::{
    head::{self, Lines, MAX_HEAD, MAX_HEADERS},
    violation::Violation,
};

/// Bytes of a chunk size line.
const MAX_LINE: usize = 256;

/// A chunk's size line: bytes that it takes, and the size. `None` when it is not complete.
pub(super) fn size_line(bytes: &[u8]) -> Result<Option<(usize, u64)>, Violation> {
    let Some(end) = memchr(b'\n', bytes) else {
        return if bytes.len() > MAX_LINE { Err(Violation::ChunkSize) } else { Ok(None) };
    };
    let line =
        bytes[..end].strip_suffix(b"\r").filter(|l| l.len() <= MAX_LINE).ok_or(Violation::ChunkSize)?;
    let digits = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, extension) = line.split_at(digits);
    let blanks = extension.iter().position(|b| *b != b' ' && *b != b'\t').unwrap_or(extension.len());
    let extension_is_clean = match &extension[blanks..] {
        [] => true,
        [b';', rest @ ..] => rest.iter().all(|b| *b >= 0x20 && *b != 0x7f || *b == b'\t'),
        _ => false,
    };
    // 15 digits are more than any body; 16 could overflow somebody
    if digits == 0 || digits > 15 || !extension_is_clean {
        return Err(Violation::ChunkSize);
    }
    let size =
        size.iter().fold(0, |sum, b| sum << 4 | u64::from(char::from(*b).to_digit(16).unwrap_or_default()));
    Ok(Some((end + 1, size)))
}

/// The CRLF after a chunk; `None` when it is not complete.
pub(super) fn end(bytes: &[u8]) -> Result<Option<usize>, Violation> {
    match bytes {
        [b'\r', b'\n', ..] => Ok(Some(2)),
        [] | [b'\r'] => Ok(None),
        _ => Err(Violation::ChunkEnd),
    }
}

/// The trailers and the empty line after the last chunk: bytes that they take. `None` when they are not complete.
pub(super) fn trailers(bytes: &[u8]) -> Result<Option<usize>, Violation> {
    let mut lines = Lines { bytes, at: 0 };
    let mut count = 0;
    while let Some(line) = lines.next().map_err(|_| Violation::Trailer)? {
        if line.is_empty() {
            return if lines.at > MAX_HEAD { Err(Violation::Trailer) } else { Ok(Some(lines.at)) };
        }
        count += 1;
        let (name, _) = head::header(line).map_err(|_| Violation::Trailer)?;
        if count > MAX_HEADERS || head::is_reserved(&name.to_ascii_lowercase()) {
            return Err(Violation::Trailer);
        }
    }
    if bytes.len() > MAX_HEAD { Err(Violation::Trailer) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_plain_hexadecimal() {
        for (line, size) in
            [("0", 0), ("3", 3), ("00a", 10), ("Ff", 255), ("3;a=b", 3), ("3 ;a", 3), ("3 ", 3)]
        {
            let text = format!("{line}\r\nrest");
            assert_eq!(size_line(text.as_bytes()), Ok(Some((line.len() + 2, size))), "{line:?}");
        }
        for line in
            ["", "0x3", "-3", "+3", " 3", "3 4", "g", "3,", "3;a\0b", "3;a\rb", "1000000000000000", "3\u{fc}"]
        {
            assert_eq!(size_line(format!("{line}\r\n").as_bytes()), Err(Violation::ChunkSize), "{line:?}");
        }
        assert_eq!(size_line(b"3\n"), Err(Violation::ChunkSize));
        assert_eq!(size_line(b"3;\n"), Err(Violation::ChunkSize));
        assert_eq!(size_line(b"3\r"), Ok(None));
        assert_eq!(size_line(&[b'0'; MAX_LINE + 1]), Err(Violation::ChunkSize));
    }

    #[test]
    fn chunks_end_with_crlf() {
        assert_eq!(end(b"\r\n0"), Ok(Some(2)));
        assert_eq!(end(b"\r"), Ok(None));
        for spill in [&b"x\r\n"[..], b"\n", b"\rx"] {
            assert_eq!(end(spill), Err(Violation::ChunkEnd), "{spill:?}");
        }
    }

    #[test]
    fn trailers_cannot_change_what_was_decided() {
        assert_eq!(trailers(b"\r\nGET"), Ok(Some(2)));
        assert_eq!(trailers(b"Grpc-Status: 0\r\n\r\n"), Ok(Some(18)));
        assert_eq!(trailers(b"Grpc-Status: 0\r\n"), Ok(None));
        for bad in [
            "Host: b\r\n\r\n",
            "content-length: 3\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n",
            "byrnie-client-id: x\r\n\r\n",
            "X-Forwarded-Client-Cert: x\r\n\r\n",
            "a b: c\r\n\r\n",
            "a: b\n\r\n",
        ] {
            assert_eq!(trailers(bad.as_bytes()), Err(Violation::Trailer), "{bad:?}");
        }
        assert_eq!(trailers(&"a: b\r\n".repeat(MAX_HEADERS + 1).into_bytes()), Err(Violation::Trailer));
    }
}
