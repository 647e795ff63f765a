//! Answers the API server's questions about running plugins out of the monitor.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use orlop_apimachinery::Status;
use orlop_apiserver::plugin_streams::PluginStreams;
use orlop_apiserver::registry::PluginStream;
use orlop_plugin_tools::monitor::{Limit, Monitor};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Longest recording.
const MOST_SECONDS: u64 = 3600;

/// See the module.
pub(crate) struct MonitorStreams(pub(crate) Arc<Monitor>);

/// A parameter, or its default.
fn number(parameters: &BTreeMap<String, String>, name: &str, default: u64) -> Result<u64, Status> {
    match parameters.get(name) {
        None => Ok(default),
        Some(text) => text
            .parse()
            .map_err(|_| Status::bad_request(format!("{name}: `{text}` is no number that is 0 or more"))),
    }
}

impl PluginStreams for MonitorStreams {
    fn open(
        &self,
        plugin: &str,
        stream: PluginStream,
        parameters: &BTreeMap<String, String>,
    ) -> Result<BoxStream<'static, Bytes>, Status> {
        match stream {
            PluginStream::Log => {
                let tail = number(parameters, "tailLines", u64::MAX)?;
                let follow = parameters.get("follow").is_some_and(|f| f == "true" || f == "1");
                let lines = self.0.lines(plugin, usize::try_from(tail).unwrap_or(usize::MAX), follow);
                let next = |mut lines: orlop_plugin_tools::monitor::LogLines| async move {
                    lines.next().await.map(|line| (line, lines))
                };
                Ok(stream::unfold(lines, next).boxed())
            }
            PluginStream::Recording => {
                let time = number(parameters, "seconds", 30)?.min(MOST_SECONDS);
                let calls = number(parameters, "calls", u64::MAX)?;
                let limit = Limit { calls, time: Duration::from_secs(time) };
                let recorded = self.0.record(plugin, limit);
                let next = |mut recorded: orlop_plugin_tools::monitor::Recorded| async move {
                    recorded.next().await.map(|line| (line, recorded))
                };
                Ok(stream::unfold(recorded, next).boxed())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orlop_plugin::Observer;

    #[test]
    fn parameters_are_checked_and_obeyed() {
        let monitor = Arc::new(Monitor::default());
        for line in ["a", "b", "c"] {
            monitor.log("p", 2, line);
        }
        let streams = MonitorStreams(monitor);
        let parameters =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let open = |stream, pairs: &[(&str, &str)]| streams.open("p", stream, &parameters(pairs));
        assert!(open(PluginStream::Log, &[("tailLines", "many")]).is_err());
        let text = |stream: BoxStream<'static, Bytes>| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(stream.collect::<Vec<_>>())
        };
        assert_eq!(text(open(PluginStream::Log, &[]).unwrap()).len(), 3);
        let last = text(open(PluginStream::Log, &[("tailLines", "1")]).unwrap());
        assert!(last.len() == 1 && last[0].ends_with(b"c\n"));
        let none = text(open(PluginStream::Recording, &[("seconds", "0")]).unwrap());
        assert_eq!(none.len(), 1, "a recording of no time is its header");
    }
}
