//! How much the same work varies on this machine, now.

use std::time::Instant;

/// Ten runs of a fixed loop, in a sentence.
pub(crate) fn noise() -> String {
    let mut times: Vec<f64> = (0..10)
        .map(|_| {
            let begin = Instant::now();
            let mut x = 1_u64;
            for i in 0..20_000_000_u64 {
                x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i));
            }
            std::hint::black_box(x);
            begin.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let (low, high) = (times.first().copied().unwrap_or(0.0), times.last().copied().unwrap_or(0.0));
    format!("a fixed loop takes {low:.1} to {high:.1} ms ({:+.0} %)", (high / low - 1.0) * 100.0)
}
