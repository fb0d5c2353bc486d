//! Reads DER strictly: definite and minimal lengths, one-byte tags, at most 64 KiB, nothing left over.
//!
//! Knows tags and lengths (ITU-T X.690 sections 8.1 and 10.1), not certificates.

/// The bytes are not DER, or not the DER that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// What is left of one constructed value.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;

/// The tag `[number]` of a constructed value.
pub(crate) const fn explicit(number: u8) -> u8 {
    0xa0 | number
}

/// The tag `[number]` of a primitive value.
pub(crate) const fn implicit(number: u8) -> u8 {
    0x80 | number
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn at_end(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing may be left.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.at_end() { Ok(()) } else { Err(Malformed) }
    }

    /// The next value and its tag.
    pub(crate) fn any(&mut self) -> Result<(u8, &'a [u8]), Malformed> {
        let (&tag, rest) = self.0.split_first().ok_or(Malformed)?;
        if tag & 0x1f == 0x1f {
            return Err(Malformed);
        }
        let (length, rest) = match *rest {
            [short @ 0..=0x7f, ref rest @ ..] => (usize::from(short), rest),
            [0x81, long @ 0x80..=0xff, ref rest @ ..] => (usize::from(long), rest),
            [0x82, high @ 1..=0xff, low, ref rest @ ..] => {
                (usize::from(u16::from_be_bytes([high, low])), rest)
            }
            _ => return Err(Malformed),
        };
        let (value, rest) = rest.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok((tag, value))
    }

    /// The next value, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        self.optional(tag)?.ok_or(Malformed)
    }

    /// The next value if it has this tag.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<&'a [u8]>, Malformed> {
        if self.0.first() == Some(&tag) { Ok(Some(self.any()?.1)) } else { Ok(None) }
    }

    /// A constructed value with this tag.
    pub(crate) fn nested(&mut self, tag: u8) -> Result<Reader<'a>, Malformed> {
        self.expect(tag).map(Reader)
    }

    /// A BOOLEAN that is false where it is absent.
    pub(crate) fn boolean_or_false(&mut self) -> Result<bool, Malformed> {
        match self.optional(BOOLEAN)? {
            None | Some([0]) => Ok(false),
            Some([0xff]) => Ok(true),
            Some(_) => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_one_spelling() {
        let long = |head: &[u8], length: usize| [head, &vec![7; length]].concat();
        for (bytes, length) in [
            (long(&[4, 0], 0), Some(0)),
            (long(&[4, 0x7f], 0x7f), Some(0x7f)),
            (long(&[4, 0x81, 0x80], 0x80), Some(0x80)),
            (long(&[4, 0x82, 1, 0], 0x100), Some(0x100)),
            (long(&[4, 0x81, 0x7f], 0x7f), None),
            (long(&[4, 0x82, 0, 0xff], 0xff), None),
            (long(&[4, 0x83, 0, 1, 0], 0x100), None),
            (long(&[4, 0x80], 2), None),
            (long(&[4, 5], 4), None),
            (long(&[0x1f, 5], 5), None),
            (vec![4], None),
            (vec![], None),
        ] {
            let mut reader = Reader::new(&bytes);
            assert_eq!(
                reader.any().ok().map(|(_, value)| value.len()),
                length,
                "{:?}",
                &bytes[..bytes.len().min(5)]
            );
        }
    }

    #[test]
    fn what_is_left_over_is_an_error() {
        let mut reader = Reader::new(&[0x30, 3, 1, 1, 0xff, 9]);
        let mut inner = reader.nested(SEQUENCE).unwrap();
        assert_eq!(inner.boolean_or_false(), Ok(true));
        assert_eq!(inner.boolean_or_false(), Ok(false));
        assert_eq!(inner.end(), Ok(()));
        assert_eq!(reader.end(), Err(Malformed));
        assert_eq!(Reader::new(&[1, 1, 1]).boolean_or_false(), Err(Malformed));
    }
}
