//! Until when a caller waits, as it travels with a request: gRPC's own header, and ours for everything else.
//!
//! Whoever is told of a deadline does not begin work that nobody waits for, and tells the next one what is left. A value
//! that is not understood is no deadline (gRPC over HTTP/2: at most eight digits and a unit).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Milliseconds that are left, in decimal.
pub const TIMEOUT: HeaderName = HeaderName::from_static("byrnie-timeout");
const GRPC: HeaderName = HeaderName::from_static("grpc-timeout");
const MAX_DIGITS: usize = 8;

/// The time that is left to a request, as its headers say; of several, the shortest.
pub fn told(headers: &HeaderMap) -> Option<Duration> {
    let ours = headers.get_all(TIMEOUT).iter().filter_map(|value| millis(value.as_bytes()));
    let grpc = headers.get_all(GRPC).iter().filter_map(|value| grpc(value.as_bytes()));
    ours.chain(grpc).min()
}

/// Says how much is left. gRPC's header is only ever shortened.
pub fn tell(headers: &mut HeaderMap, left: Duration) {
    // rounded up: whoever is nearer to the caller shall notice first
    let millis = u32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u32::MAX).max(1);
    headers.insert(TIMEOUT, millis.into());
    let longer = |value: &HeaderValue| grpc(value.as_bytes()).is_some_and(|said| said > left);
    if headers.get(GRPC).is_some_and(longer) {
        let text = format!("{}m", millis.min(99_999_999));
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(GRPC, value);
        }
    }
}

fn millis(text: &[u8]) -> Option<Duration> {
    number(text).map(Duration::from_millis)
}

fn grpc(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    let count = number(digits)?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

fn number(digits: &[u8]) -> Option<u64> {
    let fine = (1..=MAX_DIGITS).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    fine.then(|| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_shortest_counts() {
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(told(&headers(&[])), None);
        assert_eq!(told(&headers(&[("byrnie-timeout", "250")])), ms(250));
        assert_eq!(told(&headers(&[("grpc-timeout", "1S"), ("byrnie-timeout", "2000")])), ms(1000));
        assert_eq!(told(&headers(&[("grpc-timeout", "3M"), ("grpc-timeout", "500000u")])), ms(500));
        assert_eq!(told(&headers(&[("grpc-timeout", "99999999H")])), Some(Duration::from_hours(99_999_999)));
    }

    #[test]
    fn nonsense_is_no_deadline() {
        for bad in ["", "S", "-1S", "1", "1s", "123456789S", "1.5S", " 1S", "1S ", "18446744073709551616n"] {
            assert_eq!(told(&headers(&[("grpc-timeout", bad)])), None, "{bad}");
        }
        for bad in ["", "-1", "1S", "123456789", "+5", "1 "] {
            assert_eq!(told(&headers(&[("byrnie-timeout", bad)])), None, "{bad}");
        }
    }

    #[test]
    fn what_is_left_is_told_on() {
        let mut fields =
            headers(&[("grpc-timeout", "10S"), ("byrnie-timeout", "9"), ("byrnie-timeout", "8")]);
        tell(&mut fields, Duration::from_millis(1500));
        assert_eq!(
            (&fields["grpc-timeout"], &fields["byrnie-timeout"]),
            (&HeaderValue::from_static("1500m"), &HeaderValue::from_static("1500"))
        );
        tell(&mut fields, Duration::from_secs(3));
        assert_eq!(fields["grpc-timeout"], "1500m");
        tell(&mut fields, Duration::from_micros(3));
        assert_eq!(
            (fields.get_all("byrnie-timeout").iter().count(), &fields["byrnie-timeout"]),
            (1, &HeaderValue::from_static("1"))
        );
    }
}
