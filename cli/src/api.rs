//! What the API server answers, in words: what was asked of it, why it did not work and what to do.

use anyhow::anyhow;

/// Names what was being done when an answer of the API server was none.
pub(crate) trait Doing<T> {
    /// `what` completes "cannot ...".
    fn doing(self, what: &str) -> anyhow::Result<T>;
}

impl<T> Doing<T> for Result<T, kube::Error> {
    fn doing(self, what: &str) -> anyhow::Result<T> {
        self.map_err(|error| anyhow!("cannot {what}: {}", reason(&error)))
    }
}

/// What the API server says of a kind that it does not serve.
const UNKNOWN_KIND: [&str; 2] = ["page not found", "could not find the requested resource"];

/// Why a call did not work, in a line.
pub(crate) fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => match status.code {
            401 => "the api server does not know you; log in again, or name another --context".into(),
            403 => format!("{}; ask for that right, or name another --context", status.message),
            404 if UNKNOWN_KIND.iter().any(|text| status.message.contains(text)) => {
                "the cluster does not know this kind; is the mesh installed? see: byrnie check".into()
            }
            _ => status.message.clone(),
        },
        kube::Error::Service(error) => {
            format!("{}; check --kubeconfig, --context and the network", causes(error.as_ref()))
        }
        error => causes(error),
    }
}

/// An error and what caused it, each said once.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        next = cause.source();
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, message: &str) -> String {
        let status = serde_json::json!({"status": "Failure", "message": message, "code": code});
        let status = serde_json::from_value(status).unwrap();
        let result: Result<(), _> = Err(kube::Error::Api(Box::new(status)));
        result.doing("list pods in shop").unwrap_err().to_string()
    }

    #[test]
    fn what_to_do_is_said() {
        let forbidden = answer(403, r#"pods is forbidden: User "eve" cannot list resource "pods""#);
        assert!(forbidden.starts_with("cannot list pods in shop: pods is forbidden"), "{forbidden}");
        assert!(forbidden.ends_with("name another --context"), "{forbidden}");
        let absent = answer(404, "404 page not found\n");
        assert!(absent.contains("is the mesh installed? see: byrnie check"), "{absent}");
        assert_eq!(answer(404, "namespaces x not found"), "cannot list pods in shop: namespaces x not found");
        assert_eq!(answer(409, "odd"), "cannot list pods in shop: odd");
        assert!(!answer(403, "no").contains("Status {"));
    }
}
