//! /live, /ready and /metrics on their own port. Says nothing that a pod may not know.

use std::sync::Arc;

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// Answers a probe: `Ok`, or what is wrong.
pub type Probe = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the endpoints tell.
pub struct Admin {
    /// Fails when only a restart helps.
    pub live: Probe,
    /// Fails when this replica should get no new connections.
    pub ready: Probe,
    /// All series.
    pub registry: Registry,
}

/// Serves until `stopping`.
pub async fn serve(listener: TcpListener, admin: Admin, stopping: CancellationToken) {
    let admin = Arc::new(admin);
    let (live, ready, metrics) = (admin.clone(), admin.clone(), admin);
    let app = Router::new()
        .route("/live", get(async move || answer((live.live)())))
        .route("/ready", get(async move || answer((ready.ready)())))
        .route("/metrics", get(async move || exposition(&metrics.registry)));
    let served = axum::serve(listener, app).with_graceful_shutdown(stopping.cancelled_owned()).await;
    if let Err(e) = served {
        error!(error = %e, "the admin listener ended");
    }
}

fn answer(probe: Result<(), String>) -> (StatusCode, String) {
    match probe {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

fn exposition(registry: &Registry) -> axum::response::Response {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
