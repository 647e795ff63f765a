//! Images of a node, reached by its command line: over a socket of the server where one runs, else
//! on the folders themselves.
//!
//! One request and one answer per connection, each a line of JSON. The socket is root's alone.

use anyhow::{Context, Result, anyhow, bail};
use orlop_container::cri::{ImageService, ImageSpec};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A request is a path or a reference; nothing longer is read.
const MAX_REQUEST: u64 = 64 * 1024;

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Request {
    /// Imports an archive; absolute path.
    Import(PathBuf),
    /// Pulls an image.
    Pull(String),
    /// Lists all.
    List,
    /// Removes an image and its tags.
    Remove(String),
}

/// One image, as listed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListedImage {
    pub(crate) id: String,
    pub(crate) references: Vec<String>,
    /// Bytes.
    pub(crate) size: u64,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Answer {
    /// References that are there now.
    Done(Vec<String>),
    /// All images.
    Images(Vec<ListedImage>),
    /// Why not.
    Failed(String),
}

/// Does what is asked on the service itself.
pub(crate) async fn perform(images: &dyn ImageService, request: Request) -> Answer {
    let done = match request {
        Request::Import(path) => images.import_image(path).await,
        Request::Pull(reference) => {
            let spec = ImageSpec { image: reference.clone(), ..ImageSpec::default() };
            images.pull_image(&spec, None).await.map(|_| vec![reference])
        }
        Request::Remove(reference) => {
            let spec = ImageSpec { image: reference.clone(), ..ImageSpec::default() };
            images.remove_image(&spec).await.map(|()| vec![reference])
        }
        Request::List => {
            return match images.list_images(None).await {
                Ok(all) => Answer::Images(
                    all.into_iter()
                        .map(|i| ListedImage {
                            id: i.id,
                            references: i.repo_tags.into_iter().chain(i.repo_digests).collect(),
                            size: i.size,
                        })
                        .collect(),
                ),
                Err(error) => Answer::Failed(crate::error_chain::Chain(&error).to_string()),
            };
        }
    };
    match done {
        Ok(references) => Answer::Done(references),
        Err(error) => Answer::Failed(crate::error_chain::Chain(&error).to_string()),
    }
}

/// Serves requests on `socket` until `cancel`.
///
/// # Errors
/// Where the socket cannot be made.
pub(crate) fn serve(
    socket: &Path,
    images: Arc<dyn ImageService>,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let context = || format!("cannot make the socket {}", socket.display());
    if let Some(dir) = socket.parent() {
        std::fs::create_dir_all(dir).with_context(context)?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).with_context(context)?;
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(context);
        }
        _ => {}
    }
    let listener = UnixListener::bind(socket).with_context(context)?;
    let (tasks, cancel) = (tasks.clone(), cancel.clone());
    let spawner = tasks.clone();
    tasks.spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = cancel.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else { continue };
            let (images, cancel) = (images.clone(), cancel.clone());
            spawner.spawn(async move {
                let answered = tokio::select! {
                    () = cancel.cancelled() => return,
                    answered = answer(stream, images.as_ref()) => answered,
                };
                if let Err(error) = answered {
                    tracing::warn!(error = format!("{error:#}"), "an image request was not answered");
                }
            });
        }
    });
    Ok(())
}

async fn answer(stream: UnixStream, images: &dyn ImageService) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(MAX_REQUEST)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => perform(images, request).await,
        Err(error) => Answer::Failed(format!("not a request: {error}")),
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    writer.write_all(&bytes).await?;
    Ok(())
}

/// Asks the server behind `socket`; `None` where none runs.
///
/// # Errors
/// Where one runs but gives no answer.
pub(crate) async fn ask(socket: &Path, request: &Request) -> Result<Option<Answer>> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => return Ok(None),
        Err(error) if error.kind() == PermissionDenied => bail!("images are root's: run it with sudo"),
        Err(error) => return Err(anyhow!(error).context(format!("cannot reach {}", socket.display()))),
    };
    let (reader, mut writer) = stream.into_split();
    let mut bytes = serde_json::to_vec(request)?;
    bytes.push(b'\n');
    writer.write_all(&bytes).await?;
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).await?;
    Ok(Some(serde_json::from_str(&line).context("the server ended before it answered")?))
}
