//! The resource table's vocabulary: what the general machine knows of a type.
//!
//! A served type is a row ([`Resource`]) and a [`Strategy`]. The handlers know no type by name;
//! whatever is particular to one is said here. Strategies are pure functions over JSON: what they
//! need beside the object (the time, the user, randomness) comes in a [`Context`].
//!
//! Order of a write: decode and check against the schema (types, unknown fields), schema defaults,
//! [`Strategy::default`], `prepare_*`, mutating admission, defaults again, `validate*`, validating
//! admission, allocation, store.

use crate::user::UserInfo;
use orlop_apimachinery::status::Cause;
use orlop_apimachinery::{Gvk, Gvr};
use serde_json::Value;

mod budgets;
mod claims;
mod daemons;
mod data_maps;
mod devices;
mod endpoints;
mod events;
mod json;
mod leases;
mod limit_ranges;
mod namespaces;
mod nodes;
mod plugin_revisions;
mod plugins;
mod pod_spec;
mod pods;
mod priority_classes;
mod roles;
mod services;
mod stateful;
mod storage;
mod table;
mod volumes;
mod workloads;

pub(crate) use priority_classes::system_classes;

/// What a strategy may know beside the object.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// When the request came.
    pub now: jiff::Timestamp,
    /// Who asks.
    pub user: &'a UserInfo,
    /// Fresh random bits for each request.
    pub random: u64,
}

/// How names of a type are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain, ≤ 253: most types.
    DnsSubdomain,
    /// RFC 1123 label, ≤ 63: namespaces.
    DnsLabel,
    /// RFC 1035 label, ≤ 63: services.
    Dns1035Label,
    /// Anything that can be one segment of a path (no `/`, `%`, not `.` or `..`).
    PathSegment,
}

/// Whether a write gives rights away, which its author must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// It gives none away.
    None,
    /// The object's `rules` and `aggregationRule`.
    Role,
    /// The rules of the role at `roleRef`.
    Binding,
    /// What `spec.grants` give to the code and the configuration beside them.
    Grants,
}

/// When `metadata.generation` grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationRule {
    /// The type keeps none: configmaps, secrets, services' status-only kin.
    None,
    /// 1 at creation, +1 when anything outside `metadata` and `status` changes, and when deletion
    /// begins.
    Spec,
}

/// One `?fieldSelector=` field.
#[derive(Clone, Copy, Debug)]
pub struct SelectableField {
    /// As written by clients, such as `spec.nodeName`.
    pub name: &'static str,
    /// The first path that leads to a non-empty scalar gives the value.
    pub paths: &'static [&'static [&'static str]],
    /// The value where no path leads to one; mostly empty.
    pub default: &'static str,
}

impl SelectableField {
    /// A field read from one path, empty where missing.
    #[must_use]
    pub const fn new(name: &'static str, paths: &'static [&'static [&'static str]]) -> Self {
        Self { name, paths, default: "" }
    }

    /// The same with a value for objects that lack it.
    #[must_use]
    pub const fn or(self, default: &'static str) -> Self {
        Self { default, ..self }
    }
}

/// One column of a server-side Table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// `string`, `integer`, `number`, `boolean`, `date`.
    pub r#type: &'static str,
    /// `name` for the first column, else mostly empty.
    pub format: &'static str,
    /// Shown by `kubectl explain`-like tools.
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// A string column that is always shown.
    #[must_use]
    pub const fn new(name: &'static str, description: &'static str) -> Self {
        Self { name, r#type: "string", format: "", description, priority: 0 }
    }

    /// The same with another type.
    #[must_use]
    pub const fn typed(self, r#type: &'static str) -> Self {
        Self { r#type, ..self }
    }

    /// The same, shown with `-o wide` only.
    #[must_use]
    pub const fn wide(self) -> Self {
        Self { priority: 1, ..self }
    }
}

/// The first column of every table.
pub const NAME_COLUMN: Column = Column {
    name: "Name",
    r#type: "string",
    format: "name",
    description: "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
    priority: 0,
};

/// The age column.
pub const AGE_COLUMN: Column = Column::new(
    "Age",
    "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata",
);

/// Whether a deletion waits for somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// Gone as soon as no finalizer holds it.
    Immediate,
    /// `deletionTimestamp` is set so many seconds ahead; whoever runs the object deletes it with
    /// grace 0 when it is stopped.
    Seconds(i64),
}

/// What is particular to one type. Every method has the meaning of upstream's strategy of the
/// same name; the defaults suit a type with nothing particular.
///
/// All objects are complete JSON objects with `apiVersion`, `kind` and `metadata`.
pub trait Strategy: Send + Sync + 'static {
    /// Which names are valid.
    fn name_rule(&self) -> NameRule {
        NameRule::DnsSubdomain
    }

    /// When `metadata.generation` grows.
    fn generation_rule(&self) -> GenerationRule {
        GenerationRule::None
    }

    /// Defaults that the schema's static ones do not cover. Must be idempotent. Runs on create,
    /// update and patch, and again after mutating admission.
    fn default(&self, _object: &mut Value) {}

    /// Clears what a creator may not set (status) and sets what the server sets.
    fn prepare_for_create(&self, _cx: &Context<'_>, _object: &mut Value) {}

    /// Takes from `old` what this endpoint may not change (the status).
    fn prepare_for_update(&self, _cx: &Context<'_>, new: &mut Value, old: &Value) {
        copy_field(new, old, "status");
    }

    /// Takes from `old` what `/status` may not change: by default all but status and, of the
    /// metadata, what the machine lets through.
    fn prepare_for_status_update(&self, _cx: &Context<'_>, new: &mut Value, old: &Value) {
        keep_only_status(new, old);
    }

    /// Faults of a new object. Metadata is checked by the machine.
    fn validate(&self, _cx: &Context<'_>, _object: &Value) -> Vec<Cause> {
        Vec::new()
    }

    /// Faults of a changed object, immutable fields included. By default those of [`Self::validate`].
    fn validate_update(&self, cx: &Context<'_>, new: &Value, _old: &Value) -> Vec<Cause> {
        self.validate(cx, new)
    }

    /// Faults of a write to `/status`.
    fn validate_status_update(&self, _cx: &Context<'_>, _new: &Value, _old: &Value) -> Vec<Cause> {
        Vec::new()
    }

    /// Sent as `Warning` headers; `old` is `None` for a create.
    fn warnings(&self, _cx: &Context<'_>, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// PUT (and apply) of a missing object creates it. Apply creates in any case.
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// PUT without a resourceVersion overwrites. Where not, it is refused with
    /// `metadata.resourceVersion: Invalid value: 0: must be specified for an update`.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// What a writer must hold himself beyond the right to write.
    fn guard(&self) -> Guard {
        Guard::None
    }

    /// Beyond `metadata.name` and `metadata.namespace`.
    fn selectable_fields(&self) -> &'static [SelectableField] {
        &[]
    }

    /// The name that a selectable field has in the stored form, where it differs. See
    /// [`Resource::storage`].
    fn stored_field<'n>(&self, name: &'n str) -> std::borrow::Cow<'n, str> {
        name.into()
    }

    /// Heads of the Table.
    fn columns(&self) -> &'static [Column] {
        &[NAME_COLUMN, AGE_COLUMN]
    }

    /// One cell per column.
    fn cells(&self, cx: &Context<'_>, object: &Value) -> Vec<Value> {
        vec![name_cell(object), age_cell(cx, object)]
    }

    /// How long a deletion takes; `requested` is `gracePeriodSeconds` (of a first or a shortening
    /// request, never negative).
    fn grace(&self, _object: &Value, _requested: Option<i64>) -> Grace {
        Grace::Immediate
    }

    /// Whether something other than `metadata.finalizers` keeps a deleted object: the
    /// `spec.finalizers` of a namespace.
    fn holds(&self, _object: &Value) -> bool {
        false
    }

    /// Called when `deletionTimestamp` is set on an object that stays for now: a namespace's
    /// phase becomes Terminating.
    fn begin_deletion(&self, _cx: &Context<'_>, _object: &mut Value) {}

    /// DELETE answers with the object instead of a `Status` when it is gone at once.
    fn return_deleted_object(&self) -> bool {
        false
    }

    /// Whether a delete without `propagationPolicy` orphans dependents (true only for
    /// replicationcontrollers of old).
    fn default_orphans(&self) -> bool {
        false
    }

    /// For types served in a version or group other than the stored one: turns a stored object
    /// into this row's form. See [`Resource::storage`].
    #[expect(clippy::wrong_self_convention, reason = "the object converts, not the strategy")]
    fn from_storage(&self, _object: &mut Value) {}

    /// The opposite, before storing.
    fn to_storage(&self, _object: &mut Value) {}

    /// Seconds after which an object vanishes by itself.
    fn ttl(&self) -> Option<u64> {
        None
    }
}

/// A type with nothing particular.
#[derive(Clone, Copy, Debug)]
pub struct Generic;

impl Strategy for Generic {}

/// A type with nothing particular but a spec and a status.
#[derive(Clone, Copy, Debug)]
pub struct GenericWithSpec;

impl Strategy for GenericWithSpec {
    fn generation_rule(&self) -> GenerationRule {
        GenerationRule::Spec
    }

    fn prepare_for_create(&self, _cx: &Context<'_>, object: &mut Value) {
        if let Value::Object(map) = object {
            map.remove("status");
        }
    }
}

/// Where `scale` reads and writes.
#[derive(Clone, Copy, Debug)]
pub struct ScalePaths {
    /// Path of the wished count.
    pub spec_replicas: &'static [&'static str],
    /// Path of the observed count.
    pub status_replicas: &'static [&'static str],
    /// Path of the selector.
    pub selector: &'static [&'static str],
    /// Whether the selector is a plain map of labels (replicationcontrollers) and not a
    /// `LabelSelector`.
    pub selector_is_map: bool,
}

/// How a subresource behaves.
#[derive(Clone, Copy, Debug)]
pub enum SubresourceKind {
    /// The object, of which only the status is written.
    Status,
    /// `autoscaling/v1 Scale`
    Scale(ScalePaths),
    /// Sets `spec.nodeName` of a pod (also served as the namespace's own `bindings`).
    Binding,
    /// Deletes a pod.
    Eviction,
    /// Issues a token for a service account.
    Token,
    /// Writes `spec.finalizers` and, when none is left, removes the object.
    Finalize,
    /// Proxied to the node of the pod.
    NodeStream(NodeStream),
    /// Answered by whoever runs the plugins.
    PluginStream(PluginStream),
}

/// What of a plugin is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PluginStream {
    /// The lines that it logs.
    Log,
    /// Its calls.
    Recording,
}

/// What of a node's agent is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeStream {
    /// `/containerLogs/…`
    Log,
    /// `/exec/…`
    Exec,
    /// `/attach/…`
    Attach,
    /// `/portForward/…`
    PortForward,
    /// Any path of the node's own API (`nodes/<name>/proxy/…`).
    NodeProxy,
}

/// One subresource of a row.
#[derive(Clone, Copy, Debug)]
pub struct Subresource {
    /// Last segment of the path.
    pub name: &'static str,
    /// What it does.
    pub kind: SubresourceKind,
    /// Kind of its body, in discovery.
    pub object_kind: Gvk3,
    /// In discovery and authorization.
    pub verbs: &'static [&'static str],
}

/// Group, version, kind of a subresource's body; empty group and version mean the row's own.
#[derive(Clone, Copy, Debug)]
pub struct Gvk3(pub &'static str, pub &'static str, pub &'static str);

/// Where the objects of a row come from.
#[derive(Clone, Copy, Debug)]
pub enum Backing {
    /// The store, under `/registry/<prefix>/`. Rows with one prefix serve the same objects; the
    /// first of them is the stored form.
    Stored(&'static str),
    /// Nowhere: a create answers at once.
    Review(Review),
    /// Only creates, which act on another object: the namespace's `bindings`.
    PodBinding,
}

/// What a virtual resource answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Review {
    /// Whose token is it?
    Token,
    /// Who am I?
    SelfSubject,
    /// May he?
    SubjectAccess,
    /// May he, in this namespace?
    LocalSubjectAccess,
    /// May I?
    SelfSubjectAccess,
    /// What may I?
    SelfSubjectRules,
}

/// What is reserved beside the object when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Nothing.
    None,
    /// Cluster addresses and node ports of a Service.
    Service,
}

/// One served type: a row of the table.
pub struct Resource {
    /// What the URL names.
    pub gvr: Gvr,
    /// Kind of an object.
    pub kind: &'static str,
    /// `pod`
    pub singular: &'static str,
    /// `po`
    pub short_names: &'static [&'static str],
    /// `all`
    pub categories: &'static [&'static str],
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// In discovery and authorization.
    pub verbs: &'static [&'static str],
    /// Where the objects are.
    pub backing: Backing,
    /// What is particular to the type.
    pub strategy: &'static dyn Strategy,
    /// In discovery order.
    pub subresources: &'static [Subresource],
    /// What is reserved beside the object.
    pub allocation: Allocation,
    /// What is known of a type that is defined at run time.
    pub custom: Option<&'static crate::crd::Custom>,
}

impl Resource {
    /// The kind with its group and version.
    #[must_use]
    pub fn gvk(&self) -> Gvk {
        Gvk { group: self.gvr.group.clone(), version: self.gvr.version.clone(), kind: self.kind.into() }
    }

    /// `PodList`
    #[must_use]
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// A subresource by its name.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Prefix under `/registry/`, for types that are stored.
    #[must_use]
    pub const fn storage(&self) -> Option<&'static str> {
        match self.backing {
            Backing::Stored(prefix) => Some(prefix),
            Backing::Review(_) | Backing::PodBinding => None,
        }
    }
}

impl std::fmt::Debug for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Resource({})", self.gvr)
    }
}

/// Every served row, in discovery order. Whoever looks rows up does it here or by [`find`].
pub fn served() -> impl Iterator<Item = &'static Resource> {
    built_in().chain(crate::crd::table::now().rows.clone())
}

/// The rows that are always served.
pub(crate) fn built_in() -> impl Iterator<Item = &'static Resource> {
    table::BUILT_IN.iter()
}

/// The row of a resource.
#[must_use]
pub fn find(group: &str, version: &str, resource: &str) -> Option<&'static Resource> {
    built_in()
        .find(|r| r.gvr.resource == resource && r.gvr.group == group && r.gvr.version == version)
        .or_else(|| crate::crd::table::find(group, version, resource))
}

/// The value at `path`, if every step is there.
#[must_use]
pub fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |v, key| v.get(key))
}

/// Sets `key` of `new` to what it is in `old`, or removes it.
pub fn copy_field(new: &mut Value, old: &Value, key: &str) {
    let Value::Object(map) = new else { return };
    match old.get(key) {
        Some(value) => {
            map.insert(key.to_owned(), value.clone());
        }
        None => {
            map.remove(key);
        }
    }
}

/// Everything but `status` and `metadata` as in `old`.
pub fn keep_only_status(new: &mut Value, old: &Value) {
    let (Value::Object(new), Value::Object(old)) = (new, old) else { return };
    new.retain(|key, _| matches!(key.as_str(), "status" | "metadata") || old.contains_key(key));
    for (key, value) in old {
        if !matches!(key.as_str(), "status" | "metadata") && new.get(key) != Some(value) {
            new.insert(key.clone(), value.clone());
        }
    }
}

/// The cell under [`NAME_COLUMN`].
#[must_use]
pub fn name_cell(object: &Value) -> Value {
    at(object, &["metadata", "name"]).cloned().unwrap_or_default()
}

/// The cell under [`AGE_COLUMN`].
#[must_use]
pub fn age_cell(cx: &Context<'_>, object: &Value) -> Value {
    Value::String(since(cx, at(object, &["metadata", "creationTimestamp"])))
}

/// How long ago an RFC 3339 timestamp was, as `kubectl` prints it; `<unknown>` where missing.
#[must_use]
pub fn since(cx: &Context<'_>, timestamp: Option<&Value>) -> String {
    let parsed = timestamp.and_then(Value::as_str).and_then(|t| t.parse::<jiff::Timestamp>().ok());
    parsed.map_or_else(|| "<unknown>".to_owned(), |t| human_duration(cx.now.as_second() - t.as_second()))
}

/// `5s`, `3m20s`, `12m`, `5h3m`, `26h`, `4d2h`, `30d`, `2y10d` … Source: `apimachinery/pkg/util/duration`.
#[must_use]
pub fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    if seconds < 120 {
        return format!("{seconds}s");
    }
    let minutes = seconds / 60;
    if minutes < 10 {
        return two(minutes, "m", seconds % 60, "s");
    }
    if minutes < 180 {
        return format!("{minutes}m");
    }
    let hours = seconds / 3600;
    if hours < 8 {
        return two(hours, "h", minutes % 60, "m");
    }
    if hours < 48 {
        return format!("{hours}h");
    }
    let days = hours / 24;
    if hours < 192 {
        return two(days, "d", hours % 24, "h");
    }
    if hours < 24 * 365 * 2 {
        return format!("{days}d");
    }
    let years = hours / 24 / 365;
    if hours < 24 * 365 * 8 { two(years, "y", days % 365, "d") } else { format!("{years}y") }
}

fn two(big: i64, big_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        let cases = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (11_000, "3h3m"),
            (8 * 3600, "8h"),
            (48 * 3600, "2d"),
            (50 * 3600, "2d2h"),
            (8 * 86_400, "8d"),
            (800 * 86_400, "2y70d"),
            (-5, "<invalid>"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }
}
