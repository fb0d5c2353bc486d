//! Kubelet probes and hooks: pointed at the proxy, which runs them against the application and answers with the status
//! alone. Otherwise a Strict port would refuse the kubelet, or a path would have to be open to everyone.
//!
//! A probe may be run by anyone: it asks and changes nothing. A hook does something, so its path has a part that only
//! readers of the pod know.

use byrnie_crds::names;
use serde_json::{Value, json};

use super::{list_if_any, refusal::Refusal};

const PROBES: [&str; 3] = ["startupProbe", "readinessProbe", "livenessProbe"];
const HOOKS: [&str; 2] = ["postStart", "preStop"];
/// A hook has no limit of its own: the kubelet ends it with the pod.
const HOOK_SECONDS: u64 = 3600;

/// Rewrites every network probe and hook of the pod's own containers. `known` are the probes that an earlier call
/// rewrote; the answer is the complete list, whose index is N in `/probe/N`.
pub(super) fn rewrite(
    pod: &mut Value,
    known: Vec<Value>,
    hook_key: fn() -> String,
) -> Result<Vec<Value>, Refusal> {
    let mut probes = known;
    for field in ["initContainers", "containers"] {
        for container in list_if_any(pod, field).into_iter().flatten() {
            for probe in PROBES {
                if container[probe].is_object() {
                    rewrite_one(container, &["", probe], probe, None, &mut probes)?;
                }
            }
            for hook in HOOKS {
                if container["lifecycle"][hook].is_object() {
                    rewrite_one(container, &["lifecycle", hook], hook, Some(hook_key()), &mut probes)?;
                }
            }
        }
    }
    Ok(probes)
}

fn rewrite_one(
    container: &mut Value,
    at: &[&str; 2],
    field: &'static str,
    key: Option<String>,
    probes: &mut Vec<Value>,
) -> Result<(), Refusal> {
    let name = container["name"].as_str().unwrap_or_default().to_owned();
    let ports = container["ports"].clone();
    let holder = if at[0].is_empty() { container } else { &mut container[at[0]] };
    let probe = &mut holder[at[1]];
    let problem = |problem: String| Refusal::Probe { container: name.clone(), probe: field, problem };
    let default = if key.is_some() { HOOK_SECONDS } else { 1 };
    let timeout = probe["timeoutSeconds"].as_u64().unwrap_or(default);
    let port = |wanted: &Value| resolve(wanted, &ports).map_err(&problem);
    let mut target = if probe["httpGet"].is_object() {
        let get = &probe["httpGet"];
        if get["host"].as_str().is_some_and(|host| !host.is_empty()) || is_ours(get) {
            return Ok(());
        }
        let headers: Vec<Value> = get["httpHeaders"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|h| json!([h["name"], h["value"]]))
            .collect();
        let path = get["path"].as_str().filter(|p| !p.is_empty()).unwrap_or("/");
        let scheme = get["scheme"].as_str().unwrap_or("HTTP");
        json!({"http": {"port": port(&get["port"])?, "path": path, "scheme": scheme, "headers": headers}, "timeoutSeconds": timeout})
    } else if probe["tcpSocket"].is_object() {
        if probe["tcpSocket"]["host"].as_str().is_some_and(|host| !host.is_empty()) {
            return Ok(());
        }
        json!({"tcp": {"port": port(&probe["tcpSocket"]["port"])?}, "timeoutSeconds": timeout})
    } else if probe["grpc"].is_object() {
        let service = probe["grpc"]["service"].as_str().unwrap_or_default();
        json!({"grpc": {"port": port(&probe["grpc"]["port"])?, "service": service}, "timeoutSeconds": timeout})
    } else {
        return Ok(());
    };
    if let Some(key) = &key {
        target["key"] = json!(key);
    }
    let index = probes.iter().position(|known| *known == target).unwrap_or_else(|| {
        probes.push(target);
        probes.len() - 1
    });
    let path = key.map_or_else(|| format!("/probe/{index}"), |key| format!("/probe/{index}/{key}"));
    let fields = probe.as_object_mut().expect("the caller saw an object");
    for kind in ["httpGet", "tcpSocket", "grpc"] {
        fields.remove(kind);
    }
    fields.insert("httpGet".into(), json!({"path": path, "port": names::PROXY_ADMIN_PORT, "scheme": "HTTP"}));
    Ok(())
}

/// 128 random bits in hexadecimal.
///
/// # Panics
/// When the system has no randomness; no TLS would work there either.
pub fn random_key() -> String {
    let mut bytes = [0; 16];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut bytes).expect("the system has randomness: the serving certificate's key came from it");
    format!("{:032x}", u128::from_be_bytes(bytes))
}

fn is_ours(get: &Value) -> bool {
    get["port"].as_u64() == Some(names::PROXY_ADMIN_PORT.into())
        && get["path"].as_str().is_some_and(|path| path.starts_with("/probe/") || path == names::PARTED_PATH)
}

/// A port by number or by the name that the container gives it.
fn resolve(wanted: &Value, ports: &Value) -> Result<u16, String> {
    let number = match wanted {
        Value::String(name) if name.parse::<u16>().is_err() => {
            let named = ports.as_array().into_iter().flatten().find(|p| p["name"].as_str() == Some(name));
            named
                .and_then(|p| p["containerPort"].as_u64())
                .ok_or_else(|| format!("no port of the container is named {name:?}"))?
        }
        Value::String(number) => number.parse().map_err(|_| format!("port {number:?} is no number"))?,
        _ => wanted.as_u64().ok_or_else(|| format!("port {wanted} is neither a name nor a number"))?,
    };
    u16::try_from(number)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("port {number} is not between 1 and 65535"))
}
