//! The console: the page at `/` of the admin server, its files built into the program.
//!
//! In: a path and the request's headers. Out: a file with its `ETag`, 304, or what the page must know to begin (`/console.json`). The page
//! asks this server alone, and the WebSocket address for ticks: its content security policy names these two and forbids inline code.
//! Knows nothing of what the page shows. Files: `console/`, with uPlot in `console/vendor/`. Tests: `console/tests.rs`, the page's
//! modules in `tests/console/`, the page in a browser in `tests/e2e/console.rs`.

use super::host::host_name;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH,
};
use hyper::{Response, StatusCode};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, type and content of the page and all it is made of.
const FILES: &[(&str, &str, &str)] = &[
    ("/", HTML, include_str!("console/index.html")),
    ("/console/style.css", CSS, include_str!("console/style.css")),
    ("/console/icon.svg", "image/svg+xml", include_str!("console/icon.svg")),
    ("/console/theme.js", SCRIPT, include_str!("console/theme.js")),
    ("/console/main.mjs", SCRIPT, include_str!("console/main.mjs")),
    ("/console/dom.mjs", SCRIPT, include_str!("console/dom.mjs")),
    ("/console/format.mjs", SCRIPT, include_str!("console/format.mjs")),
    ("/console/live.mjs", SCRIPT, include_str!("console/live.mjs")),
    ("/console/metrics.mjs", SCRIPT, include_str!("console/metrics.mjs")),
    ("/console/msgpack.mjs", SCRIPT, include_str!("console/msgpack.mjs")),
    ("/console/panels.mjs", SCRIPT, include_str!("console/panels.mjs")),
    ("/console/plots.mjs", SCRIPT, include_str!("console/plots.mjs")),
    ("/console/stream.mjs", SCRIPT, include_str!("console/stream.mjs")),
    ("/console/vendor/uPlot.iife.min.js", SCRIPT, include_str!("console/vendor/uPlot.iife.min.js")),
    ("/console/vendor/uPlot.min.css", CSS, include_str!("console/vendor/uPlot.min.css")),
    ("/console/vendor/LICENSE", "text/plain; charset=utf-8", include_str!("console/vendor/LICENSE")),
];

/// What the page is told.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Where clients connect.
    pub websocket: SocketAddr,
    /// The key that everybody knows, while there is one.
    pub demo_key: Option<&'static str>,
}

/// The page, ready to be served.
pub struct Console {
    facts: Facts,
    files: Vec<File>,
}

struct File {
    path: &'static str,
    content_type: &'static str,
    content: &'static str,
    etag: HeaderValue,
}

impl Console {
    /// All files, each with the `ETag` of its content.
    pub fn new(facts: Facts) -> Self {
        let file = |&(path, content_type, content): &(&'static str, &'static str, &'static str)| {
            let tag: String = Sha256::digest(content).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            let etag = HeaderValue::try_from(format!("\"{tag}\"")).expect("hexadecimal digits");
            File { path, content_type, content, etag }
        };
        Console { facts, files: FILES.iter().map(file).collect() }
    }

    /// The answer to a GET of `path`, if it is one of ours. `host` is by what name the browser reached us, one that is known to be ours.
    pub(super) fn answer(&self, path: &str, headers: &HeaderMap, host: &str) -> Option<Response<Full<Bytes>>> {
        if path == "/console.json" {
            return Some(self.facts(host));
        }
        let file = self.files.iter().find(|file| file.path == path)?;
        let held = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let is_held = held.flat_map(|tags| tags.split(',')).any(|tag| {
            let tag = tag.trim();
            tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == file.etag.as_bytes()
        });
        let content = if is_held { "" } else { file.content };
        let mut response = Response::new(Full::new(Bytes::from_static(content.as_bytes())));
        if is_held {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(file.content_type));
        headers.insert(ETAG, file.etag.clone());
        // Kept by the browser, asked about each time: a new version shows at once, and an unchanged one costs no bytes.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if file.content_type == HTML {
            headers.insert(CONTENT_SECURITY_POLICY, self.policy(host));
        }
        Some(response)
    }

    fn facts(&self, host: &str) -> Response<Full<Bytes>> {
        let facts = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "websocket": format!("ws://{}:{}", self.websocket_host(host), self.facts.websocket.port()),
            "demo_key": self.facts.demo_key,
        });
        let mut response = Response::new(Full::new(facts.to_string().into()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    /// Where the browser finds the WebSocket port: where it listens, or on every interface, where the browser found us.
    fn websocket_host(&self, host: &str) -> String {
        let listens = self.facts.websocket.ip();
        let name = if listens.is_unspecified() { host_name(host).to_owned() } else { listens.to_string() };
        if name.contains(':') { format!("[{name}]") } else { name }
    }

    fn policy(&self, host: &str) -> HeaderValue {
        let name = self.websocket_host(host);
        // A policy can name no IPv6 address: then any host, at this port.
        let name = if name.starts_with('[') { "*" } else { &name };
        let policy = format!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' ws://{name}:{}; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
            self.facts.websocket.port()
        );
        HeaderValue::try_from(policy).expect("a host that came in a header, and ASCII")
    }
}

#[cfg(test)]
mod tests;
