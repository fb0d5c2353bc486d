//! Names of Kubernetes objects as the mesh refers to them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A namespaced object, written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectName {
    /// Namespace, a DNS-1123 label.
    pub namespace: String,
    /// Name, a DNS-1123 subdomain.
    pub name: String,
}

/// One port of a Service, written `namespace/name:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServicePort {
    /// The Service.
    pub service: ObjectName,
    /// The Service's own port (not its targetPort), 1..=65535.
    pub port: u16,
}

impl ObjectName {
    /// Puts a name together.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl ServicePort {
    /// Puts a name together.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>, port: u16) -> Self {
        Self { service: ObjectName::new(namespace, name), port }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}
