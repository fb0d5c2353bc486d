//! Kubelet probes and hooks: pointed at the proxy, which runs them against the application and answers with the status
//! alone. Otherwise a Strict port would refuse the kubelet, or a path would have to be open to everyone.

use byrnie_crds::names;
use serde_json::{Value, json};

use super::{list_if_any, refusal::Refusal};

const PROBES: [&str; 3] = ["startupProbe", "readinessProbe", "livenessProbe"];
const HOOKS: [&str; 2] = ["postStart", "preStop"];

/// Rewrites every network probe and hook of the pod's own containers. `known` are the probes that an earlier call
/// rewrote; the answer is the complete list, whose index is N in `/probe/N`.
pub(super) fn rewrite(pod: &mut Value, known: Vec<Value>) -> Result<Vec<Value>, Refusal> {
    let mut probes = known;
    for field in ["initContainers", "containers"] {
        for container in list_if_any(pod, field).into_iter().flatten() {
            for probe in PROBES {
                if container[probe].is_object() {
                    rewrite_one(container, &["", probe], probe, &mut probes)?;
                }
            }
            for hook in HOOKS {
                if container["lifecycle"][hook].is_object() {
                    rewrite_one(container, &["lifecycle", hook], hook, &mut probes)?;
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
    probes: &mut Vec<Value>,
) -> Result<(), Refusal> {
    let name = container["name"].as_str().unwrap_or_default().to_owned();
    let ports = container["ports"].clone();
    let holder = if at[0].is_empty() { container } else { &mut container[at[0]] };
    let probe = &mut holder[at[1]];
    let problem = |problem: String| Refusal::Probe { container: name.clone(), probe: field, problem };
    let timeout = probe["timeoutSeconds"].as_u64().unwrap_or(1);
    let port = |wanted: &Value| resolve(wanted, &ports).map_err(&problem);
    let target = if probe["httpGet"].is_object() {
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
    let index = probes.iter().position(|known| *known == target).unwrap_or_else(|| {
        probes.push(target);
        probes.len() - 1
    });
    let fields = probe.as_object_mut().expect("the caller saw an object");
    for kind in ["httpGet", "tcpSocket", "grpc"] {
        fields.remove(kind);
    }
    fields.insert(
        "httpGet".into(),
        json!({"path": format!("/probe/{index}"), "port": names::PROXY_ADMIN_PORT, "scheme": "HTTP"}),
    );
    Ok(())
}

fn is_ours(get: &Value) -> bool {
    get["port"].as_u64() == Some(names::PROXY_ADMIN_PORT.into())
        && get["path"].as_str().is_some_and(|path| path.starts_with("/probe/"))
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
