//! Scheduler plugins of a few lines of WebAssembly text, as a toolchain would emit them.

use anyhow::Result;
use orlop_tests::repository;
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// `init` that is content.
pub(crate) const CONTENT: &str = "(i32.const 32)";

/// `init` that answers with the error `no!!`.
pub(crate) const REFUSES: &str = "
    (i32.store8 (i32.const 96) (i32.const 1))
    (i32.store (i32.const 100) (i32.const 128))
    (i32.store (i32.const 104) (i32.const 4))
    (i32.const 96)";

/// `filter` that lets up to 64 nodes pass.
pub(crate) const PASS: &str = "
    (i64.store (i32.const 8192) (i64.const -1))
    (i32.store (i32.const 64) (i32.const 8192))
    (i32.store (i32.const 68) (i32.const 1))
    (i32.const 64)";

/// `filter` that lets no node pass.
pub(crate) const REJECT: &str = "
    (i64.store (i32.const 8192) (i64.const 0))
    (i32.store (i32.const 64) (i32.const 8192))
    (i32.store (i32.const 68) (i32.const 1))
    (i32.const 64)";

/// `filter` that answers with an empty list.
pub(crate) const SHORT: &str = "
    (i32.store (i32.const 64) (i32.const 8192))
    (i32.store (i32.const 68) (i32.const 0))
    (i32.const 64)";

/// A body that traps.
pub(crate) const TRAP: &str = "unreachable";

/// A body that never ends.
pub(crate) const SPIN: &str = "(loop $forever (br $forever)) unreachable";

/// A body that takes memory as long as it gets some.
pub(crate) const GREED: &str = "(loop $more (drop (memory.grow (i32.const 16))) (br $more)) unreachable";

/// A body that calls itself without end.
pub(crate) const RECURSE: &str = "(drop (call $recurse (i32.const 0))) unreachable";

/// `filter` that answers with a list that lies beyond the memory.
pub(crate) const BEYOND: &str = "
    (i32.store (i32.const 64) (i32.const -64))
    (i32.store (i32.const 68) (i32.const 1))
    (i32.const 64)";

/// A plugin `Guard`.
pub(crate) struct Guard {
    /// Its world.
    pub(crate) world: &'static str,
    /// Text of imports.
    pub(crate) imports: &'static str,
    /// Body of `init`.
    pub(crate) init: &'static str,
    /// Body of `filter`.
    pub(crate) filter: &'static str,
    /// Makes it another version that does the same.
    pub(crate) version: u32,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            world: "orlop:scheduler/scheduler@1.0.0",
            imports: "",
            init: CONTENT,
            filter: PASS,
            version: 1,
        }
    }
}

impl Guard {
    /// The module.
    pub(crate) fn build(&self) -> Result<Vec<u8>> {
        let Self { world, imports, init, filter, version } = self;
        let text = format!(
            r#"(module
                {imports}
                (memory (export "memory") 2)
                (data (i32.const 128) "no!!")
                (data (i32.const 144) "version {version}")
                (global $next (mut i32) (i32.const 16384))
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                    (local $at i32)
                    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                    (global.set $next (i32.add (local.get $at) (local.get 3)))
                    (if (i32.gt_u (global.get $next) (i32.const 98304))
                        (then (global.set $next (i32.const 16384))))
                    (local.get $at))
                (func $recurse (param i32) (result i32)
                    (i32.add (i32.const 1) (call $recurse (i32.add (local.get 0) (i32.const 1)))))
                (func (export "orlop:types/lifecycle@1.0.0#init") (param i32 i32) (result i32) {init})
                (func (export "orlop:types/lifecycle@1.0.0#self-test") (result i32) (i32.const 32))
                (func (export "orlop:scheduler/plugin@1.0.0#sync")
                    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                    (i32.const 256))
                (func (export "orlop:scheduler/plugin@1.0.0#prepare") (param i32 i32 i32) (result i32)
                    (i32.const 512))
                (func (export "orlop:scheduler/plugin@1.0.0#release") (param i32))
                (func (export "orlop:scheduler/plugin@1.0.0#filter") (param i32 i32 i32) (result i32) {filter})
                (func (export "orlop:scheduler/plugin@1.0.0#score") (param i32 i32 i32) (result i32) unreachable)
                (func (export "orlop:scheduler/plugin@1.0.0#score-raw") (param i32 i32 i32) (result i32) unreachable)
                (func (export "orlop:scheduler/plugin@1.0.0#normalize")
                    (param i32 i32 i32 i32 i32) (result i32) unreachable)
                (func (export "orlop:scheduler/plugin@1.0.0#explain") (param i32 i32 i32) (result i32)
                    (i32.store (i32.const 1032) (i32.const 2048))
                    (i32.store (i32.const 1036) (i32.add (local.get 2) (i32.const 1)))
                    (i32.const 1024))
            )"#
        );
        let mut module = wat::parse_str(&text)?;
        embed(&mut module, "wit/scheduler-1", "scheduler")?;
        let manifest = format!(
            r#"{{"manifestVersion": 1, "name": "Guard", "kind": "scheduler", "world": "{world}",
                "limits": {{"memoryBytes": 16777216}},
                "scheduler": {{"hooks": ["filter"], "columns": ["node.labels"], "podFields": ["metadata.labels"]}}}}"#
        );
        section(&mut module, "orlop:manifest", manifest.as_bytes());
        Ok(module)
    }
}

/// A plugin `Writer` of the second major: before a pod is bound it asks for a ConfigMap.
/// `permissions` are those of its manifest.
pub(crate) fn writer(permissions: &str) -> Result<Vec<u8>> {
    let write = r#"{"op": "create", "apiVersion": "v1", "resource": "configmaps", "namespace": "default",
        "body": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "placed-"}}}"#;
    let numbers = |numbers: &[usize]| {
        let bytes = numbers.iter().flat_map(|n| u32::try_from(*n).unwrap_or(0).to_le_bytes());
        bytes.map(|b| format!("\\{b:02x}")).collect::<String>()
    };
    let placement = "i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32";
    let mut functions = String::new();
    for (name, parameters, result, body) in [
        (
            "plugin@2.0.0#sync",
            "i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32",
            "(result i32)",
            "(i32.const 32)",
        ),
        ("plugin@2.0.0#prepare", "i32 i32 i32", "(result i32)", "(i32.const 32)"),
        ("plugin@2.0.0#release", "i32", "", ""),
        ("plugin@2.0.0#filter", "i32 i32 i32", "(result i32)", "unreachable"),
        ("plugin@2.0.0#score", "i32 i32 i32", "(result i32)", "unreachable"),
        ("plugin@2.0.0#score-raw", "i32 i32 i32", "(result i32)", "unreachable"),
        ("plugin@2.0.0#normalize", "i32 i32 i32 i32 i32", "(result i32)", "unreachable"),
        ("plugin@2.0.0#explain", "i32 i32 i32", "(result i32)", "unreachable"),
        ("placing@2.0.0#reserve", placement, "(result i32)", "unreachable"),
        ("placing@2.0.0#unreserve", placement, "(result i32)", "unreachable"),
        ("placing@2.0.0#permit", placement, "(result i32)", "unreachable"),
        ("placing@2.0.0#pre-bind", placement, "(result i32)", "(i32.const 64)"),
        ("placing@2.0.0#bind", placement, "(result i32)", "unreachable"),
        ("placing@2.0.0#post-bind", placement, "", "unreachable"),
    ] {
        functions.push_str(&format!(
            "(func (export \"orlop:scheduler/{name}\") (param {parameters}) {result} {body})\n"
        ));
    }
    let text = format!(
        r#"(module
            (memory (export "memory") 2)
            (data (i32.const 64) "{answer}")
            (data (i32.const 512) "{list}")
            (data (i32.const 1024) "{bytes}")
            (global $next (mut i32) (i32.const 16384))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                (global.set $next (i32.add (local.get $at) (local.get 3)))
                (if (i32.gt_u (global.get $next) (i32.const 98304)) (then (global.set $next (i32.const 16384))))
                (local.get $at))
            (func (export "orlop:types/lifecycle@1.0.0#init") (param i32 i32) (result i32) (i32.const 32))
            (func (export "orlop:types/lifecycle@1.0.0#self-test") (result i32) (i32.const 32))
            {functions})"#,
        answer = numbers(&[0, 0, 0, 0, 512, 1]),
        list = numbers(&[1024, write.len()]),
        bytes = write.bytes().map(|b| format!("\\{b:02x}")).collect::<String>(),
    );
    let mut module = wat::parse_str(&text)?;
    let mut resolve = Resolve::default();
    resolve.push_path(repository().join("wit/scheduler"))?;
    let world = "package test:fixture;\nworld fixture { include orlop:scheduler/scheduler@2.0.0; \
                 export orlop:scheduler/placing@2.0.0; }";
    let package = resolve.push_str("fixture.wit", world)?;
    let id = resolve.select_world(&[package], Some("fixture"))?;
    embed_component_metadata(&mut module, &resolve, id, StringEncoding::UTF8, false)?;
    let manifest = format!(
        r#"{{"manifestVersion": 1, "name": "Writer", "kind": "scheduler",
            "world": "orlop:scheduler/scheduler-full@2.0.0", "limits": {{"memoryBytes": 16777216}},
            "permissions": {permissions}, "scheduler": {{"hooks": ["pre-bind"]}}}}"#
    );
    section(&mut module, "orlop:manifest", manifest.as_bytes());
    Ok(module)
}

/// Says in a section what the module's functions are, by a world of a folder.
fn embed(module: &mut Vec<u8>, folder: &str, world: &str) -> Result<()> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(repository().join(folder))?;
    let id = resolve.select_world(&[package], Some(world))?;
    embed_component_metadata(module, &resolve, id, StringEncoding::UTF8, false)
}

/// Appends a custom section.
fn section(module: &mut Vec<u8>, name: &str, data: &[u8]) {
    let mut body = Vec::new();
    leb128(&mut body, name.len());
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(data);
    module.push(0);
    leb128(module, body.len());
    module.extend_from_slice(&body);
}

fn leb128(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(0x80 | u8::try_from(value & 0x7f).unwrap_or(0));
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}
