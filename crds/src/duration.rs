//! Durations as Gateway API writes them (GEP-2257): `10s`, `1h30m`, `500ms`.

use std::time::Duration;

/// What the CRDs demand of a duration.
pub const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// What to tell somebody who wrote another.
pub const EXPLAINED: &str =
    "is no duration: write up to four numbers with unit h, m, s or ms, as in 10s or 1h30m";

/// Reads one to four groups of one to five digits and a unit (`h`, `m`, `s`, `ms`), added up.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) {
            return None;
        }
        let number: u64 = rest[..digits].parse().ok()?;
        let units = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = rest[digits..].split_at(units);
        total += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        if after.is_empty() {
            return Some(total);
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_add_up() {
        for (text, millis) in [
            ("0s", 0),
            ("10s", 10_000),
            ("1h30m", 5_400_000),
            ("1s1s500ms", 2_500),
            ("99999h", 359_996_400_000),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "10",
            "s",
            "-1s",
            "1.5s",
            "1d",
            "1us",
            "100000s",
            "1s1s1s1s1s",
            "1s ",
            " 1s",
            "1S",
            "1h m",
            "1µs",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
