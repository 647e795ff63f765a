//! Runs the programs that set the kernel's packet filter: iptables, ip6tables and conntrack.
//!
//! It works with either backend of iptables (nf_tables or legacy): the names lead to the one that
//! the host has chosen.
#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Why a program of the packet filter did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum NetfilterError {
    /// The program is not installed. The operator must install it.
    #[error("`{program}` was not found; install the package {package}")]
    Missing {
        /// The program.
        program: String,
        /// Debian's package that brings it.
        package: &'static str,
    },
    /// The program could not be started, or its output not be read. Retryable.
    #[error("`{program}` could not be run")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The program failed. Retryable.
    #[error("`{command}` failed: {message}")]
    Failed {
        /// The command line.
        command: String,
        /// What it wrote to standard error.
        message: String,
    },
}

/// Runs a program, with `input` on its standard input; what it wrote to standard output.
///
/// Dropping the future kills the program: `iptables-restore` commits a table as a whole or not at
/// all, so a table is never left half written.
///
/// # Errors
///
/// See [`NetfilterError`].
pub async fn run(program: &str, args: &[&str], input: Option<&str>) -> Result<String, NetfilterError> {
    let start = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => {
            let package = if program == "conntrack" { "conntrack" } else { "iptables" };
            NetfilterError::Missing { program: program.to_owned(), package }
        }
        _ => NetfilterError::Start { program: program.to_owned(), source },
    };
    let mut child = Command::new(program)
        .args(args)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(start)?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // Where the program ends early its status says why.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(start)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(NetfilterError::Failed { command: format!("{program} {}", args.join(" ")), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn says_what_the_program_wrote_and_what_is_missing() {
        assert_eq!(run("cat", &[], Some("*nat\nCOMMIT\n")).await.unwrap(), "*nat\nCOMMIT\n");
        let failed = run("sh", &["-c", "echo 'line 2 is bad' >&2; exit 1"], Some("x")).await.unwrap_err();
        assert_eq!(failed.to_string(), "`sh -c echo 'line 2 is bad' >&2; exit 1` failed: line 2 is bad");
        let missing = run("iptables-of-nobody", &[], None).await.unwrap_err();
        assert_eq!(missing.to_string(), "`iptables-of-nobody` was not found; install the package iptables");
    }
}
