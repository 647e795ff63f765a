//! Time as Kubernetes writes it, without a time library: guests stay small.

const DAY: i64 = 86_400;

/// `now` (milliseconds since 1970) as `meta/v1.Time`: whole seconds, UTC.
#[must_use]
pub fn now_text(now: i64) -> String {
    let seconds = now.div_euclid(1000);
    let (days, rest) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Milliseconds since 1970 of an RFC 3339 time; `None` where it is none.
#[must_use]
pub fn parse_time(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let sign = |at: usize, c: u8| (bytes.get(at) == Some(&c)).then_some(());
    sign(4, b'-')?;
    sign(7, b'-')?;
    sign(13, b':')?;
    sign(16, b':')?;
    let days = days_from_civil(number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let seconds = days * DAY + number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let rest = text.get(19..)?;
    let (millis, zone) = match rest.strip_prefix('.') {
        Some(fraction) => {
            let end = fraction.find(|c: char| !c.is_ascii_digit())?;
            let digits: String = fraction.chars().take(end).chain("000".chars()).take(3).collect();
            (digits.parse::<i64>().ok()?, fraction.get(end..)?)
        }
        None => (0, rest),
    };
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let hours = zone.get(1..3)?.parse::<i64>().ok()?;
            let minutes = zone.get(4..6)?.parse::<i64>().ok()?;
            sign * (hours * 3600 + minutes * 60)
        }
    };
    Some((seconds - offset) * 1000 + millis)
}

/// Days since 1970 of a date in the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let mp = (5 * of_year + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (era * 400 + year + i64::from(month <= 2), month, of_year - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_it_reads() {
        for text in
            ["1970-01-01T00:00:00Z", "2024-02-29T23:59:59Z", "2026-12-31T12:00:00Z", "1969-12-31T00:00:01Z"]
        {
            assert_eq!(now_text(parse_time(text).unwrap()), text);
        }
        assert_eq!(parse_time("2001-09-09T01:46:40Z"), Some(1_000_000_000_000));
        assert_eq!(parse_time("2001-09-09T01:46:40.123456Z"), Some(1_000_000_000_123));
        assert_eq!(parse_time("2001-09-09T03:46:40.5+02:00"), Some(1_000_000_000_500));
        for bad in ["", "2001", "2001-09-09 01:46:40", "2001-09-09T01:46:40", "x001-09-09T01:46:40Z"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }
}
