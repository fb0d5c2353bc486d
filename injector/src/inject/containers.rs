//! The containers and the volume that make a pod a mesh member.

use byrnie_crds::names::{self, IDENTITY_PATH as MOUNT, IDENTITY_VOLUME as VOLUME};
use serde_json::{Value, json};

use super::{Settings, Source, annotation, list, list_if_any, object, refusal::Refusal};
use crate::namespace::Namespace;

/// Pods that have less time to end get no hook that takes some of it.
const LEAST_GRACE: u64 = 5;

/// All that the added containers need to know.
pub(super) struct Mesh<'a> {
    settings: &'a Settings,
    source: Source,
    probes: Vec<Value>,
    skip_inbound: Vec<u16>,
    skip_outbound: Vec<u16>,
    workers: u16,
    log: String,
    access_log: String,
    resources: Value,
}

/// Takes out what an earlier injection added; answers with the probes that it had rewritten.
pub(super) fn remove(pod: &mut Value) -> Vec<Value> {
    let ours = |c: &Value| matches!(c["name"].as_str(), Some(names::PROXY_CONTAINER | names::INIT_CONTAINER));
    let mut probes = vec![];
    for field in ["initContainers", "containers"] {
        let Some(containers) = list_if_any(pod, field) else { continue };
        for container in containers.iter().filter(|c| ours(c)) {
            let env =
                container["env"].as_array().into_iter().flatten().find(|e| e["name"] == "BYRNIE_PROBES");
            let known =
                env.and_then(|e| e["value"].as_str()).and_then(|text| serde_json::from_str(text).ok());
            probes = known.unwrap_or(probes);
        }
        containers.retain(|c| !ours(c));
    }
    if let Some(volumes) = list_if_any(pod, "volumes") {
        volumes.retain(|v| v["name"] != VOLUME);
    }
    probes
}

impl<'a> Mesh<'a> {
    /// Reads the pod's annotations.
    pub(super) fn read(
        pod: &Value,
        namespace: &Namespace,
        settings: &'a Settings,
        source: Source,
        probes: Vec<Value>,
    ) -> Result<Self, Refusal> {
        let ports = |name: &'static str| -> Result<Vec<u16>, Refusal> {
            let Some(text) = annotation(pod, name) else { return Ok(vec![]) };
            if !namespace.allows_opt_out() {
                return Err(Refusal::SkippedPorts { annotation: name, namespace: namespace.name.clone() });
            }
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(|item| number(name, item)).collect()
        };
        let workers = annotation(pod, names::WORKERS_ANNOTATION)
            .map_or(Ok(1), |text| number(names::WORKERS_ANNOTATION, text))?;
        if let Some(text) = annotation(pod, names::WEIGHT_ANNOTATION) {
            // the operator reads it; here it can still be refused
            number(names::WEIGHT_ANNOTATION, text)?;
        }
        if workers > 64 {
            let problem = "at most 64 workers".to_owned();
            return Err(Refusal::Annotation {
                annotation: names::WORKERS_ANNOTATION,
                value: workers.to_string(),
                problem,
            });
        }
        Ok(Self {
            settings,
            source,
            probes,
            skip_inbound: ports(names::SKIP_INBOUND_PORTS_ANNOTATION)?,
            skip_outbound: ports(names::SKIP_OUTBOUND_PORTS_ANNOTATION)?,
            workers,
            log: annotation(pod, names::LOG_LEVEL_ANNOTATION).unwrap_or(&settings.log).to_owned(),
            access_log: access_log(pod)?,
            resources: resources(pod, settings)?,
        })
    }

    /// Puts label, annotation, volume and containers into the pod. Ours start first, so that the pod's own init
    /// containers already are in the mesh.
    pub(super) fn add(&self, pod: &mut Value) {
        let metadata = object(pod, "metadata");
        let mut metadata = Value::Object(std::mem::take(metadata));
        object(&mut metadata, "labels").insert(names::INJECTED_LABEL.into(), json!("true"));
        object(&mut metadata, "annotations")
            .insert(names::PROXY_VERSION_ANNOTATION.into(), json!(self.settings.version));
        pod["metadata"] = metadata;
        list(pod, "initContainers").splice(0..0, [self.init(), self.proxy()]);
        let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64();
        if grace.is_none_or(|seconds| seconds >= LEAST_GRACE) {
            list(pod, "containers").iter_mut().for_each(part_first);
        }
        list(pod, "volumes").push(self.volume());
    }

    fn init(&self) -> Value {
        let mut args = vec![
            "init".to_owned(),
            format!("--inbound-port={}", names::INBOUND_PORT),
            format!("--outbound-port={}", names::OUTBOUND_PORT),
            format!("--admin-port={}", names::PROXY_ADMIN_PORT),
            format!("--proxy-uid={}", names::PROXY_UID),
        ];
        for (flag, ports) in
            [("--skip-inbound-ports", &self.skip_inbound), ("--skip-outbound-ports", &self.skip_outbound)]
        {
            if !ports.is_empty() {
                let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
                args.push(format!("{flag}={}", ports.join(",")));
            }
        }
        json!({
            "name": names::INIT_CONTAINER,
            "image": self.settings.proxy_image,
            "imagePullPolicy": self.settings.image_pull_policy,
            "args": args,
            "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}},
            "securityContext": {
                "runAsUser": 0,
                "runAsGroup": 0,
                "runAsNonRoot": false,
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationMessagePolicy": "FallbackToLogsOnError",
        })
    }

    fn proxy(&self) -> Value {
        let field =
            |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        // `$(NAME)` in a value is the kubelet's to replace, and must not be: as JSON, the same is said without it.
        let probes = Value::from(self.probes.clone()).to_string().replace("$(", r"\u0024(");
        json!({
            "name": names::PROXY_CONTAINER,
            "image": self.settings.proxy_image,
            "imagePullPolicy": self.settings.image_pull_policy,
            "restartPolicy": "Always",
            "args": ["run"],
            "env": [
                field("BYRNIE_POD_NAME", "metadata.name"),
                field("BYRNIE_POD_NAMESPACE", "metadata.namespace"),
                field("BYRNIE_POD_UID", "metadata.uid"),
                field("BYRNIE_POD_IPS", "status.podIPs"),
                field("BYRNIE_SERVICE_ACCOUNT", "spec.serviceAccountName"),
                field("BYRNIE_NODE_NAME", "spec.nodeName"),
                {"name": "BYRNIE_WORKERS", "value": self.workers.to_string()},
                {"name": "BYRNIE_LOG", "value": self.log},
                {"name": "BYRNIE_ACCESS_LOG", "value": self.access_log},
                {"name": "BYRNIE_PROBES", "value": probes},
            ],
            "ports": [{"name": "byrnie-admin", "containerPort": names::PROXY_ADMIN_PORT, "protocol": "TCP"}],
            "lifecycle": {"postStart": {"exec": {"command": ["/byrnie-proxy", "await"]}}},
            "resources": self.resources,
            "volumeMounts": [{"name": VOLUME, "mountPath": MOUNT, "readOnly": true}],
            "securityContext": {
                "runAsUser": names::PROXY_UID,
                "runAsGroup": names::PROXY_UID,
                "runAsNonRoot": true,
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationMessagePolicy": "FallbackToLogsOnError",
        })
    }

    fn volume(&self) -> Value {
        json!({
            "name": VOLUME,
            "projected": {
                // read by the proxy's user, whatever fsGroup the pod has
                "defaultMode": 0o444,
                "sources": self.sources(),
            },
        })
    }

    fn sources(&self) -> Vec<Value> {
        let token = json!({"serviceAccountToken": {
            "audience": names::audience(&self.settings.trust_domain),
            "expirationSeconds": 3600,
            "path": "token",
        }});
        let mesh = json!({"configMap": {"name": names::TRUST_CONFIG_MAP}});
        // what comes later wins: these roots, not the ConfigMap's
        let kubelet = [
            json!({"podCertificate": {
                "signerName": names::SIGNER,
                "keyType": "ECDSAP256",
                "credentialBundlePath": names::CREDENTIAL_FILE,
            }}),
            // by signer: what a kubelet remembers of a name it keeps for five minutes, also when the bundle changes
            json!({"clusterTrustBundle": {
                "signerName": names::SIGNER,
                "labelSelector": {},
                "path": names::ROOTS_FILE,
            }}),
        ];
        let mut sources = vec![token, mesh];
        if self.source == Source::Kubelet {
            sources.extend(kubelet);
        }
        sources
    }
}

/// A container without a preStop hook gets one: it is told to stop when callers have turned to other pods, so that none
/// of their requests meets an application that ends.
fn part_first(container: &mut Value) {
    if container["lifecycle"]["preStop"].is_null() {
        let hook = json!({"httpGet": {"path": names::PARTED_PATH, "port": names::PROXY_ADMIN_PORT, "scheme": "HTTP"}});
        object(container, "lifecycle").insert("preStop".into(), hook);
    }
}

fn access_log(pod: &Value) -> Result<String, Refusal> {
    let wish = annotation(pod, names::ACCESS_LOG_ANNOTATION).unwrap_or("denied");
    if matches!(wish, "all" | "denied" | "off") {
        return Ok(wish.to_owned());
    }
    Err(Refusal::Annotation {
        annotation: names::ACCESS_LOG_ANNOTATION,
        value: wish.to_owned(),
        problem: "none of all, denied, off".to_owned(),
    })
}

fn resources(pod: &Value, settings: &Settings) -> Result<Value, Refusal> {
    let defaults = &settings.resources;
    let mut resources = json!({});
    for (field, kind, name, default) in [
        ("requests", "cpu", names::PROXY_CPU_REQUEST_ANNOTATION, &defaults.cpu_request),
        ("requests", "memory", names::PROXY_MEMORY_REQUEST_ANNOTATION, &defaults.memory_request),
        ("limits", "cpu", names::PROXY_CPU_LIMIT_ANNOTATION, &defaults.cpu_limit),
        ("limits", "memory", names::PROXY_MEMORY_LIMIT_ANNOTATION, &defaults.memory_limit),
    ] {
        let text = annotation(pod, name).unwrap_or(default);
        if text.is_empty() {
            continue;
        }
        if !is_quantity(text) {
            let problem = "not a quantity such as 100m or 64Mi".to_owned();
            return Err(Refusal::Annotation { annotation: name, value: text.to_owned(), problem });
        }
        object(&mut resources, field).insert(kind.to_owned(), json!(text));
    }
    Ok(resources)
}

/// A plain Kubernetes quantity: digits, perhaps a fraction, perhaps a suffix.
fn is_quantity(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = &text[digits.len()..];
    let mut parts = digits.splitn(2, '.');
    let whole = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    parts.next().is_some_and(whole)
        && parts.next().is_none_or(whole)
        && matches!(
            suffix,
            "" | "m" | "k" | "M" | "G" | "T" | "P" | "E" | "Ki" | "Mi" | "Gi" | "Ti" | "Pi" | "Ei"
        )
}

fn number(annotation: &'static str, text: &str) -> Result<u16, Refusal> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| Refusal::Annotation {
        annotation,
        value: text.to_owned(),
        problem: "not a number between 1 and 65535".to_owned(),
    })
}
