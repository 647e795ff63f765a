//! `spec.rollout`: how far a new revision may go, and when. Pure: numbers in, a verdict out.
//!
//! A revision that was staged goes through the modes that the rollout names, shadow before canary, and
//! then becomes active. Each mode ends when its minima are reached; it ends badly as soon as a
//! budget is overdrawn, whether the minima are reached or not.

use super::comparison::{Mode, Numbers};
use super::object::SpecError;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Failures of a candidate that are forgiven where nothing is said.
const FAILURES: u64 = 2;
/// Answers after which latencies are compared; before, one slow start would weigh too much.
const ENOUGH: u64 = 20;

/// `spec.rollout`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Rollout {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shadow: Option<Shadow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) canary: Option<Canary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency_budget: Option<LatencyBudget>,
    /// Calls of the candidate that may fail before it is given up; 2 where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) maximum_failures: Option<u64>,
    /// The candidate stays in the mode that it has reached. Budgets count all the same.
    #[serde(skip_serializing_if = "is_false")]
    pub(crate) paused: bool,
}

/// `spec.rollout.shadow`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Shadow {
    /// Inputs that must have been compared.
    pub(crate) minimum_requests: u64,
    /// Time that must have passed.
    pub(crate) minimum_seconds: u64,
    /// Share of the inputs, 0 to 1, that may be decided otherwise; where it is not given, differences
    /// are reported only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) maximum_differences: Option<f64>,
}

/// `spec.rollout.canary`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Canary {
    /// Share of the keys about which the candidate decides, 1 to 100.
    pub(crate) percent: u8,
    /// Inputs that the candidate must have decided.
    pub(crate) minimum_requests: u64,
    /// Time that must have passed.
    pub(crate) minimum_seconds: u64,
}

impl Default for Canary {
    fn default() -> Self {
        Self { percent: 10, minimum_requests: 0, minimum_seconds: 0 }
    }
}

/// `spec.rollout.latencyBudget`; both may be given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct LatencyBudget {
    /// Time in which 99 of 100 answers must come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) milliseconds: Option<f64>,
    /// The mean of the candidate, in means of the active revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<f64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// What shall become of a candidate.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// It goes on as it is; says what it waits for.
    Hold(String),
    /// It goes to the next mode, or becomes active where there is none.
    Advance,
    /// It is given up: a CamelCase reason and a sentence.
    GiveUp(&'static str, String),
}

impl Rollout {
    /// Checks the ranges.
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        let fault = |path, message: String| Err(SpecError::Field { path, message });
        if let Some(share) = self.shadow.as_ref().and_then(|s| s.maximum_differences)
            && !(0.0..=1.0).contains(&share)
        {
            return fault("rollout.shadow.maximumDifferences", format!("{share} is not within 0 to 1"));
        }
        if let Some(percent) = self.canary.as_ref().map(|c| c.percent)
            && !(1..=100).contains(&percent)
        {
            return fault("rollout.canary.percent", format!("{percent} is not within 1 to 100"));
        }
        let budget = self.latency_budget.clone().unwrap_or_default();
        for (path, value) in [
            ("rollout.latencyBudget.milliseconds", budget.milliseconds),
            ("rollout.latencyBudget.ratio", budget.ratio),
        ] {
            if value.is_some_and(|v| !v.is_finite() || v <= 0.0) {
                return fault(path, "must be more than 0".to_owned());
            }
        }
        Ok(())
    }

    /// The mode after `now`; `None` means active.
    pub(crate) fn next(&self, now: Option<Mode>) -> Option<Mode> {
        let canary = || self.canary.as_ref().map(|c| Mode::Canary { percent: c.percent });
        match now {
            None if self.shadow.is_some() => Some(Mode::Shadow),
            None | Some(Mode::Shadow) => canary(),
            Some(Mode::Canary { .. }) => None,
        }
    }

    /// Judges a mode by its numbers and by the failures of the candidate since it began.
    pub(crate) fn judge(&self, mode: Mode, numbers: &Numbers, failures: u64, last: &str) -> Outcome {
        let most = self.maximum_failures.unwrap_or(FAILURES);
        if failures > most {
            return Outcome::GiveUp(
                "TooManyFailures",
                format!("{failures} calls failed, {most} may; last: {last}"),
            );
        }
        if let Some(fault) = self.too_slow(numbers) {
            return Outcome::GiveUp("TooSlow", fault);
        }
        let (requests, wanted, seconds) = match mode {
            Mode::Shadow => {
                let shadow = self.shadow.clone().unwrap_or_default();
                if let Some(share) = shadow.maximum_differences
                    && as_float(numbers.different)
                        > share * as_float(numbers.compared.max(shadow.minimum_requests))
                {
                    let message = format!(
                        "{} of {} inputs were decided otherwise, more than {:.2} %",
                        numbers.different,
                        numbers.compared,
                        share * 100.0
                    );
                    return Outcome::GiveUp("TooManyDifferences", message);
                }
                (numbers.compared, shadow.minimum_requests, shadow.minimum_seconds)
            }
            Mode::Canary { .. } => {
                let canary = self.canary.clone().unwrap_or_default();
                (numbers.candidate.count, canary.minimum_requests, canary.minimum_seconds)
            }
        };
        if self.paused {
            return Outcome::Hold("paused".to_owned());
        }
        let elapsed = numbers.elapsed;
        if requests >= wanted && elapsed >= Duration::from_secs(seconds) {
            return Outcome::Advance;
        }
        Outcome::Hold(format!("{requests} of {wanted} requests, {} of {seconds} s", elapsed.as_secs()))
    }

    fn too_slow(&self, numbers: &Numbers) -> Option<String> {
        let budget = self.latency_budget.as_ref()?;
        if numbers.candidate.count < ENOUGH {
            return None;
        }
        if let Some(most) = budget.milliseconds
            && numbers.candidate.p99 > most * 1000.0
        {
            return Some(format!(
                "99 of 100 answers came within {:.1} ms, {most} ms are allowed",
                numbers.candidate.p99 / 1000.0
            ));
        }
        if let Some(most) = budget.ratio
            && numbers.active.count >= ENOUGH
            && numbers.candidate.mean > most * numbers.active.mean
        {
            return Some(format!(
                "an answer took {:.0} µs in the mean, {:.0} µs with the active revision; {most} times as long is allowed",
                numbers.candidate.mean, numbers.active.mean
            ));
        }
        None
    }
}

fn as_float(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    let float = count as f64;
    float
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::comparison::Times;
    use serde_json::json;

    fn rollout(value: serde_json::Value) -> Rollout {
        let rollout: Rollout = serde_json::from_value(value).unwrap();
        rollout.check().unwrap();
        rollout
    }

    fn times(count: u64, mean: f64, p99: f64) -> Times {
        Times { count, mean, p99 }
    }

    #[test]
    fn modes_come_in_their_order() {
        let both = rollout(json!({ "shadow": {}, "canary": { "percent": 5 } }));
        let canary = Some(Mode::Canary { percent: 5 });
        assert_eq!(both.next(None), Some(Mode::Shadow));
        assert_eq!(both.next(Some(Mode::Shadow)), canary);
        assert_eq!(both.next(canary), None);
        assert_eq!(rollout(json!({ "canary": {} })).next(None), Some(Mode::Canary { percent: 10 }));
        assert_eq!(Rollout::default().next(None), None);
    }

    #[test]
    fn minima_and_budgets() {
        let rollout = rollout(json!({
            "shadow": { "minimumRequests": 100, "minimumSeconds": 5, "maximumDifferences": 0.1 },
            "latencyBudget": { "milliseconds": 2, "ratio": 1.5 },
        }));
        let numbers = |compared, different, seconds| Numbers {
            elapsed: Duration::from_secs(seconds),
            compared,
            different,
            ..Numbers::default()
        };
        let judge = |n: &Numbers, failures| rollout.judge(Mode::Shadow, n, failures, "trapped");
        assert!(matches!(judge(&numbers(99, 0, 6), 0), Outcome::Hold(w) if w.contains("99 of 100")));
        assert!(matches!(judge(&numbers(100, 0, 4), 0), Outcome::Hold(_)));
        assert_eq!(judge(&numbers(100, 10, 5), 0), Outcome::Advance);
        assert!(matches!(judge(&numbers(100, 11, 5), 0), Outcome::GiveUp("TooManyDifferences", _)));
        assert!(matches!(judge(&numbers(12, 11, 0), 0), Outcome::GiveUp("TooManyDifferences", _)));
        assert!(matches!(judge(&numbers(12, 10, 0), 0), Outcome::Hold(_)), "it may still come right");
        assert!(matches!(judge(&numbers(12, 0, 0), 2), Outcome::Hold(_)));
        assert!(
            matches!(judge(&numbers(12, 0, 0), 3), Outcome::GiveUp("TooManyFailures", m) if m.contains("trapped"))
        );
        let slow = |active, candidate| Numbers { active, candidate, ..numbers(50, 0, 1) };
        let fine = slow(times(50, 100.0, 200.0), times(50, 140.0, 900.0));
        assert!(matches!(judge(&fine, 0), Outcome::Hold(_)));
        let slow_mean = slow(times(50, 100.0, 200.0), times(50, 160.0, 900.0));
        assert!(matches!(judge(&slow_mean, 0), Outcome::GiveUp("TooSlow", m) if m.contains("160 µs")));
        let slow_tail = slow(times(50, 100.0, 200.0), times(50, 100.0, 2_100.0));
        assert!(matches!(judge(&slow_tail, 0), Outcome::GiveUp("TooSlow", _)));
        let few = slow(times(50, 100.0, 200.0), times(19, 9_000.0, 9_000.0));
        assert!(matches!(judge(&few, 0), Outcome::Hold(_)));
    }

    #[test]
    fn a_paused_candidate_stays_and_a_canary_counts_what_it_decided() {
        let mut rollout = rollout(json!({ "canary": { "minimumRequests": 10 }, "paused": true }));
        let mode = Mode::Canary { percent: 10 };
        let numbers = Numbers { candidate: times(10, 1.0, 1.0), ..Numbers::default() };
        assert_eq!(rollout.judge(mode, &numbers, 0, ""), Outcome::Hold("paused".into()));
        rollout.paused = false;
        assert_eq!(rollout.judge(mode, &numbers, 0, ""), Outcome::Advance);
    }

    #[test]
    fn impossible_values_are_named() {
        for (value, path) in [
            (json!({ "shadow": { "maximumDifferences": 2 } }), "rollout.shadow.maximumDifferences"),
            (json!({ "canary": { "percent": 0 } }), "rollout.canary.percent"),
            (json!({ "latencyBudget": { "ratio": 0 } }), "rollout.latencyBudget.ratio"),
        ] {
            let rollout: Rollout = serde_json::from_value(value).unwrap();
            assert!(rollout.check().unwrap_err().to_string().contains(path), "{path}");
        }
    }
}
