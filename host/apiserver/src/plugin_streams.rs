//! What plugins say and do at the moment: their logs, and recordings of their calls.
//!
//! The server knows no plugin; whoever runs them answers. Access is that of any subresource: `get` of
//! `plugins/log`, and `create` of `plugins/recording`, which shows all that the plugin is shown, Secrets
//! included, and is therefore not part of reading.

use crate::body::{self, Chain, ResponseBody};
use crate::core::{Core, Target};
use crate::http::{HttpRequest, respond};
use crate::registry::PluginStream;
use crate::status;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::Response;
use orlop_apimachinery::{Reason, Status};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whoever runs the plugins.
pub trait PluginStreams: Send + Sync + 'static {
    /// Opens a stream about the plugin of a `Plugin` object, which exists. `parameters` are those of the query,
    /// each with its first value. The stream ends when it is dropped.
    ///
    /// # Errors
    /// What the client gets.
    fn open(
        &self,
        plugin: &str,
        stream: PluginStream,
        parameters: &BTreeMap<String, String>,
    ) -> Result<BoxStream<'static, Bytes>, Status>;
}

/// Answers a request, which is authorized already.
pub(crate) async fn stream(
    core: &Arc<Core>,
    request: &HttpRequest,
    target: &Target<'_>,
    stream: PluginStream,
) -> Result<Response<ResponseBody>, Status> {
    let allowed = target.subresource.is_some_and(|sub| match request.method {
        http::Method::GET => sub.verbs.contains(&"get"),
        http::Method::POST => sub.verbs.contains(&"create"),
        _ => false,
    });
    if !allowed {
        return Err(status::method_not_allowed());
    }
    core.get(&Target { subresource: None, ..*target }, Some(0)).await?;
    let Some(streams) = core.plugin_streams.get() else {
        return Err(Status::failure(Reason::ServiceUnavailable, "this server runs no plugins"));
    };
    let bytes = streams.open(target.name, stream, &request.query.firsts())?;
    let cancel = core.cancel.clone();
    let pieces = bytes.map(Chain::from).take_until(async move { cancel.cancelled().await });
    Ok(respond(200, "text/plain", body::stream(pieces)))
}
