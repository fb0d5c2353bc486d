//! The injector's command line; every flag is an environment variable too.

use std::net::SocketAddr;

use clap::Parser;

use crate::inject::{Resources, Settings, probes};

/// Admission webhooks of the Byrnie service mesh.
#[derive(Debug, Parser)]
#[command(name = "byrnie-injector", version)]
pub struct Args {
    /// Address of the webhooks (HTTPS).
    #[arg(long, env = "BYRNIE_LISTEN", default_value = "[::]:8443")]
    pub listen: SocketAddr,
    /// Address of /ready, /live and /metrics (HTTP).
    #[arg(long, env = "BYRNIE_ADMIN_LISTEN", default_value = "[::]:14291")]
    pub admin_listen: SocketAddr,
    /// Namespace of the control plane.
    #[arg(long, env = "BYRNIE_NAMESPACE", default_value = "byrnie-system")]
    pub namespace: String,
    /// Name of the Service in front of this webhook.
    #[arg(long, env = "BYRNIE_SERVICE", default_value = "byrnie-injector")]
    pub service: String,
    /// Name of the mutating and the validating webhook configuration.
    #[arg(long, env = "BYRNIE_WEBHOOK_CONFIGURATION", default_value = "byrnie-injector")]
    pub webhook_configuration: String,
    /// Trust domain of the mesh.
    #[arg(long, env = "BYRNIE_TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: byrnie_model::TrustDomain,
    /// Image of proxy and init container.
    #[arg(long, env = "BYRNIE_PROXY_IMAGE")]
    pub proxy_image: String,
    /// When the proxy image is pulled.
    #[arg(long, env = "BYRNIE_PROXY_IMAGE_PULL_POLICY", default_value = "IfNotPresent",
          value_parser = ["IfNotPresent", "Always", "Never"])]
    pub proxy_image_pull_policy: String,
    /// Log filter of proxies.
    #[arg(long, env = "BYRNIE_PROXY_LOG", default_value = "info")]
    pub proxy_log: String,
    /// CPU request of proxies, a quantity; empty for none.
    #[arg(long, env = "BYRNIE_PROXY_CPU_REQUEST", default_value = "10m")]
    pub proxy_cpu_request: String,
    /// CPU limit of proxies, a quantity; empty for none.
    #[arg(long, env = "BYRNIE_PROXY_CPU_LIMIT", default_value = "")]
    pub proxy_cpu_limit: String,
    /// Memory request of proxies, a quantity; empty for none.
    #[arg(long, env = "BYRNIE_PROXY_MEMORY_REQUEST", default_value = "16Mi")]
    pub proxy_memory_request: String,
    /// Memory limit of proxies, a quantity; empty for none.
    #[arg(long, env = "BYRNIE_PROXY_MEMORY_LIMIT", default_value = "")]
    pub proxy_memory_limit: String,
    /// Log filter of the injector itself, e.g. info or byrnie_injector=debug.
    #[arg(long, env = "BYRNIE_LOG", default_value = "info")]
    pub log: String,
}

impl Args {
    /// Settings of injected pods.
    pub fn settings(&self) -> Settings {
        Settings {
            hook_key: probes::random_key,
            proxy_image: self.proxy_image.clone(),
            image_pull_policy: self.proxy_image_pull_policy.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_domain: self.trust_domain.to_string(),
            log: self.proxy_log.clone(),
            resources: Resources {
                cpu_request: self.proxy_cpu_request.clone(),
                cpu_limit: self.proxy_cpu_limit.clone(),
                memory_request: self.proxy_memory_request.clone(),
                memory_limit: self.proxy_memory_limit.clone(),
            },
        }
    }

    /// DNS names that the API server may call the webhook by.
    pub fn dns_names(&self) -> Vec<String> {
        let name = format!("{}.{}.svc", self.service, self.namespace);
        vec![name.clone(), format!("{name}.cluster.local")]
    }
}
