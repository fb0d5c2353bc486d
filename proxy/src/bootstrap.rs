//! What a proxy beside a pod is told at its start: the environment that the injector wrote, and the files that the
//! kubelet keeps current. Read once into types, with errors that name the variable or the file.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use byrnie_identity::{BundleError, TrustBundle};
use byrnie_model::{SpiffeId, TrustDomain};
use thiserror::Error;

use crate::{
    access_log::Level, listener::Listener, metrics::Direction, original_destination::Source, probe::Probe,
    redirect::Redirect, state::PodInfo,
};

/// Where the kubelet puts the token and the trust.
pub const DIRECTORY: &str = "/var/run/byrnie";
const ROOTS_FILE: &str = "roots.pem";
/// Key and certificates from the kubelet.
pub const CREDENTIAL_FILE: &str = "credential.pem";

/// What the environment says.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Whose proxy this is.
    pub pod: PodInfo,
    /// Its ports.
    pub ports: Redirect,
    /// Threads that carry traffic.
    pub workers: usize,
    /// What is logged of requests.
    pub access_log: Level,
    /// How long requests may take to end.
    pub grace: Duration,
    /// The kubelet's probes.
    pub probes: Vec<Probe>,
    /// Where the files are.
    pub directory: PathBuf,
}

/// Where the control plane is and how to know it, as the files say at this moment.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// Its roots.
    pub roots: TrustBundle,
    /// Who must answer.
    pub operator: SpiffeId,
    /// Where certificates are issued.
    pub identity: SocketAddr,
    /// Where the state of the mesh comes from.
    pub discovery: SocketAddr,
}

/// Why a proxy cannot start, or not reach its control plane.
#[derive(Debug, Error)]
pub enum BootstrapError {
    /// A variable that must be there.
    #[error("environment variable {0} is missing; is this container the injector's?")]
    Missing(&'static str),
    /// A variable that cannot be read.
    #[error("environment variable {name} is '{value}': {problem}")]
    Variable {
        /// Which.
        name: &'static str,
        /// What it says.
        value: String,
        /// What is wrong.
        problem: String,
    },
    /// A file that cannot be read.
    #[error("cannot read {path}; is ConfigMap byrnie-trust in this namespace, and is the token projected?")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file with something else in it.
    #[error("{path} says '{text}': {problem}")]
    Content {
        /// Which.
        path: PathBuf,
        /// What it says.
        text: String,
        /// What is wrong.
        problem: String,
    },
    /// Roots that are none.
    #[error("{path}: {source}")]
    Roots {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: BundleError,
    },
}

impl Bootstrap {
    /// Reads the environment, through a function so that tests need no process of their own.
    ///
    /// # Errors
    /// When something is missing or makes no sense.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, BootstrapError> {
        let env = Environment(&variable);
        let ports = Redirect {
            inbound_port: env.or("BYRNIE_INBOUND_PORT", 14143)?,
            outbound_port: env.or("BYRNIE_OUTBOUND_PORT", 14140)?,
            admin_port: env.or("BYRNIE_ADMIN_PORT", 14191)?,
            ..Redirect::default()
        };
        let ips = env.text("BYRNIE_POD_IPS")?;
        let pod = PodInfo {
            name: env.text("BYRNIE_POD_NAME")?,
            namespace: env.text("BYRNIE_POD_NAMESPACE")?,
            uid: env.text("BYRNIE_POD_UID")?,
            ips: addresses(&ips).map_err(|problem| bad("BYRNIE_POD_IPS", ips, &problem))?,
            own_ports: Arc::new(ArcSwap::from_pointee(vec![
                ports.inbound_port,
                ports.outbound_port,
                ports.admin_port,
            ])),
        };
        let probes = env.get("BYRNIE_PROBES").unwrap_or_default();
        let probes = match probes.as_str() {
            "" => Vec::new(),
            json => Probe::list(json).map_err(|problem| bad("BYRNIE_PROBES", json, &problem))?,
        };
        Ok(Self {
            pod,
            ports,
            workers: workers(&env)?,
            access_log: access_log(&variable)?,
            grace: grace(&variable)?,
            probes,
            directory: env.or("BYRNIE_DIRECTORY", PathBuf::from(DIRECTORY))?,
        })
    }

    /// Where workers listen: all addresses, because a redirected connection arrives at whichever it was for. IPv6
    /// only where the system has it.
    pub fn listeners(&self) -> Vec<Listener> {
        let ports =
            [(Direction::Inbound, self.ports.inbound_port), (Direction::Outbound, self.ports.outbound_port)];
        let listener = |(direction, port)| {
            every_address(port).into_iter().map(move |address| Listener {
                direction,
                address,
                source: Source::Redirected,
            })
        };
        ports.into_iter().flat_map(listener).collect()
    }
}

/// `0.0.0.0`, and `::` where there is IPv6.
pub fn every_address(port: u16) -> Vec<SocketAddr> {
    let mut addresses = vec![SocketAddr::from(([0, 0, 0, 0], port))];
    if Path::new("/proc/net/if_inet6").exists() {
        addresses.push(SocketAddr::from(([0u16; 8], port)));
    }
    addresses
}

/// `BYRNIE_ACCESS_LOG`.
///
/// # Errors
/// When it is no level.
pub fn access_log(variable: &impl Fn(&str) -> Option<String>) -> Result<Level, BootstrapError> {
    Environment(variable).or("BYRNIE_ACCESS_LOG", Level::default())
}

/// `BYRNIE_GRACE_SECONDS`.
///
/// # Errors
/// When it is no number.
pub fn grace(variable: &impl Fn(&str) -> Option<String>) -> Result<Duration, BootstrapError> {
    Environment(variable).or("BYRNIE_GRACE_SECONDS", 25).map(Duration::from_secs)
}

fn workers(env: &Environment<'_, impl Fn(&str) -> Option<String>>) -> Result<usize, BootstrapError> {
    match env.or("BYRNIE_WORKERS", 1)? {
        workers @ 1..=64 => Ok(workers),
        other => Err(bad("BYRNIE_WORKERS", other.to_string(), &"must be 1 to 64")),
    }
}

/// The downward API writes `status.podIPs` with commas.
fn addresses(text: &str) -> Result<Vec<IpAddr>, std::net::AddrParseError> {
    text.split(',').map(|ip| ip.trim().parse()).collect()
}

struct Environment<'a, F>(&'a F);

impl<F: Fn(&str) -> Option<String>> Environment<'_, F> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &'static str) -> Result<String, BootstrapError> {
        self.get(name).ok_or(BootstrapError::Missing(name))
    }

    fn or<T: FromStr<Err: ToString>>(&self, name: &'static str, default: T) -> Result<T, BootstrapError> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value.parse().map_err(|problem: T::Err| bad(name, value, &problem)),
        }
    }
}

fn bad(name: &'static str, value: impl Into<String>, problem: &impl ToString) -> BootstrapError {
    BootstrapError::Variable { name, value: value.into(), problem: problem.to_string() }
}

impl ControlPlane {
    /// Reads the files, which another control plane may have replaced since the last time.
    ///
    /// # Errors
    /// When one is missing or makes no sense.
    pub fn read(directory: &Path) -> Result<Self, BootstrapError> {
        let trust_domain: TrustDomain = parsed(directory, "trust-domain")?;
        let path = directory.join(ROOTS_FILE);
        let pem = fs::read(&path).map_err(|source| BootstrapError::File { path: path.clone(), source })?;
        let roots = TrustBundle::from_pem(&trust_domain, &pem)
            .map_err(|source| BootstrapError::Roots { path, source })?;
        Ok(Self {
            trust_domain,
            roots,
            operator: parsed(directory, "operator-id")?,
            identity: parsed(directory, "identity-address")?,
            discovery: parsed(directory, "discovery-address")?,
        })
    }
}

/// The pod's token, which the kubelet renews.
///
/// # Errors
/// When there is none.
pub fn token(directory: &Path) -> Result<String, BootstrapError> {
    text(&directory.join("token"))
}

/// Key and certificates that the kubelet asked for on behalf of this pod, and renews; `None` where it does not.
///
/// # Errors
/// When there is something that cannot be read.
pub fn credential(directory: &Path) -> Result<Option<String>, BootstrapError> {
    let path = directory.join(CREDENTIAL_FILE);
    match fs::read_to_string(&path) {
        Ok(pem) => Ok(Some(pem)),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BootstrapError::File { path, source }),
    }
}

fn text(path: &Path) -> Result<String, BootstrapError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(source) => Err(BootstrapError::File { path: path.to_owned(), source }),
    }
}

fn parsed<T: FromStr<Err: ToString>>(directory: &Path, name: &str) -> Result<T, BootstrapError> {
    let path = directory.join(name);
    let text = text(&path)?;
    text.parse().map_err(|problem: T::Err| BootstrapError::Content {
        path,
        text,
        problem: problem.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(change: &[(&str, &str)]) -> Result<Bootstrap, BootstrapError> {
        let usual = [
            ("BYRNIE_POD_NAME", "web-1"),
            ("BYRNIE_POD_NAMESPACE", "shop"),
            ("BYRNIE_POD_UID", "1234"),
            ("BYRNIE_POD_IPS", "10.0.0.7,fd00::7"),
            ("BYRNIE_PROBES", "[]"),
        ];
        Bootstrap::read(|name| {
            let found = change.iter().chain(&usual).find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_injectors_environment_is_read() {
        let read = read(&[("BYRNIE_WORKERS", "2"), ("BYRNIE_PROBES", r#"[{"tcp":{"port":80}}]"#)]).unwrap();
        assert_eq!((read.pod.name.as_str(), read.workers, read.probes.len()), ("web-1", 2, 1));
        assert_eq!(read.pod.ips, ["10.0.0.7".parse::<IpAddr>().unwrap(), "fd00::7".parse().unwrap()]);
        assert_eq!((read.grace, read.access_log), (Duration::from_secs(25), Level::Denied));
        assert!(read.pod.is_own_listener("10.0.0.7:14143".parse().unwrap()));
        assert!(!read.pod.is_own_listener("10.0.0.8:14143".parse().unwrap()));
        assert!(read.listeners().iter().all(|l| l.source == Source::Redirected));
    }

    #[test]
    fn mistakes_name_the_variable() {
        for (name, value, said) in [
            ("BYRNIE_POD_IPS", "", "environment variable BYRNIE_POD_IPS is missing"),
            ("BYRNIE_POD_IPS", "10.0.0.7,x", "BYRNIE_POD_IPS is '10.0.0.7,x': invalid IP address"),
            ("BYRNIE_WORKERS", "0", "BYRNIE_WORKERS is '0': must be 1 to 64"),
            ("BYRNIE_WORKERS", "two", "BYRNIE_WORKERS is 'two': invalid digit"),
            ("BYRNIE_ACCESS_LOG", "some", "BYRNIE_ACCESS_LOG is 'some': 'some' is none of all, denied, off"),
            ("BYRNIE_PROBES", "{}", "BYRNIE_PROBES is '{}': "),
        ] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn files_are_read_again_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        let error = || ControlPlane::read(directory.path()).unwrap_err().to_string();
        assert!(error().contains("trust-domain; is ConfigMap byrnie-trust"));
        let key = rcgen::KeyPair::generate().unwrap();
        write("trust-domain", "cluster.local\n");
        write("roots.pem", &rcgen::CertificateParams::default().self_signed(&key).unwrap().pem());
        write("operator-id", "spiffe://cluster.local/ns/byrnie-system/sa/byrnie-operator");
        write("identity-address", "10.96.0.5");
        assert!(error().contains("identity-address says '10.96.0.5': invalid socket address"));
        write("identity-address", "10.96.0.5:14200");
        write("discovery-address", "10.96.0.5:14201");
        assert_eq!(ControlPlane::read(directory.path()).unwrap().discovery.port(), 14201);
        write("discovery-address", "[fd00::5]:14201");
        assert!(ControlPlane::read(directory.path()).unwrap().discovery.is_ipv6());
        assert!(token(directory.path()).is_err());
        write("token", "abc\n");
        assert_eq!(token(directory.path()).unwrap(), "abc");
    }
}
