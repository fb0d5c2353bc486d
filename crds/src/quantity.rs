//! Kubernetes Quantities (`1`, `500m`, `2k`, `1Ki`, `1e3`) as whole thousandths.

/// What the CRD demands of a Quantity that is a string. Negative ones are no weight.
pub(crate) const PATTERN: &str =
    r"^[+]?([0-9]+([.][0-9]*)?|[.][0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?$";

/// Thousandths of a Quantity, rounded up as Kubernetes does. `None`: no such number, or one without bounds.
pub(crate) fn milli(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let mantissa: u128 = format!("0{whole}{fraction}").parse().ok()?;
    let (binary, decimal) = unit(suffix)?;
    let exponent = decimal + 3 - i32::try_from(fraction.len()).ok()?;
    let scaled = mantissa.checked_mul(1u128.checked_shl(binary)?)?;
    let power = 10u128.checked_pow(exponent.unsigned_abs());
    let milli = match power {
        Some(power) if exponent >= 0 => scaled.checked_mul(power)?,
        Some(power) => scaled.div_ceil(power),
        None if exponent >= 0 && mantissa > 0 => return None,
        None => u128::from(mantissa > 0 && exponent < 0),
    };
    u64::try_from(milli).ok()
}

/// Powers of two and of ten.
fn unit(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => (0, suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|e: &i32| e.abs() < 100)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_in_thousandths() {
        for (text, thousandths) in [
            ("0", 0),
            ("1", 1000),
            ("+1", 1000),
            ("1.", 1000),
            (".5", 500),
            ("500m", 500),
            ("1500m", 1500),
            ("0.0015", 2),
            ("100u", 1),
            ("1n", 1),
            ("0n", 0),
            ("2k", 2_000_000),
            ("1Ki", 1_024_000),
            ("1.5Ki", 1_536_000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("5e-1", 500),
        ] {
            assert_eq!(milli(text), Some(thousandths), "{text}");
        }
    }

    #[test]
    fn everything_else_is_none() {
        for text in [
            "",
            ".",
            "-1",
            "1x",
            "m",
            "1 ",
            "1.2.3",
            "1mm",
            "1e",
            "1e999",
            "1E",
            "Ki",
            "99999999999999999999999999",
            "١",
        ] {
            assert_eq!(milli(text), None, "{text}");
        }
    }
}
