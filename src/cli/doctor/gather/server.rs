//! A running server, asked at its admin address.

use super::super::facts::Server;
use crate::cli::admin::{Admin, Metrics};
use crate::config::Settings;
use http::StatusCode;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The server at the settings' admin address, if a tickcast answers there.
pub(super) async fn ask(settings: &Settings) -> Option<Server> {
    let admin = admin(settings.admin.listen)?;
    let said = readiness(&admin).await?;
    let text = |key: &str| said[key].as_str().map(str::to_owned);
    let many = |key: &str| said[key].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned));
    let mut listeners: Vec<String> = many("listen").chain(many("bus")).collect();
    listeners.extend([text("admin")?, text("control")?]);
    // The second listener is not in the answer; the same process answers there.
    if let Some(scrape) = settings.admin.scrape_listen
        && let Some(other) = readiness(&self::admin(scrape)?).await
        && other["epoch"] == said["epoch"]
    {
        listeners.push(scrape.to_string());
    }
    let stuck = match admin.page("/healthz").await {
        Ok((StatusCode::OK, _)) => None,
        Ok((_, body)) => Some(body.trim().to_owned()),
        Err(error) => Some(error.to_string()),
    };
    let metrics = Metrics(admin.get("/metrics").await.unwrap_or_default());
    let (version, state, ready) = (text("version")?, text("state")?, said["ready"].as_bool()?);
    Some(Server { version, state, ready, listeners, stuck, metrics })
}

/// An admin port as this machine reaches it.
fn admin(at: SocketAddr) -> Option<Admin> {
    let here = match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    Admin::parse(&SocketAddr::new(here, at.port()).to_string()).ok()
}

/// What `/readyz` says, whether it is 200 or 503.
async fn readiness(admin: &Admin) -> Option<Value> {
    let (_, body) = admin.page("/readyz").await.ok()?;
    serde_json::from_str(&body).ok()
}
