//! Custom sections of a module: the manifest, and the types of its world.

use orlop_plugin::manifest::SECTION;
use std::path::Path;
use wasmparser::{Parser, Payload};
use wit_component::StringEncoding;
use wit_parser::Resolve;

/// Why a module cannot be completed.
#[derive(Debug, thiserror::Error)]
pub enum SectionError {
    /// Not WebAssembly.
    #[error("the module is no WebAssembly: {message}")]
    Malformed {
        /// What the decoder says.
        message: String,
    },
    /// The types of its world could not be put in.
    #[error("the world `{world}` of {wit} cannot be put into the module: {message}")]
    World {
        /// As in the manifest.
        world: String,
        /// Folder.
        wit: String,
        /// What is wrong.
        message: String,
    },
}

fn sections(wasm: &[u8]) -> Result<Vec<(String, Vec<u8>)>, SectionError> {
    let mut out = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(|e| SectionError::Malformed { message: e.to_string() })?;
        if let Payload::CustomSection(section) = payload {
            out.push((section.name().to_owned(), section.data().to_vec()));
        }
    }
    Ok(out)
}

/// The manifest that a module carries, if it carries one.
///
/// # Errors
/// Where it is no WebAssembly.
pub fn manifest(wasm: &[u8]) -> Result<Option<Vec<u8>>, SectionError> {
    Ok(sections(wasm)?.into_iter().find(|(name, _)| name == SECTION).map(|(_, data)| data))
}

/// Puts the manifest into a module or component that has none.
#[must_use]
pub fn with_manifest(mut wasm: Vec<u8>, manifest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    leb128(&mut body, SECTION.len());
    body.extend_from_slice(SECTION.as_bytes());
    body.extend_from_slice(manifest);
    wasm.push(0);
    leb128(&mut wasm, body.len());
    wasm.extend_from_slice(&body);
    wasm
}

fn leb128(to: &mut Vec<u8>, mut value: usize) {
    loop {
        let byte = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            to.push(byte);
            return;
        }
        to.push(byte | 0x80);
    }
}

/// Puts the types of `world` into a core module that lacks them, so that the host can make a component of it.
/// Components, and modules that have them, stay as they are.
///
/// # Errors
/// Where the folder of WIT files has no such world.
pub fn with_world(mut wasm: Vec<u8>, wit: &Path, world: &str) -> Result<Vec<u8>, SectionError> {
    if Parser::is_component(&wasm)
        || sections(&wasm)?.iter().any(|(name, _)| name.starts_with("component-type"))
    {
        return Ok(wasm);
    }
    let failed = |message: String| SectionError::World {
        world: world.to_owned(),
        wit: wit.display().to_string(),
        message,
    };
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit).map_err(|e| failed(format!("{e:#}")))?;
    let world = resolve.select_world(&[package], Some(world)).map_err(|e| failed(format!("{e:#}")))?;
    wit_component::embed_component_metadata(&mut wasm, &resolve, world, StringEncoding::UTF8, false)
        .map_err(|e| failed(format!("{e:#}")))?;
    Ok(wasm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_put_in_and_found() {
        let module = wat::parse_str("(module (func (export \"f\")))").unwrap();
        assert_eq!(manifest(&module).unwrap(), None);
        for length in [3, 127, 128, 300, 20_000] {
            let text = vec![b'x'; length];
            let complete = with_manifest(module.clone(), &text);
            assert_eq!(manifest(&complete).unwrap(), Some(text));
        }
        assert!(manifest(b"no wasm").is_err());
    }

    #[test]
    fn a_world_is_put_in_once() {
        let module = wat::parse_str("(module)").unwrap();
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit/controller");
        let world = "orlop:controller/controller@1.0.0";
        let complete = with_world(module.clone(), &wit, world).unwrap();
        assert!(complete.len() > module.len());
        assert_eq!(with_world(complete.clone(), &wit, world).unwrap(), complete);
        assert!(with_world(module, &wit, "orlop:controller/other@1.0.0").is_err());
    }
}
