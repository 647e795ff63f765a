//! Resource quantities as the node needs them: whole milli-units and whole units, rounded up.
//!
//! Source of the format: `k8s.io/apimachinery/pkg/api/resource`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// Resource list of a container or node.
pub(crate) type Resources = BTreeMap<String, Quantity>;

/// A quantity in thousandths, rounded up; `None` where the text is no quantity.
pub(crate) fn milli(text: &str) -> Option<i64> {
    scaled(text, 1000)
}

/// A quantity in whole units, rounded up; `None` where the text is no quantity.
pub(crate) fn whole(text: &str) -> Option<i64> {
    scaled(text, 1)
}

fn scaled(text: &str, scale: i128) -> Option<i64> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (digits, suffix) = rest.split_at(end);
    let (int, frac) = digits.split_once('.').unwrap_or((digits, ""));
    if int.is_empty() && frac.is_empty() || frac.contains('.') || frac.len() > 18 || int.len() > 19 {
        return None;
    }
    // The value is `mantissa * multiplier / (10^frac_len * divisor)`.
    let mantissa: i128 = format!("{int}{frac}").parse().ok()?;
    let mut numerator = mantissa.checked_mul(scale)?;
    let mut denominator = 10_i128.checked_pow(u32::try_from(frac.len()).ok()?)?;
    let (mul, div) = multiplier(suffix)?;
    numerator = numerator.checked_mul(mul)?;
    denominator = denominator.checked_mul(div)?;
    if negative {
        numerator = -numerator;
    }
    let up = numerator.div_euclid(denominator) + i128::from(numerator.rem_euclid(denominator) != 0);
    Some(i64::try_from(up).unwrap_or(if negative { i64::MIN } else { i64::MAX }))
}

fn multiplier(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        other => {
            let exponent: i32 = other.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10_i128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 { (1, power) } else { (power, 1) }
        }
    })
}

/// Milli-CPUs of a resource list, if it names any.
pub(crate) fn cpu_millis(resources: Option<&Resources>) -> Option<i64> {
    milli(&resources?.get("cpu")?.0)
}

/// Bytes of `name` in a resource list, if it names any.
pub(crate) fn bytes_of(resources: Option<&Resources>, name: &str) -> Option<i64> {
    whole(&resources?.get(name)?.0)
}

/// Milli-CPUs as a quantity, in canonical form.
pub(crate) fn from_millis(millis: i64) -> Quantity {
    if millis % 1000 == 0 { Quantity((millis / 1000).to_string()) } else { Quantity(format!("{millis}m")) }
}

/// Bytes as a quantity in Ki, as the kubelet reports memory; plain where not a multiple.
pub(crate) fn from_bytes(bytes: i64) -> Quantity {
    if bytes % 1024 == 0 { Quantity(format!("{}Ki", bytes / 1024)) } else { Quantity(bytes.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kubernetes_writes() {
        for (text, m, w) in [
            ("100m", 100, 1),
            ("1", 1000, 1),
            ("1.5", 1500, 2),
            ("64Mi", 64 * 1024 * 1024 * 1000, 64 * 1024 * 1024),
            ("1e3", 1_000_000, 1000),
            ("12E-1", 1200, 2),
            ("0.1", 100, 1),
            ("1u", 1, 1),
            ("-1", -1000, -1),
            ("2G", 2_000_000_000_000, 2_000_000_000),
        ] {
            assert_eq!(milli(text), Some(m), "{text}");
            assert_eq!(whole(text), Some(w), "{text}");
        }
        for text in ["", "x", "1x", "1.2.3", "m", "--1", "1ki"] {
            assert_eq!(milli(text), None, "{text}");
        }
    }

    #[test]
    fn writes_canonically() {
        assert_eq!(from_millis(2000).0, "2");
        assert_eq!(from_millis(250).0, "250m");
        assert_eq!(from_bytes(2048).0, "2Ki");
        assert_eq!(from_bytes(1000).0, "1000");
    }
}
