//! The three webhooks as HTTP handlers: `/mutate`, `/validate` and `/convert`.
//!
//! Each is a function of its body. A body that is no review is answered with 400, never with a panic; sizes are
//! bounded by the server.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use byrnie_crds::{convert, names, validate};
use kube::core::{
    DynamicObject,
    admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation},
};
use serde_json::{Value, json};

use crate::{
    inject::{Outcome, Settings, Source, inject},
    metrics::Metrics,
    namespace::Namespaces,
    pod_certificates::PodCertificates,
    targets::Targets,
};

/// What the handlers share.
pub struct Webhooks {
    /// Settings of injected pods.
    pub settings: Settings,
    /// The watched namespaces.
    pub namespaces: Namespaces,
    /// Looks up what a policy or split points to.
    pub targets: Targets,
    /// Whether kubelets may be asked for certificates.
    pub pod_certificates: PodCertificates,
    /// Counters.
    pub metrics: Metrics,
}

/// The largest body accepted, in bytes: an object in etcd has at most 1.5 MiB, a review two of them.
pub const MAX_BODY: usize = 3 * 1024 * 1024;

/// The routes.
pub fn routes(webhooks: Arc<Webhooks>) -> Router {
    Router::new()
        .route("/mutate", post(mutate))
        .route("/validate", post(validate_kind))
        .route("/convert", post(convert_kind))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
        .with_state(webhooks)
}

async fn mutate(State(webhooks): State<Arc<Webhooks>>, body: Bytes) -> Response {
    let (request, raw) = match review(&body) {
        Ok(review) => review,
        Err(response) => return *response,
    };
    if request.kind.kind != "Pod" || request.operation != Operation::Create {
        return allow(&request);
    }
    let namespace = request.namespace.clone().unwrap_or_default();
    let namespace = match webhooks.namespaces.get(&namespace).await {
        Ok(namespace) => namespace,
        Err(error) => {
            webhooks.metrics.pod("error");
            return deny(&request, format!("byrnie: cannot read namespace {namespace}: {error}; try again"));
        }
    };
    let pod = &raw["request"]["object"];
    let source = Source::of(webhooks.pod_certificates.are_offered());
    match inject(pod, &namespace, &webhooks.settings, source) {
        Ok(Outcome::Injected(injected)) => {
            webhooks.metrics.pod("injected");
            let patch = json_patch::diff(pod, &injected);
            match AdmissionResponse::from(&request).with_patch(patch) {
                Ok(response) => answer(response),
                Err(error) => deny(&request, format!("byrnie: cannot write the patch: {error}")),
            }
        }
        Ok(Outcome::Untouched(reason)) => {
            webhooks.metrics.pod("untouched");
            tracing::debug!(namespace = namespace.name, pod = %name(pod), reason, "pod left as it is");
            allow(&request)
        }
        Err(refusal) => {
            webhooks.metrics.pod("refused");
            tracing::info!(namespace = namespace.name, pod = %name(pod), %refusal, "pod refused");
            deny(&request, refusal.to_string())
        }
    }
}

async fn validate_kind(State(webhooks): State<Arc<Webhooks>>, body: Bytes) -> Response {
    let (request, raw) = match review(&body) {
        Ok(review) => review,
        Err(response) => return *response,
    };
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return allow(&request);
    }
    let object = &raw["request"]["object"];
    if !object["metadata"]["deletionTimestamp"].is_null() {
        return allow(&request);
    }
    let report = validate::validate(object);
    if !report.problems.is_empty() {
        webhooks.metrics.validation("refused");
        let lines: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        return deny(
            &request,
            format!("byrnie: {} {}: {}", request.kind.kind, request.name, lines.join("; ")),
        );
    }
    webhooks.metrics.validation("accepted");
    let mut response = AdmissionResponse::from(&request);
    let mut warnings: Vec<String> = report.warnings.iter().map(ToString::to_string).collect();
    warnings.extend(webhooks.targets.missing(object, request.namespace.as_deref()).await);
    if !warnings.is_empty() {
        response.warnings = Some(warnings);
    }
    answer(response)
}

async fn convert_kind(State(webhooks): State<Arc<Webhooks>>, body: Bytes) -> Response {
    let Ok(mut review) = serde_json::from_slice::<Value>(&body) else {
        return (StatusCode::BAD_REQUEST, "the body is no ConversionReview").into_response();
    };
    if !review["request"].is_object() {
        return (StatusCode::BAD_REQUEST, "the ConversionReview has no request").into_response();
    }
    let objects = review["request"]["objects"].take();
    let request = &review["request"];
    let (Some(uid), Some(version), Value::Array(objects)) =
        (request["uid"].as_str(), request["desiredAPIVersion"].as_str(), objects)
    else {
        return (StatusCode::BAD_REQUEST, "the ConversionReview has no uid, desiredAPIVersion or objects")
            .into_response();
    };
    let converted: Result<Vec<Value>, _> =
        objects.into_iter().map(|object| convert::convert(object, version)).collect();
    let response = match converted {
        Ok(objects) => {
            webhooks.metrics.conversion("converted");
            json!({"uid": uid, "convertedObjects": objects, "result": {"status": "Success"}})
        }
        Err(error) => {
            webhooks.metrics.conversion("refused");
            let message = format!("byrnie: {error}");
            json!({"uid": uid, "convertedObjects": [], "result": {"status": "Failure", "message": message}})
        }
    };
    Json(json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response}))
        .into_response()
}

type Review = (AdmissionRequest<DynamicObject>, Value);

fn review(body: &Bytes) -> Result<Review, Box<Response>> {
    let bad = |why: String| Box::new((StatusCode::BAD_REQUEST, why).into_response());
    let raw: Value =
        serde_json::from_slice(body).map_err(|error| bad(format!("the body is no JSON: {error}")))?;
    let typed: AdmissionReview<DynamicObject> = serde_json::from_value(raw.clone())
        .map_err(|error| bad(format!("the body is no AdmissionReview: {error}")))?;
    let request =
        typed.try_into().map_err(|error| bad(format!("the AdmissionReview has no request: {error}")))?;
    Ok((request, raw))
}

fn allow(request: &AdmissionRequest<DynamicObject>) -> Response {
    answer(AdmissionResponse::from(request))
}

fn deny(request: &AdmissionRequest<DynamicObject>, message: String) -> Response {
    answer(AdmissionResponse::from(request).deny(message))
}

fn answer(response: AdmissionResponse) -> Response {
    Json(response.into_review()).into_response()
}

fn name(pod: &Value) -> &str {
    let metadata = &pod["metadata"];
    metadata["name"].as_str().or_else(|| metadata["generateName"].as_str()).unwrap_or(names::INJECTOR)
}
