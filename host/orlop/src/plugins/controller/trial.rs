//! A candidate of a controller: its shadow, and its share of a batch of keys.

use super::Linked;
use crate::plugins::comparison::{Candidate, Example, Mode};
use orlop_plugin::PluginError;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Requests that may wait for the shadow.
const QUEUE: usize = 32;

/// What the active revision was asked and said.
struct Decided {
    request: Vec<u8>,
    answer: Vec<u8>,
    took: Duration,
}

/// A candidate that is asked.
pub(super) struct Trial {
    pub(super) candidate: Arc<Candidate>,
    pub(super) linked: Linked,
    shadow: Option<SyncSender<Decided>>,
    waiting: Arc<AtomicUsize>,
}

impl Trial {
    /// Starts the shadow's thread, where it is one; it ends when the trial is dropped.
    pub(super) fn start(candidate: Arc<Candidate>, linked: Linked) -> std::io::Result<Self> {
        let waiting: Arc<AtomicUsize> = Arc::default();
        let shadow = match candidate.mode {
            Mode::Canary { .. } => None,
            Mode::Shadow => {
                let (sender, inbox) = sync_channel(QUEUE);
                let (candidate, linked, waiting) = (candidate.clone(), linked.clone(), waiting.clone());
                std::thread::Builder::new()
                    .name("plugin-shadow".to_owned())
                    .spawn(move || serve(&candidate, &linked, &inbox, &waiting))?;
                Some(sender)
            }
        };
        Ok(Self { candidate, linked, shadow, waiting })
    }

    pub(super) const fn is_shadow(&self) -> bool {
        self.shadow.is_some()
    }

    /// Hands a decision to the shadow; never waits.
    pub(super) fn watch(&self, request: &[u8], answer: &[u8], took: Duration) {
        let Some(shadow) = &self.shadow else { return };
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.candidate.comparison.dropped();
            return;
        }
        let decided = Decided { request: request.to_vec(), answer: answer.to_vec(), took };
        if shadow.try_send(decided).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.candidate.comparison.dropped();
        }
    }
}

fn serve(candidate: &Candidate, linked: &Linked, inbox: &Receiver<Decided>, waiting: &AtomicUsize) {
    let mut seat = linked.seat();
    while let Ok(decided) = inbox.recv() {
        waiting.fetch_sub(1, Ordering::Relaxed);
        let began = Instant::now();
        let Ok(answer) = seat.reconcile(&decided.request) else { continue };
        let comparison = &candidate.comparison;
        comparison.active.add(decided.took);
        comparison.candidate.add(began.elapsed());
        let keys = keys(&decided.request);
        let (before, now) = match (outline(&decided.answer), outline(&answer)) {
            (Ok(before), Ok(now)) if before.len() == now.len() => (before, now),
            (_, now) => {
                let message = match now {
                    Ok(plans) => format!("{} plans for {} keys", plans.len(), keys.len()),
                    Err(error) => error,
                };
                seat.health.failed(Instant::now(), &PluginError::bad_output(message));
                continue;
            }
        };
        for (i, (before, now)) in before.into_iter().zip(now).enumerate() {
            if before == now {
                comparison.same();
            } else {
                comparison.differs(|| Example {
                    key: keys.get(i).cloned().unwrap_or_default(),
                    active: before.to_string(),
                    candidate: now.to_string(),
                });
            }
        }
    }
}

#[derive(Deserialize)]
struct Request<'a> {
    now: i64,
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Item {
    key: Key,
}

#[derive(Deserialize)]
struct Key {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
}

fn key_of(item: &RawValue) -> String {
    match serde_json::from_str::<Item>(item.get()) {
        Ok(Item { key }) if key.namespace.is_empty() => key.name,
        Ok(Item { key }) => format!("{}/{}", key.namespace, key.name),
        Err(_) => String::new(),
    }
}

fn keys(request: &[u8]) -> Vec<String> {
    let items = serde_json::from_slice::<Request<'_>>(request).map(|r| r.items).unwrap_or_default();
    items.into_iter().map(key_of).collect()
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    plans: Vec<&'a RawValue>,
}

/// The plans of an answer, each as it was written.
pub(super) fn plans(answer: &[u8], count: usize) -> Result<Vec<String>, PluginError> {
    let answer: Answer<'_> =
        serde_json::from_slice(answer).map_err(|e| PluginError::bad_output(e.to_string()))?;
    if answer.plans.len() != count {
        return Err(PluginError::bad_output(format!("{} plans for {count} keys", answer.plans.len())));
    }
    Ok(answer.plans.into_iter().map(|p| p.get().to_owned()).collect())
}

/// Plans that do nothing.
pub(super) fn idle(request: &[u8]) -> Result<Vec<u8>, PluginError> {
    let request: Request<'_> =
        serde_json::from_slice(request).map_err(|e| PluginError::bad_output(e.to_string()))?;
    Ok(json!({ "plans": vec![json!({}); request.items.len()] }).to_string().into_bytes())
}

/// What of each plan is compared: what would happen, not what the plugin remembers.
fn outline(answer: &[u8]) -> Result<Vec<Value>, String> {
    let answer: Value = serde_json::from_slice(answer).map_err(|e| e.to_string())?;
    let plans = answer.get("plans").and_then(Value::as_array).ok_or("there are no plans")?;
    let outline = |plan: &Value| {
        let mut kept = json!({ "writes": [] });
        for field in ["writes", "afterMilliseconds", "error"] {
            if let Some(value) = plan.get(field).filter(|v| !v.is_null() && **v != "") {
                kept[field] = value.clone();
            }
        }
        kept
    };
    Ok(plans.iter().map(outline).collect())
}

/// A request in two parts.
pub(super) struct Split {
    /// For the candidate.
    pub(super) candidates: Vec<u8>,
    pub(super) count: usize,
    /// For the active revision; `None` where nothing is left for it.
    pub(super) others: Option<Vec<u8>>,
    pub(super) others_count: usize,
    /// By item: whether it is the candidate's.
    chosen: Vec<bool>,
}

/// Splits a request by the keys of its items; `None` where none is chosen.
pub(super) fn split(request: &[u8], chosen: impl Fn(&str) -> bool) -> Option<Split> {
    let parsed: Request<'_> = serde_json::from_slice(request).ok()?;
    let chosen: Vec<bool> = parsed.items.iter().map(|item| chosen(&key_of(item))).collect();
    let count = chosen.iter().filter(|c| **c).count();
    if count == 0 {
        return None;
    }
    let part = |wanted: bool| {
        let items = parsed.items.iter().zip(&chosen).filter(|(_, c)| **c == wanted);
        let items: Vec<&str> = items.map(|(item, _)| item.get()).collect();
        format!("{{\"now\":{},\"items\":[{}]}}", parsed.now, items.join(",")).into_bytes()
    };
    let others_count = chosen.len() - count;
    let others = (others_count > 0).then(|| part(false));
    Some(Split { candidates: part(true), count, others, others_count, chosen })
}

impl Split {
    /// Puts the plans of both parts into the order of the request.
    pub(super) fn merge(&self, candidates: Vec<String>, others: Vec<String>) -> Vec<u8> {
        let (mut candidates, mut others) = (candidates.into_iter(), others.into_iter());
        let plans: Vec<String> = self
            .chosen
            .iter()
            .map(|chosen| if *chosen { candidates.next() } else { others.next() }.unwrap_or_default())
            .collect();
        format!("{{\"plans\":[{}]}}", plans.join(",")).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &[u8] = br#"{"now":7,"items":[{"key":{"namespace":"a","name":"x"},"inputs":{"pods":[]}},{"key":{"namespace":"","name":"y"}},{"key":{"namespace":"b","name":"z"}}]}"#;

    #[test]
    fn a_request_is_split_by_key_and_its_plans_come_back_in_order() {
        let split = split(REQUEST, |key| key == "y").unwrap();
        let part: Value = serde_json::from_slice(&split.candidates).unwrap();
        assert_eq!(part, json!({ "now": 7, "items": [{ "key": { "namespace": "", "name": "y" } }] }));
        let others: Value = serde_json::from_slice(split.others.as_ref().unwrap()).unwrap();
        assert_eq!(others["items"][0]["inputs"], json!({ "pods": [] }));
        assert_eq!((split.count, split.others_count), (1, 2));
        let plans = |text: &str, n| plans(text.as_bytes(), n).unwrap();
        let merged =
            split.merge(plans(r#"{"plans":[{"n":2}]}"#, 1), plans(r#"{"plans":[{"n":1},{"n":3}]}"#, 2));
        let merged: Value = serde_json::from_slice(&merged).unwrap();
        assert_eq!(merged, json!({ "plans": [{ "n": 1 }, { "n": 2 }, { "n": 3 }] }));
        assert!(super::split(REQUEST, |_| false).is_none());
        assert!(super::split(REQUEST, |_| true).unwrap().others.is_none());
        assert!(super::plans(br#"{"plans":[{}]}"#, 2).is_err());
    }

    #[test]
    fn only_what_would_happen_is_compared() {
        let outline = |plan: Value| outline(json!({ "plans": [plan] }).to_string().as_bytes()).unwrap();
        assert_eq!(outline(json!({})), outline(json!({ "writes": [], "memo": { "seen": 1 }, "error": "" })));
        assert_ne!(outline(json!({})), outline(json!({ "afterMilliseconds": 5 })));
        assert_ne!(outline(json!({})), outline(json!({ "writes": [{ "op": "delete" }] })));
        let idle: Value = serde_json::from_slice(&idle(REQUEST).unwrap()).unwrap();
        assert_eq!(idle, json!({ "plans": [{}, {}, {}] }));
    }
}
