//! Exact integer shares, without integer division.

/// `part * 100 / whole`, rounded down, for `0 <= part <= whole`, `whole > 0`.
///
/// A 64-bit integer division costs several times a floating one; the quotient is at most 100, so
/// the floating one is off by at most one, which the remainder tells.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "corrected by the remainder"
)]
pub(crate) fn percent(part: i64, whole: i64) -> i64 {
    let product = part.wrapping_mul(100);
    let quotient = (product as f64 / whole as f64) as i64;
    let rest = product.wrapping_sub(quotient.wrapping_mul(whole));
    quotient - i64::from(rest < 0) + i64::from(rest >= whole)
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn equals_integer_division() {
        let mut x = 0x9E37_79B9_u64;
        let mut next = |max: i64| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            i64::try_from(x >> 8).unwrap() % max
        };
        for bits in 1..=55 {
            for _ in 0..500 {
                let whole = next(1 << bits) + 1;
                let part = next(whole + 1);
                assert_eq!(percent(part, whole), part * 100 / whole, "{part} of {whole}");
            }
        }
        for whole in 1..300 {
            for part in 0..=whole {
                assert_eq!(percent(part, whole), part * 100 / whole);
            }
        }
    }
}
