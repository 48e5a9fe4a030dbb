//! By what names a browser may call the admin server: the guard against pages that reach us by a name of their own.
//!
//! Pure functions of a `Host` value. Tests: `admin/tests.rs`.

use std::net::IpAddr;

/// Splits `name:port` or `[v6]:port` and gives the name without brackets.
pub(super) fn host_name(host: &str) -> &str {
    let host = host.trim();
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map_or("", |(name, _)| name);
    }
    match host.split_once(':') {
        // More than one colon without brackets: an IPv6 address as it is.
        Some((_, port)) if port.contains(':') => host,
        Some((name, _)) => name,
        None => host,
    }
}

/// `local` is the address that the connection came in by. An address cannot be rebound as a name can, so any loopback
/// address counts as ours when the connection came in by loopback.
pub(super) fn is_own_host(host: &str, local: IpAddr) -> bool {
    let name = host_name(host);
    let (local, named) = (local.to_canonical(), name.parse::<IpAddr>().map(|ip| ip.to_canonical()));
    match named {
        Ok(ip) => ip == local || (ip.is_loopback() && local.is_loopback()),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

/// Whether `host` is the one in the settings: whole when that names a port, by name alone when it does not.
pub(super) fn is_host(setting: &str, host: &str) -> bool {
    setting.eq_ignore_ascii_case(host.trim()) || setting.eq_ignore_ascii_case(host_name(host))
}
