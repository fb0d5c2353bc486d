//! What a Service's port declares to speak: appProtocol first (KEP-1422, KEP-3726), then the prefix of the port's name.
//! HTTP/1 and HTTP/2 both say "HTTP for certain": the proxy tells them apart by their bytes.

use byrnie_model::Protocol;

/// The declared protocol; [`Protocol::Detect`] where nothing known is declared.
pub fn declared(app_protocol: Option<&str>, port_name: Option<&str>) -> Protocol {
    if let Some(protocol) = app_protocol {
        return match protocol.to_ascii_lowercase().as_str() {
            "http" | "http/1.1" | "kubernetes.io/ws" => Protocol::Http1,
            "http2" | "h2c" | "kubernetes.io/h2c" | "grpc" => Protocol::Http2,
            "https" | "tls" | "kubernetes.io/wss" => Protocol::Tls,
            "tcp" | "redis" | "mysql" | "postgres" | "postgresql" | "mongo" | "mongodb" => Protocol::Opaque,
            _ => Protocol::Detect,
        };
    }
    let prefix = port_name.unwrap_or_default().split('-').next().unwrap_or_default();
    match prefix {
        "http" => Protocol::Http1,
        "http2" | "h2c" | "grpc" => Protocol::Http2,
        "https" | "tls" => Protocol::Tls,
        "tcp" | "redis" | "mysql" | "postgres" | "mongo" => Protocol::Opaque,
        _ => Protocol::Detect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_is_taken() {
        for (app, name, protocol) in [
            (None, None, Protocol::Detect),
            (None, Some("http"), Protocol::Http1),
            (None, Some("http-metrics"), Protocol::Http1),
            (None, Some("httpx"), Protocol::Detect),
            (None, Some("grpc-web"), Protocol::Http2),
            (None, Some("tls-identity"), Protocol::Tls),
            (None, Some("tcp"), Protocol::Opaque),
            (Some("kubernetes.io/h2c"), Some("http"), Protocol::Http2),
            (Some("HTTP"), Some("tcp"), Protocol::Http1),
            (Some("kubernetes.io/ws"), None, Protocol::Http1),
            (Some("example.org/own"), Some("tcp"), Protocol::Detect),
        ] {
            assert_eq!(declared(app, name), protocol, "{app:?} {name:?}");
        }
    }
}
