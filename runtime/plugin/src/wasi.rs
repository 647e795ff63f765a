//! WASI for toolchains that insist on it: all of its imports are there, and next to nothing behind them.
//!
//! No files, no network, no environment, no arguments. What is written to stdout and stderr goes to the plugin's log.
//! Randomness is a sequence that the plugin's digest determines. Clocks stand still, unless the manifest
//! declares `"wasi": {"time": true}`. To exit is to trap. Nothing here waits, whatever a plugin asks for.
//!
//! The few functions that matter are answered by name. All others are answered by their type: with an error
//! where they can return one, else with nothing, 0 or an empty list. So every 0.2.x and every
//! interface is covered without a copy of its definition; `docs/rationale/wasi.md` says why.

use crate::compile::Digest;
use crate::instance::HostState;
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::time::{Instant, SystemTime};
use wasmtime::StoreContextMut;
use wasmtime::component::types::{ComponentItem, Type};
use wasmtime::component::{Component, Linker, Resource, ResourceAny, ResourceType, Val};

/// Modules of this name are given the adapter from the WASI before components.
pub(crate) const PREVIEW_1: &str = "wasi_snapshot_preview1";

/// 2000-01-01T00:00:00Z, in seconds: when it is for a plugin that has no clock.
const STANDSTILL: u64 = 946_684_800;
/// Most random bytes of one call.
const MAX_RANDOM: u64 = 64 << 10;
/// What a stream says it can take.
const STREAM_ROOM: u64 = 64 << 10;
/// Longest line of output.
const MAX_LINE: usize = 4096;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;

/// Stands for every resource of WASI. Only streams of output are told apart, by their number.
struct Handle;

/// Why a call of WASI ends the instance.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The plugin exits.
    Exit(String),
    /// It wants what there is not.
    Denied(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(message) | Self::Denied(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Stop {}

/// What an instance has of WASI.
pub(crate) struct Wasi {
    seed: Digest,
    drawn: u64,
    begun: Option<Instant>,
    lines: [Vec<u8>; 2],
}

impl Wasi {
    pub(crate) fn new(seed: Digest, time: bool) -> Self {
        Self { seed, drawn: 0, begun: time.then(Instant::now), lines: [Vec::new(), Vec::new()] }
    }

    /// The next numbers of the sequence: SHA-256 over the digest and a counter.
    fn draw(&mut self) -> [u8; 32] {
        self.drawn += 1;
        let hash = Sha256::new().chain_update(self.seed.hex()).chain_update(self.drawn.to_le_bytes());
        hash.finalize().into()
    }

    fn draw_u64(&mut self) -> u64 {
        self.draw().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn draw_bytes(&mut self, count: u64) -> Result<Val, Stop> {
        if count > MAX_RANDOM {
            return Err(Stop::Denied(format!("{count} random bytes at once, more than {MAX_RANDOM}")));
        }
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < count {
            bytes.extend(self.draw().map(Val::U8));
        }
        bytes.truncate(usize::try_from(count).unwrap_or_default());
        Ok(Val::List(bytes))
    }

    fn wall_clock(&self) -> Val {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (seconds, nanoseconds) = match self.begun {
            Some(_) => (since.as_secs(), since.subsec_nanos()),
            None => (STANDSTILL, 0),
        };
        record(seconds, nanoseconds)
    }

    fn monotonic_clock(&self) -> u64 {
        let passed = self.begun.map(|begun| begun.elapsed().as_nanos()).unwrap_or_default();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }

    /// Takes output; returns the lines that are whole.
    fn write(&mut self, stream: u32, bytes: impl Iterator<Item = u8>) -> Vec<String> {
        let [out, err] = &mut self.lines;
        let line = if stream == STDERR { err } else { out };
        let mut whole = Vec::new();
        for byte in bytes {
            if byte != b'\n' {
                line.push(byte);
            }
            if byte == b'\n' || line.len() >= MAX_LINE {
                whole.push(text(line));
            }
        }
        whole
    }

    /// What was written since the last whole lines, by stream.
    fn rest(&mut self) -> [(u32, String); 2] {
        let [out, err] = &mut self.lines;
        [(STDOUT, text(out)), (STDERR, text(err))]
    }
}

fn text(line: &mut Vec<u8>) -> String {
    String::from_utf8_lossy(&std::mem::take(line)).into_owned()
}

fn record(seconds: u64, nanoseconds: u32) -> Val {
    Val::Record(vec![
        ("seconds".to_owned(), Val::U64(seconds)),
        ("nanoseconds".to_owned(), Val::U32(nanoseconds)),
    ])
}

fn said(state: &mut HostState, stream: u32, line: &str) {
    if line.trim().is_empty() {
        return;
    }
    // Levels of `orlop:types/log`: 1 is a warning, 2 for information.
    state.log(if stream == STDERR { 1 } else { 2 }, line);
    if stream == STDERR {
        state.last_words(line);
    }
}

/// Logs what was written without an end of line.
pub(crate) fn flush(state: &mut HostState) {
    let Some(rest) = state.wasi.as_deref_mut().map(Wasi::rest) else { return };
    for (stream, line) in rest {
        said(state, stream, &line);
    }
}

/// Whether an import is one of those that [`define`] defines.
pub(crate) fn is_offered(import: &str) -> bool {
    import.starts_with("wasi:") && import.split_once('@').is_some_and(|(_, v)| v.starts_with("0.2."))
}

/// Defines every import of WASI that the component has. Tells whether there is one.
pub(crate) fn define(linker: &mut Linker<HostState>, component: &Component) -> wasmtime::Result<bool> {
    let engine = linker.engine().clone();
    let mut any = false;
    for (import, item) in component.component_type().imports(&engine) {
        let ComponentItem::ComponentInstance(interface) = item.ty else { continue };
        if !is_offered(import) {
            continue;
        }
        any = true;
        let mut instance = linker.instance(import)?;
        for (name, export) in interface.exports(&engine) {
            match export.ty {
                ComponentItem::Resource(_) => {
                    instance.resource(name, ResourceType::host::<Handle>(), |_, _| Ok(()))?;
                }
                ComponentItem::ComponentFunc(function) => {
                    let path = import.split('@').next().unwrap_or_default().to_owned();
                    let (result, name) = (function.results().next(), name.to_owned());
                    instance.func_new(&name.clone(), move |store, _, arguments, results| {
                        let answer = call(store, (&path, &name), arguments, result.as_ref())?;
                        if let (Some(answer), Some(slot)) = (answer, results.first_mut()) {
                            *slot = answer;
                        }
                        Ok(())
                    })?;
                }
                _ => {}
            }
        }
    }
    Ok(any)
}

fn call(
    mut store: StoreContextMut<'_, HostState>,
    function: (&str, &str),
    arguments: &[Val],
    result: Option<&Type>,
) -> wasmtime::Result<Option<Val>> {
    let mut handles = Vec::new();
    for argument in arguments {
        take(&mut store, argument, &mut handles)?;
    }
    let answer = known(store.data_mut(), function, arguments, &handles).map_err(wasmtime::Error::new)?;
    match (answer, result) {
        (Answer::Nothing, _) | (Answer::Unknown, None) => Ok(None),
        (Answer::Value(value), _) => Ok(Some(value)),
        (Answer::Handle(number), _) => handle(&mut store, number).map(Some),
        (Answer::Unknown, Some(Type::Own(_))) => handle(&mut store, 0).map(Some),
        (Answer::Unknown, Some(result)) => {
            let (path, name) = function;
            let denied = || Stop::Denied(format!("a plugin may not call {path}#{name}"));
            by_type(result).map(Some).ok_or_else(|| wasmtime::Error::new(denied()))
        }
    }
}

fn handle(store: &mut StoreContextMut<'_, HostState>, number: u32) -> wasmtime::Result<Val> {
    ResourceAny::try_from_resource(Resource::<Handle>::new_own(number), store).map(Val::Resource)
}

/// Takes over the resources in an argument, as the engine wants it, and gathers their numbers.
fn take(
    store: &mut StoreContextMut<'_, HostState>,
    argument: &Val,
    handles: &mut Vec<u32>,
) -> wasmtime::Result<()> {
    match argument {
        Val::Resource(any) => {
            handles.push(Resource::<Handle>::try_from_resource_any(*any, store)?.rep());
            Ok(())
        }
        Val::List(items) | Val::Tuple(items) => items.iter().try_for_each(|i| take(store, i, handles)),
        Val::Record(fields) => fields.iter().try_for_each(|(_, v)| take(store, v, handles)),
        Val::Option(Some(inner)) | Val::Variant(_, Some(inner)) => take(store, inner, handles),
        Val::Result(Ok(Some(inner)) | Err(Some(inner))) => take(store, inner, handles),
        _ => Ok(()),
    }
}

enum Answer {
    Nothing,
    Value(Val),
    Handle(u32),
    Unknown,
}

/// The functions that matter.
fn known(
    state: &mut HostState,
    (interface, name): (&str, &str),
    arguments: &[Val],
    handles: &[u32],
) -> Result<Answer, Stop> {
    let Some(wasi) = state.wasi.as_mut() else { return Ok(Answer::Unknown) };
    let value = match (interface, name) {
        ("wasi:cli/stdout", "get-stdout") => return Ok(Answer::Handle(STDOUT)),
        ("wasi:cli/stderr", "get-stderr") => return Ok(Answer::Handle(STDERR)),
        ("wasi:cli/exit", _) => {
            let well = !matches!(arguments.first(), Some(Val::Result(Err(_)) | Val::U8(1..)));
            return Err(Stop::Exit(format!("it exits {}", if well { "well" } else { "with a failure" })));
        }
        ("wasi:clocks/wall-clock", "now") => wasi.wall_clock(),
        ("wasi:clocks/wall-clock", "resolution") => record(0, 1_000_000),
        ("wasi:clocks/monotonic-clock", "now") => Val::U64(wasi.monotonic_clock()),
        ("wasi:clocks/monotonic-clock", "resolution") => Val::U64(1_000_000),
        ("wasi:random/random", "get-random-bytes")
        | ("wasi:random/insecure", "get-insecure-random-bytes") => match arguments.first() {
            Some(Val::U64(count)) => wasi.draw_bytes(*count)?,
            _ => return Ok(Answer::Unknown),
        },
        ("wasi:random/random", _) | ("wasi:random/insecure", _) => Val::U64(wasi.draw_u64()),
        ("wasi:random/insecure-seed", _) => {
            Val::Tuple(vec![Val::U64(wasi.draw_u64()), Val::U64(wasi.draw_u64())])
        }
        ("wasi:io/poll", "poll") => Val::List((0_u32..).take(handles.len()).map(Val::U32).collect()),
        ("wasi:io/poll", "[method]pollable.ready") => Val::Bool(true),
        ("wasi:io/poll", "[method]pollable.block") => return Ok(Answer::Nothing),
        ("wasi:io/streams", "[method]output-stream.check-write") => {
            Val::Result(Ok(Some(Box::new(Val::U64(STREAM_ROOM)))))
        }
        (
            "wasi:io/streams",
            "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush",
        ) => {
            let stream = handles.first().copied().unwrap_or(STDOUT);
            let Some(Val::List(bytes)) = arguments.get(1) else { return Ok(Answer::Unknown) };
            let bytes = bytes.iter().filter_map(|b| if let Val::U8(byte) = b { Some(*byte) } else { None });
            for line in wasi.write(stream, bytes) {
                said(state, stream, &line);
            }
            Val::Result(Ok(None))
        }
        ("wasi:io/streams", "[method]output-stream.flush" | "[method]output-stream.blocking-flush") => {
            Val::Result(Ok(None))
        }
        _ => return Ok(Answer::Unknown),
    };
    Ok(Answer::Value(value))
}

/// Cases of errors that say best that something is not there, the best first.
const ERRORS: [&str; 7] =
    ["access-denied", "access", "not-permitted", "not-supported", "unsupported", "closed", "no-entry"];

/// The answer of a function that nobody should need: the failure of its type, else nothing.
fn by_type(result: &Type) -> Option<Val> {
    Some(match result {
        Type::Result(result) => {
            let error = match result.err() {
                None => None,
                Some(Type::Enum(cases)) => {
                    let name = ERRORS.iter().find(|e| cases.names().any(|case| case == **e))?;
                    Some(Box::new(Val::Enum((*name).to_owned())))
                }
                Some(Type::Variant(cases)) => {
                    let plain = |e: &&&str| cases.cases().any(|c| c.name == **e && c.ty.is_none());
                    let name = ERRORS.iter().find(|e| plain(e))?;
                    Some(Box::new(Val::Variant((*name).to_owned(), None)))
                }
                Some(_) => return None,
            };
            Val::Result(Err(error))
        }
        Type::List(_) => Val::List(Vec::new()),
        Type::Option(_) => Val::Option(None),
        Type::Bool => Val::Bool(false),
        Type::String => Val::String(String::new()),
        Type::U8 => Val::U8(0),
        Type::U16 => Val::U16(0),
        Type::U32 => Val::U32(0),
        Type::U64 => Val::U64(0),
        _ => return None,
    })
}
