//! What a request is about: the URL's path and method, as authorization and routing see them.
//!
//! Source of the rules: `k8s.io/apiserver/pkg/endpoints/request`.

/// A request to a resource, or to some other path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/api/v1/…` and `/apis/<group>/<version>/…` with a resource.
    Resource(ResourcePath),
    /// Everything else.
    Other,
}

/// The parts of a resource's path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// What follows the subresource (of `proxy`), with its leading slash; else empty.
    pub(crate) rest: String,
    /// The old `/watch/` form.
    pub(crate) watch_prefix: bool,
}

/// Splits a decoded path. A path that is no resource's, is nobody's (`/api/v1` too).
pub(crate) fn route(path: &str) -> Route {
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let parts: Vec<&str> = trimmed.split('/').collect();
    let (group, version, mut rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Route::Other,
    };
    if rest.is_empty() || rest == [""] {
        return Route::Other;
    }
    let mut out =
        ResourcePath { group: group.to_owned(), version: version.to_owned(), ..ResourcePath::default() };
    if let ["watch", more @ ..] = rest
        && !more.is_empty()
    {
        out.watch_prefix = true;
        rest = more;
    }
    if let ["namespaces", namespace, more @ ..] = rest {
        // `/namespaces/x` is the namespace itself, as are its own subresources.
        if let [resource, ..] = more
            && !matches!(*resource, "status" | "finalize" | "")
        {
            out.namespace = (*namespace).to_owned();
            rest = more;
        } else {
            out.namespace = (*namespace).to_owned();
        }
    }
    match rest {
        [resource] => out.resource = (*resource).to_owned(),
        [resource, name] => {
            out.resource = (*resource).to_owned();
            out.name = (*name).to_owned();
        }
        [resource, name, subresource, more @ ..] => {
            out.resource = (*resource).to_owned();
            out.name = (*name).to_owned();
            out.subresource = (*subresource).to_owned();
            if !more.is_empty() {
                out.rest = format!("/{}", more.join("/"));
            }
        }
        [] => return Route::Other,
    }
    if out.resource.is_empty() {
        return Route::Other;
    }
    Route::Resource(out)
}

/// The verb that authorization sees.
pub(crate) fn verb(method: &http::Method, path: &ResourcePath, watching: bool) -> &'static str {
    use http::Method;
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD if path.name.is_empty() || (watching && path.watch_prefix) => {
            if watching {
                "watch"
            } else {
                "list"
            }
        }
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if path.name.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> [String; 6] {
        match route(path) {
            Route::Resource(r) => [r.group, r.version, r.namespace, r.resource, r.name, r.subresource],
            Route::Other => Default::default(),
        }
    }

    #[test]
    fn paths_name_resources() {
        let cases = [
            ("/api/v1/pods", ["", "v1", "", "pods", "", ""]),
            ("/api/v1/namespaces", ["", "v1", "", "namespaces", "", ""]),
            ("/api/v1/namespaces/a", ["", "v1", "a", "namespaces", "a", ""]),
            ("/api/v1/namespaces/a/finalize", ["", "v1", "a", "namespaces", "a", "finalize"]),
            ("/api/v1/namespaces/a/pods/b/log", ["", "v1", "a", "pods", "b", "log"]),
            ("/apis/apps/v1/namespaces/a/deployments", ["apps", "v1", "a", "deployments", "", ""]),
            ("/api/v1/nodes/n/proxy/stats/summary", ["", "v1", "", "nodes", "n", "proxy"]),
            ("/api/v1", ["", "", "", "", "", ""]),
            ("/healthz", ["", "", "", "", "", ""]),
        ];
        for (path, expected) in cases {
            assert_eq!(parts(path), expected.map(str::to_owned), "{path}");
        }
    }
}
