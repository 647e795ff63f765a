//! `orlop plugin`: everything about plugins, from an empty folder to a rollback in a cluster.
//!
//! What works on files is [`orlop_plugin_tools`]'s; what asks a cluster does it over the API, like any other
//! client. Exit codes: 0 all is well; 1 the answer is no (a test failed, figures got worse, decisions differ, the
//! cluster refused); 2 it could not be done.

mod author;
mod cluster;
mod inspect;
mod opener;
mod show;
mod streams;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use orlop_plugin::Kind;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Subcommand, Debug)]
pub(crate) enum PluginCommand {
    /// Make a folder for a new plugin, which builds and tests as it is
    New(NewArgs),
    /// Build the plugin of a folder, with its manifest, into target/orlop/NAME.wasm
    Build(BuildArgs),
    /// Run the golden tests of a folder in the real runtime, and show what differs
    Test(TestArgs),
    /// Measure time, fuel and memory of each hook, and compare with saved figures
    Bench(BenchArgs),
    /// Write down what a plugin of a cluster is asked, and what it answers
    ///
    /// The file holds all that the plugin is shown, Secrets included: keep it as you would keep those.
    /// Whoever records needs the permission to `create` `plugins/recording`.
    Record(RecordArgs),
    /// Ask a plugin what was recorded, and compare its answers with the recorded ones
    Replay(ReplayArgs),
    /// Show what two versions of a plugin decide differently, over a recording or golden tests
    Diff(DiffArgs),
    /// Install or replace a plugin, and wait until it is active, refused, or tried as its rollout says
    Apply(ApplyArgs),
    /// List the plugins of the cluster
    List(ListArgs),
    /// List the revisions of a plugin
    History(HistoryArgs),
    /// Return to an earlier revision of a plugin, at once
    Rollback(RollbackArgs),
    /// Show the log of a plugin and the Events about it
    Logs(LogsArgs),
    /// Show what a plugin file says about itself, without a cluster
    Inspect {
        /// A core module or a component, gzip allowed
        file: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum KindArg {
    Scheduler,
    Controller,
    Admission,
}

impl From<KindArg> for Kind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::Scheduler => Self::Scheduler,
            KindArg::Controller => Self::Controller,
            KindArg::Admission => Self::Admission,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct NewArgs {
    /// Name of the folder and of the plugin, such as `disk-type`
    name: String,
    /// What the plugin decides
    #[arg(long)]
    kind: KindArg,
    /// Language: rust, c, js, python
    #[arg(long, default_value = "rust")]
    lang: String,
    /// The folder that gets the new one
    #[arg(long = "in", value_name = "DIR", default_value = ".")]
    parent: PathBuf,
    /// Rust: the SDK, `plugins/sdk` in a clone of the repository [default: of the clone that the working folder
    /// or this program lies in]
    #[arg(long, value_name = "DIR", env = "ORLOP_SDK")]
    sdk: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct BuildArgs {
    /// Folder of the plugin
    #[arg(default_value = ".")]
    folder: PathBuf,
}

/// Which module, and where compiled code is kept.
#[derive(Args, Debug)]
pub(crate) struct ModuleArgs {
    /// The module [default: target/orlop/NAME.wasm of the folder]
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct TestArgs {
    /// Folder of the plugin
    #[arg(default_value = ".")]
    folder: PathBuf,
    #[command(flatten)]
    module: ModuleArgs,
    /// Make what comes out the expectation; look at the difference before you commit it
    #[arg(long)]
    update: bool,
    /// Show what the plugin logs
    #[arg(long)]
    log: bool,
}

#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    /// Folder of the plugin, whose golden tests are the inputs
    #[arg(default_value = ".")]
    folder: PathBuf,
    #[command(flatten)]
    module: ModuleArgs,
    /// Synthetic nodes, made of those of the golden tests
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nodes: u32,
    /// Keep the figures
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Fail where figures are worse than these, which `--save` kept
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// By how much fuel and memory may grow, in percent; they are exact
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    tolerance: f64,
    /// By how much time may grow, in percent; it is noisy
    #[arg(long, value_name = "PERCENT", default_value_t = 100.0)]
    time_tolerance: f64,
}

#[derive(Args, Debug)]
pub(crate) struct RecordArgs {
    /// The Plugin object
    name: String,
    /// Where it is written; compressed where the name ends in .gz
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Ends after so many seconds
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Ends after so many calls
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    calls: u64,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args, Debug)]
pub(crate) struct ReplayArgs {
    /// What `orlop plugin record` wrote
    recording: PathBuf,
    /// The module to ask
    module: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct DiffArgs {
    /// The module as it was
    old: PathBuf,
    /// The module as it is
    new: PathBuf,
    /// Compare over what `orlop plugin record` wrote
    #[arg(long, value_name = "FILE", conflicts_with = "tests")]
    recording: Option<PathBuf>,
    /// Compare over the golden tests of this folder [default: tests]
    #[arg(long, value_name = "DIR")]
    tests: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct ApplyArgs {
    /// A core module or a component, gzip allowed
    file: PathBuf,
    /// Name of the Plugin object [default: of the plugin that has this name already, else made of
    /// the name in the manifest]
    #[arg(long)]
    name: Option<String>,
    /// Configuration, as a JSON object
    #[arg(long, value_name = "JSON")]
    config: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    /// The Plugin object
    name: String,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args, Debug)]
pub(crate) struct RollbackArgs {
    /// The Plugin object
    name: String,
    /// The revision, as `history` lists it [default: the one before the active one]
    #[arg(long, value_name = "REVISION", conflicts_with = "undo")]
    to: Option<i64>,
    /// Return to what the object's spec says
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args, Debug)]
pub(crate) struct LogsArgs {
    /// The Plugin object
    name: String,
    /// Go on with what is to come
    #[arg(long, short)]
    follow: bool,
    /// Lines of the past; the host keeps the last 1,000 since it started
    #[arg(long, default_value_t = 200)]
    tail: usize,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Args, Debug)]
pub(crate) struct Connection {
    /// How to reach the cluster [default: $KUBECONFIG, then ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// How a command ended.
enum Verdict {
    Yes,
    No,
}

/// Runs one command.
pub(crate) fn run(command: PluginCommand) -> ExitCode {
    let ended = match command {
        PluginCommand::New(args) => author::new(args),
        PluginCommand::Build(args) => author::build(&args),
        PluginCommand::Test(args) => author::test(&args),
        PluginCommand::Bench(args) => author::bench(&args),
        PluginCommand::Replay(args) => author::replay(&args),
        PluginCommand::Diff(args) => author::diff(&args),
        PluginCommand::Inspect { file } => inspect::inspect(&file),
        PluginCommand::Record(args) => block_on(streams::record(args)),
        PluginCommand::Logs(args) => block_on(streams::logs(args)),
        PluginCommand::Apply(args) => block_on(cluster::apply(args)),
        PluginCommand::List(args) => block_on(cluster::list(args)),
        PluginCommand::History(args) => block_on(cluster::history(args)),
        PluginCommand::Rollback(args) => block_on(cluster::rollback(args)),
    };
    match ended {
        Ok(Verdict::Yes) => ExitCode::SUCCESS,
        Ok(Verdict::No) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
