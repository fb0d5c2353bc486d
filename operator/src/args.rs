//! The command line, each option also an environment variable.

use std::{net::IpAddr, time::Duration};

use byrnie_crds::duration;
use byrnie_model::TrustDomain;
use clap::Parser;

use crate::trust::rotation::SHORTEST_DWELL;

/// The control plane of the Byrnie service mesh.
#[derive(Parser, Debug, Clone)]
#[command(name = "byrnie-operator", version)]
pub struct Args {
    /// The trust domain, the first part of every identity; used when MeshTrust "default" does not exist yet
    #[arg(long, env = "BYRNIE_TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: TrustDomain,
    /// The namespace the operator runs in: its Secrets, its Lease and its Service are there
    #[arg(long, env = "BYRNIE_NAMESPACE", default_value = "byrnie-system")]
    pub namespace: String,
    /// The operator's own ServiceAccount
    #[arg(long, env = "BYRNIE_SERVICE_ACCOUNT", default_value = "byrnie-operator")]
    pub service_account: String,
    /// The operator's Service, whose cluster IP the proxies are told
    #[arg(long, env = "BYRNIE_SERVICE", default_value = "byrnie-operator")]
    pub service: String,
    /// Address that proxies are told instead of the Service's cluster IP, for an operator outside the cluster
    #[arg(long, env = "BYRNIE_ADVERTISE")]
    pub advertise: Option<IpAddr>,
    /// This replica's name among its peers; the pod's name
    #[arg(long, env = "BYRNIE_REPLICA", default_value = "byrnie-operator")]
    pub replica: String,
    /// Address to listen on
    #[arg(long, env = "BYRNIE_LISTEN", default_value = "::")]
    pub listen: IpAddr,
    /// Port of the identity service
    #[arg(long, env = "BYRNIE_IDENTITY_PORT", default_value_t = 14200)]
    pub identity_port: u16,
    /// Port of the discovery service
    #[arg(long, env = "BYRNIE_DISCOVERY_PORT", default_value_t = 14201)]
    pub discovery_port: u16,
    /// Port of /live, /ready and /metrics
    #[arg(long, env = "BYRNIE_ADMIN_PORT", default_value_t = 14291)]
    pub admin_port: u16,
    /// How long each phase of a rotation of the root lasts at least, as in 60s; 15s or longer
    #[arg(long, env = "BYRNIE_ROTATION_DWELL", default_value = "60s", value_parser = dwell)]
    pub rotation_dwell: Duration,
    /// Evict pods of meshed namespaces that run without a proxy, so that their owners make them anew, one at a time
    #[arg(long, env = "BYRNIE_EVICT_UNINJECTED")]
    pub evict_uninjected: bool,
    /// What is logged, as in `info,byrnie_operator=debug`
    #[arg(long, env = "BYRNIE_LOG", default_value = "info")]
    pub log: String,
}

fn dwell(text: &str) -> Result<Duration, String> {
    let dwell = duration::parse(text).ok_or(duration::EXPLAINED)?;
    if dwell < SHORTEST_DWELL {
        return Err(format!(
            "{SHORTEST_DWELL:?} is the shortest: answers that were signed before may be on their way"
        ));
    }
    Ok(dwell)
}
