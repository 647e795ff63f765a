//! `orlop_plugin_*` in Prometheus' text format.

use super::PluginManager;
use crate::plugins::comparison::Candidate;
use crate::plugins::set::ActivePlugin;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Upper bounds of the buckets of durations, in microseconds.
const BUCKETS: [u64; 12] = [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 65_536, 262_144, 1_048_576];

/// One revision that is asked.
struct Asked {
    labels: String,
    role: &'static str,
    plugin: Arc<ActivePlugin>,
    candidate: Option<Arc<Candidate>>,
}

impl PluginManager {
    /// All metrics of plugins. Costs nothing between two calls.
    pub(crate) fn metrics(&self) -> String {
        let set = self.sets.borrow().clone();
        let of = |plugin: &Arc<ActivePlugin>, role, candidate: Option<&Arc<Candidate>>| Asked {
            labels: format!(
                "plugin=\"{}\",kind=\"{}\",revision=\"{}\"",
                plugin.object,
                plugin.manifest().kind,
                plugin.number()
            ),
            role,
            plugin: plugin.clone(),
            candidate: candidate.cloned(),
        };
        let active = set.plugins.values().map(|p| of(p, "active", None));
        let candidates = set.candidates.values().map(|c| of(&c.plugin, "candidate", Some(c)));
        let asked: Vec<Asked> = active.chain(candidates).collect();
        let mut out = String::new();
        head(&mut out, "calls_total", "counter", "Calls of a plugin that ended, well or not.");
        for a in &asked {
            let _ = writeln!(out, "orlop_plugin_calls_total{{{}}} {}", a.labels, a.plugin.health.calls());
        }
        head(&mut out, "failures_total", "counter", "Calls of a plugin that failed, by reason.");
        for a in &asked {
            for (reason, count) in a.plugin.health.reasons() {
                let _ =
                    writeln!(out, "orlop_plugin_failures_total{{{},reason=\"{reason}\"}} {count}", a.labels);
            }
        }
        head(&mut out, "call_duration_seconds", "histogram", "How long calls of a plugin took.");
        for a in asked.iter().filter(|a| a.plugin.health.latency.count() > 0) {
            let (labels, latency) = (&a.labels, &a.plugin.health.latency);
            for micros in BUCKETS {
                let limit = Duration::from_micros(micros);
                let _ = writeln!(
                    out,
                    "orlop_plugin_call_duration_seconds_bucket{{{labels},le=\"{}\"}} {}",
                    limit.as_secs_f64(),
                    latency.within(limit)
                );
            }
            let count = latency.count();
            let _ =
                writeln!(out, "orlop_plugin_call_duration_seconds_bucket{{{labels},le=\"+Inf\"}} {count}");
            let _ = writeln!(out, "orlop_plugin_call_duration_seconds_sum{{{labels}}} {}", latency.seconds());
            let _ = writeln!(out, "orlop_plugin_call_duration_seconds_count{{{labels}}} {count}");
        }
        head(&mut out, "memory_bytes", "gauge", "Linear memory of a plugin's instances.");
        for a in &asked {
            let _ =
                writeln!(out, "orlop_plugin_memory_bytes{{{}}} {}", a.labels, a.plugin.health.memory_bytes());
        }
        head(&mut out, "stage", "gauge", "Where the newest revision of a plugin is; 1 for its stage.");
        for (name, entry) in self.entries.lock().iter() {
            let standing = entry.standing_now();
            let _ = writeln!(
                out,
                "orlop_plugin_stage{{plugin=\"{name}\",stage=\"{}\",state=\"{}\"}} 1",
                standing.stage.as_str(),
                standing.state.as_str()
            );
        }
        head(&mut out, "shadow_comparisons_total", "counter", "Inputs of a candidate in shadow, by result.");
        for a in &asked {
            let Some(candidate) = &a.candidate else { continue };
            let n = candidate.comparison.numbers();
            for (result, count) in [
                ("same", n.compared.saturating_sub(n.different)),
                ("different", n.different),
                ("dropped", n.dropped),
            ] {
                let _ = writeln!(
                    out,
                    "orlop_plugin_shadow_comparisons_total{{{},result=\"{result}\"}} {count}",
                    a.labels
                );
            }
        }
        head(&mut out, "revision_info", "gauge", "The revisions that are asked; 1 each.");
        for a in &asked {
            let _ = writeln!(
                out,
                "orlop_plugin_revision_info{{{},role=\"{}\",digest=\"{}\"}} 1",
                a.labels,
                a.role,
                a.plugin.digest()
            );
        }
        out
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP orlop_plugin_{name} {help}\n# TYPE orlop_plugin_{name} {kind}");
}
