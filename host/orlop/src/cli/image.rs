//! `orlop image`.

use super::Folders;
use crate::folders::Layout;
use crate::image_service::{self, Answer, ListedImage, Request};
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use orlop_container::{RuncConfig, RuncRuntime, RuntimeError};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a server may take to answer after it took the folders.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Subcommand, Debug)]
pub(crate) enum ImageCommand {
    /// Import an archive: an OCI layout or the output of `docker save`, plain, gzip or zstd
    Import {
        /// The archive
        file: PathBuf,
        #[command(flatten)]
        folders: Folders,
    },
    /// Pull an image from its registry
    Pull {
        /// Such as `docker.io/library/busybox:latest`
        reference: String,
        #[command(flatten)]
        folders: Folders,
    },
    /// List the images
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        folders: Folders,
    },
    /// Remove an image and all its tags
    #[command(visible_alias = "rm")]
    Remove {
        /// A reference or an id
        reference: String,
        #[command(flatten)]
        folders: Folders,
    },
}

/// Runs the command on the server of the data folder, or on the folder itself where none runs.
///
/// # Errors
/// What the server or the image store said.
pub(crate) fn run(command: ImageCommand) -> Result<()> {
    let (request, folders) = match command {
        ImageCommand::Import { file, folders } => {
            let file =
                std::fs::canonicalize(&file).with_context(|| format!("cannot read {}", file.display()))?;
            (Request::Import(file), folders)
        }
        ImageCommand::Pull { reference, folders } => (Request::Pull(reference), folders),
        ImageCommand::List { folders } => (Request::List, folders),
        ImageCommand::Remove { reference, folders } => (Request::Remove(reference), folders),
    };
    let layout = Layout::new(&folders.data_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let answer = runtime.block_on(answer(&layout, request))?;
    match answer {
        Answer::Done(references) => references.iter().for_each(|r| println!("{r}")),
        Answer::Images(images) => print(&images),
        Answer::Failed(why) => bail!("{why}"),
    }
    Ok(())
}

/// Asks the server; where none runs, does it here. A server that is starting or ending holds the
/// folders but does not answer: that is waited for.
async fn answer(layout: &Layout, request: Request) -> Result<Answer> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = image_service::ask(&layout.image_socket(), &request).await? {
            return Ok(answer);
        }
        let config = RuncConfig::new(layout.containers(), layout.run(), layout.programs());
        match RuncRuntime::open(config).await {
            Ok(images) => return Ok(image_service::perform(&images, request).await),
            Err(RuntimeError::FailedPrecondition(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error).context("cannot open the image store"),
        }
    }
}

fn print(images: &[ListedImage]) {
    println!("{:<60} {:<15} {:>10}", "REFERENCE", "ID", "SIZE");
    for image in images {
        let id = image.id.trim_start_matches("sha256:");
        let id = id.get(..12).unwrap_or(id);
        let names: &[String] = if image.references.is_empty() { &[String::new()] } else { &image.references };
        for name in names {
            println!("{name:<60} {id:<15} {:>6.1} MiB", image.size as f64 / f64::from(1 << 20));
        }
    }
}
