//! `resource.Quantity`: a fixed-point number with a decimal or binary suffix.
//!
//! Held as a count of 10⁻⁹; values beyond ±(2⁶³−1) are capped and more precise ones are rounded
//! away from zero, both as upstream does. Source: `k8s.io/apimachinery/pkg/api/resource`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
/// 2⁶³−1, the largest magnitude, in 10⁻⁹.
const MAX: i128 = (i64::MAX as i128) * NANO;

/// How a quantity was written, and so how it is written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySi,
    /// `12M`
    DecimalSi,
}

/// A number with its suffix family. Equality and order look at the number only.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity. The words are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text has another shape altogether.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The digits are no number.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

enum Scale {
    Ten(i64),
    Two(u32),
}

fn suffix(text: &str) -> Option<(Scale, Format)> {
    let ten = |exponent| Some((Scale::Ten(exponent), Format::DecimalSi));
    let two = |exponent| Some((Scale::Two(exponent), Format::BinarySi));
    match text {
        "n" => ten(-9),
        "u" => ten(-6),
        "m" => ten(-3),
        "" => ten(0),
        "k" => ten(3),
        "M" => ten(6),
        "G" => ten(9),
        "T" => ten(12),
        "P" => ten(15),
        "E" => ten(18),
        "Ki" => two(10),
        "Mi" => two(20),
        "Gi" => two(30),
        "Ti" => two(40),
        "Pi" => two(50),
        "Ei" => two(60),
        _ => {
            let exponent = text.strip_prefix(['e', 'E'])?;
            let exponent: i64 = exponent.parse().ok()?;
            Some((Scale::Ten(exponent), Format::DecimalExponent))
        }
    }
}

/// `value / divisor`, rounded away from zero.
fn div_up(value: i128, divisor: i128) -> i128 {
    let quotient = value / divisor;
    if value % divisor == 0 { quotient } else { quotient + value.signum() }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value > 0 { i64::MAX } else { i64::MIN })
}

impl Quantity {
    /// Zero, decimal.
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    /// A whole number.
    #[must_use]
    pub const fn new(value: i64, format: Format) -> Self {
        Self { nanos: value as i128 * NANO, format }
    }

    /// A number of thousandths.
    #[must_use]
    pub const fn from_milli(value: i64, format: Format) -> Self {
        Self { nanos: value as i128 * (NANO / 1000), format }
    }

    /// Parses `100m`, `1.5Gi`, `2e3` …
    ///
    /// # Errors
    /// [`QuantityError`] with upstream's message.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(QuantityError::Format),
            Some(b'-') => (true, text.get(1..).unwrap_or_default()),
            Some(b'+') => (false, text.get(1..).unwrap_or_default()),
            Some(_) => (false, text),
        };
        let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, rest) = rest.split_at(digits(rest));
        let (fraction, rest) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(digits(rest)),
            None => ("", rest),
        };
        let letters = rest.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
        let (_, tail) = rest.split_at(letters);
        let tail = tail.strip_prefix(['-', '+']).unwrap_or(tail);
        if digits(tail) != tail.len() {
            return Err(QuantityError::Format);
        }
        let (scale, format) = suffix(rest).ok_or(QuantityError::Suffix)?;
        if whole.is_empty() && fraction.is_empty() {
            return Err(QuantityError::Numeric);
        }
        let magnitude = magnitude(whole, fraction, &scale);
        let format = if format == Format::BinarySi && magnitude > 0 && magnitude < NANO {
            Format::DecimalSi
        } else {
            format
        };
        Ok(Self { nanos: if negative { -magnitude } else { magnitude }, format })
    }

    /// The suffix family.
    #[must_use]
    pub const fn format(self) -> Format {
        self.format
    }

    /// The number in 10⁻⁹.
    #[must_use]
    pub const fn nanos(self) -> i128 {
        self.nanos
    }

    /// The number, rounded up to a whole one.
    #[must_use]
    pub fn value(self) -> i64 {
        saturate(div_up(self.nanos, NANO))
    }

    /// The number in thousandths, rounded up.
    #[must_use]
    pub fn milli_value(self) -> i64 {
        saturate(div_up(self.nanos, NANO / 1000))
    }

    /// The number as a float, for display and ratios only.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "approximate by contract")]
    pub fn approximate(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// Whether the number is 0.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// −1, 0 or 1.
    #[must_use]
    pub const fn signum(self) -> i32 {
        self.nanos.signum() as i32
    }

    /// Whether the number is whole.
    #[must_use]
    pub const fn is_integer(self) -> bool {
        self.nanos % NANO == 0
    }

    /// The same number rounded up to thousandths: what the API server does to resource lists.
    #[must_use]
    pub fn round_up_milli(self) -> Self {
        Self { nanos: div_up(self.nanos, NANO / 1000).saturating_mul(NANO / 1000), ..self }
    }

    /// Sum. A zero on the left takes the format of the right side, as upstream.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "upstream's name; the format makes it no plain sum")]
    pub fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    /// Difference. A zero on the left takes the format of the right side, as upstream.
    #[must_use]
    #[expect(
        clippy::should_implement_trait,
        reason = "upstream's name; the format makes it no plain difference"
    )]
    pub fn sub(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_sub(other.nanos), format }
    }
}

/// The value without sign, in 10⁻⁹: rounded up, capped.
fn magnitude(whole: &str, fraction: &str, scale: &Scale) -> i128 {
    // 38 significant digits are more than any quantity can keep; what is cut off rounds up.
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
    let significant = digits.iter().skip_while(|d| **d == 0).count();
    if significant == 0 {
        return 0;
    }
    let start = digits.len() - significant;
    let kept = significant.min(30);
    let mut mantissa: i128 = 0;
    for digit in digits.iter().skip(start).take(kept) {
        mantissa = mantissa * 10 + i128::from(*digit);
    }
    if digits.iter().skip(start + kept).any(|d| *d != 0) {
        mantissa += 1;
    }
    let dropped = i64::try_from(significant - kept).unwrap_or(i64::MAX);
    let places = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    let mut exponent = dropped.saturating_sub(places).saturating_add(9);
    let mut value = mantissa;
    match *scale {
        Scale::Ten(by) => exponent = exponent.saturating_add(by),
        Scale::Two(by) => {
            // Exact where it fits; otherwise the value is far beyond the cap or has its zeros cut.
            while exponent < 0 && value % 10 == 0 {
                value /= 10;
                exponent += 1;
            }
            match value.checked_mul(1_i128 << by) {
                Some(product) => value = product,
                None if exponent < 0 => {
                    let cut = u32::try_from(exponent.unsigned_abs().min(20)).unwrap_or(20);
                    value = div_up(value, 10_i128.pow(cut)).saturating_mul(1_i128 << by);
                    exponent += i64::from(cut);
                }
                None => return MAX,
            }
        }
    }
    let scaled = if exponent >= 0 {
        u32::try_from(exponent).ok().and_then(|e| 10_i128.checked_pow(e)).and_then(|p| value.checked_mul(p))
    } else {
        let divisor = u32::try_from(exponent.unsigned_abs()).ok().and_then(|e| 10_i128.checked_pow(e));
        Some(divisor.map_or(1, |d| div_up(value, d)))
    };
    scaled.map_or(MAX, |v| v.min(MAX))
}

// === impl traits of Quantity ===

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Default for Quantity {
    fn default() -> Self {
        Self::ZERO
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

/// The canonical form: no fraction, the largest suffix that loses nothing.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let kibi = 1024 * NANO;
        if self.format == Format::BinarySi && self.nanos.abs() >= kibi && self.is_integer() {
            let mut number = self.nanos / NANO;
            let mut step = 0;
            while number % 1024 == 0 && step < 6 {
                number /= 1024;
                step += 1;
            }
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].get(step).copied().unwrap_or_default();
            return write!(f, "{number}{suffix}");
        }
        let mut number = self.nanos;
        let mut exponent = -9;
        while number % 1000 == 0 && exponent < 18 {
            number /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { write!(f, "{number}") } else { write!(f, "{number}e{exponent}") };
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            18 => "E",
            _ => "",
        };
        write!(f, "{number}{suffix}")
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Self::parse(text.trim()),
            serde_json::Value::Number(number) => Self::parse(&number.to_string()),
            serde_json::Value::Null => Ok(Self::ZERO),
            _ => Err(QuantityError::Format),
        }
        .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
