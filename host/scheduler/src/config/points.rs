//! Which plugins a profile has at which extension point, in which order, and with which weight.
//!
//! As upstream resolves it: at each point come first the plugins of `multiPoint` that the point names
//! itself, in its own order; then the others of `multiPoint`; then those that only the point names.

use super::{ConfigError, DEFAULT_PLUGINS, FilePlugin, FilePlugins, FileSet, invalid};
use crate::framework::Hooks;
use parking_lot::Mutex;
use std::collections::BTreeSet;

/// Default plugins that were warned of because they do not exist.
static MISSING: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

const MAX_WEIGHT: i64 = 1_000_000;

/// The plugins of a profile.
#[derive(Debug)]
pub(super) struct Points {
    /// Name, hooks, weight; in the order in which they filter.
    pub(super) plugins: Vec<(String, Hooks, i64)>,
    /// The order at other points, where it is another one.
    pub(super) orders: Vec<(Hooks, Vec<String>)>,
}

pub(super) fn resolve(sets: &FilePlugins, path: &str, known: &[String]) -> Result<Points, ConfigError> {
    for (point, set) in named(sets) {
        check(point, set, path, known)?;
    }
    let multi: Vec<FilePlugin> =
        multi_point(&sets.multi_point).into_iter().filter(|plugin| exists(&plugin.name, known)).collect();
    let at = |set| at_point(set, &multi, known);
    // What takes part in a filter before it filters belongs to it; so does what scores.
    let filters = with_first(at(&sets.filter), &sets.pre_filter, &sets.filter, known);
    let scores = at(&sets.score);
    let points = [
        (Hooks::SCORE, scores),
        (Hooks::PRE_ENQUEUE, at(&sets.pre_enqueue)),
        (Hooks::QUEUE_SORT, at(&sets.queue_sort)),
        (Hooks::POST_FILTER, at(&sets.post_filter)),
        (Hooks::RESERVE, at(&sets.reserve)),
        (Hooks::PERMIT, at(&sets.permit)),
        (Hooks::PRE_BIND, at(&sets.pre_bind)),
        (Hooks::BIND, at(&sets.bind)),
        (Hooks::POST_BIND, at(&sets.post_bind)),
    ];
    let mut order = filters.clone();
    let others = multi.iter().map(|p| &p.name).chain(points.iter().flat_map(|(_, names)| names));
    for name in others {
        if !order.contains(name) {
            order.push(name.clone());
        }
    }
    let weight = |name: &str| {
        let own = sets.score.enabled.iter().find(|p| p.name == name);
        own.or_else(|| multi.iter().find(|p| p.name == name)).map_or(1, |p| p.weight.max(1))
    };
    let mut plugins = Vec::new();
    for name in &order {
        let mut hooks = Hooks::default();
        if filters.contains(name) {
            hooks = hooks.or(Hooks::FILTER).or(Hooks::OVERLAY);
        }
        for (hook, _) in points.iter().filter(|(_, names)| names.contains(name)) {
            hooks = hooks.or(*hook);
        }
        if hooks != Hooks::default() {
            plugins.push((name.clone(), hooks, weight(name)));
        }
    }
    let orders = points.into_iter().filter(|(_, names)| {
        let mut rest = order.iter();
        !names.iter().all(|name| rest.any(|other| other == name))
    });
    Ok(Points { plugins, orders: orders.collect() })
}

fn named(sets: &FilePlugins) -> [(&'static str, &FileSet); 13] {
    [
        ("multiPoint", &sets.multi_point),
        ("preEnqueue", &sets.pre_enqueue),
        ("queueSort", &sets.queue_sort),
        ("preFilter", &sets.pre_filter),
        ("filter", &sets.filter),
        ("postFilter", &sets.post_filter),
        ("preScore", &sets.pre_score),
        ("score", &sets.score),
        ("reserve", &sets.reserve),
        ("permit", &sets.permit),
        ("preBind", &sets.pre_bind),
        ("bind", &sets.bind),
        ("postBind", &sets.post_bind),
    ]
}

fn check(point: &str, set: &FileSet, path: &str, known: &[String]) -> Result<(), ConfigError> {
    let mut seen = BTreeSet::new();
    for (i, plugin) in set.enabled.iter().enumerate() {
        let at = || format!("{path}.plugins.{point}.enabled[{i}]");
        if !exists(&plugin.name, known) && !DEFAULT_PLUGINS.iter().any(|(name, _)| *name == plugin.name) {
            return Err(invalid(at(), format!("plugin {:?} does not exist", plugin.name)));
        }
        if !(0..=MAX_WEIGHT).contains(&plugin.weight) {
            return Err(invalid(at(), format!("weight must be between 0 and {MAX_WEIGHT}")));
        }
        if !seen.insert(&plugin.name) {
            return Err(invalid(at(), format!("plugin {:?} is already registered", plugin.name)));
        }
    }
    if point == "queueSort" && set.enabled.len() > 1 {
        let message = "only one queue sort plugin can be enabled";
        return Err(invalid(format!("{path}.plugins.queueSort.enabled"), message));
    }
    Ok(())
}

/// Whether there is such a plugin; a default one that there is not is warned of once.
fn exists(name: &str, known: &[String]) -> bool {
    let exists = known.iter().any(|k| k == name);
    if !exists
        && DEFAULT_PLUGINS.iter().any(|(default, _)| *default == name)
        && MISSING.lock().insert(name.to_owned())
    {
        tracing::warn!(plugin = name, "default scheduler plugin does not exist, profiles go without it");
    }
    exists
}

/// The default plugins as the profile changes them, and what it adds.
fn multi_point(set: &FileSet) -> Vec<FilePlugin> {
    let own = |name: &str| set.enabled.iter().find(|p| p.name == name).cloned();
    let mut plugins: Vec<FilePlugin> = Vec::new();
    for (name, weight) in DEFAULT_PLUGINS.iter().filter(|(name, _)| !set.disables(name)) {
        let default = || FilePlugin { name: (*name).to_owned(), weight: *weight };
        plugins.push(own(name).unwrap_or_else(default));
    }
    for plugin in &set.enabled {
        if !plugins.iter().any(|p| p.name == plugin.name) {
            plugins.push(plugin.clone());
        }
    }
    plugins
}

/// The plugins at a point, in order.
fn at_point(set: &FileSet, multi: &[FilePlugin], known: &[String]) -> Vec<String> {
    let own = || set.enabled.iter().map(|p| p.name.clone()).filter(|name| exists(name, known));
    if set.disables("*") {
        return own().collect();
    }
    let wide = |name: &String| {
        multi.iter().any(|p| p.name == *name) && !set.disabled.iter().any(|p| p.name == *name)
    };
    let replaced = own().filter(|name| wide(name));
    let rest = multi.iter().map(|p| p.name.clone()).filter(|name| wide(name) && !set.enables(name));
    replaced.chain(rest).chain(own().filter(|name| !wide(name))).collect()
}

/// With the plugins that `set` enables by name, unless `off` disables them.
fn with_first(mut names: Vec<String>, set: &FileSet, off: &FileSet, known: &[String]) -> Vec<String> {
    for plugin in set.enabled.iter().filter(|p| exists(&p.name, known) && !off.disables(&p.name)) {
        if !names.contains(&plugin.name) {
            names.push(plugin.name.clone());
        }
    }
    names
}
