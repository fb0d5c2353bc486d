//! Conditions: how they are set so that they change only when something changed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Whether the object is valid and in charge of what it names.
pub const ACCEPTED: &str = "Accepted";
/// Whether what it refers to exists.
pub const RESOLVED_REFS: &str = "ResolvedRefs";
/// Whether all live proxies have it in force.
pub const PROGRAMMED: &str = "Programmed";
/// Whether a trust domain can issue certificates.
pub const READY: &str = "Ready";

/// Whether a trust domain's root is being exchanged, and who holds that up.
pub const ROTATING: &str = "Rotating";
/// MeshTrust: whether all that spec.federation lists is believed; absent where it lists nothing.
pub const FEDERATED: &str = "Federated";

/// A condition before it is known since when it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed<'a> {
    /// As in [`ACCEPTED`].
    pub type_: &'a str,
    /// `None` is Unknown.
    pub status: Option<bool>,
    /// CamelCase, for machines.
    pub reason: &'a str,
    /// For people.
    pub message: String,
}

/// Puts an observation among the conditions. `lastTransitionTime` moves only when the status flips.
pub fn set(conditions: &mut Vec<Condition>, observed: Observed<'_>, generation: Option<i64>, now: Time) {
    let status = match observed.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let place = conditions.iter().position(|c| c.type_ == observed.type_);
    let since = place
        .map(|at| &conditions[at])
        .filter(|c| c.status == status)
        .map(|c| c.last_transition_time.clone());
    let condition = Condition {
        type_: observed.type_.into(),
        status: status.into(),
        reason: observed.reason.into(),
        message: observed.message,
        observed_generation: generation,
        last_transition_time: since.unwrap_or(now),
    };
    match place {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

/// Whether a condition is there and True.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn at(seconds: i64) -> Time {
        Time(Timestamp::from_second(seconds).unwrap())
    }

    fn observed(status: Option<bool>, message: &str) -> Observed<'_> {
        Observed { type_: ACCEPTED, status, reason: "Accepted", message: message.into() }
    }

    #[test]
    fn the_time_moves_only_when_the_status_flips() {
        let mut conditions = Vec::new();
        set(&mut conditions, observed(Some(true), "fine"), Some(1), at(10));
        set(&mut conditions, observed(Some(true), "still fine"), Some(2), at(20));
        assert_eq!(conditions[0].last_transition_time, at(10));
        assert_eq!(
            (conditions[0].message.as_str(), conditions[0].observed_generation),
            ("still fine", Some(2))
        );
        assert!(is_true(&conditions, ACCEPTED) && !is_true(&conditions, PROGRAMMED));
        set(&mut conditions, observed(Some(false), "no"), Some(3), at(30));
        assert_eq!((conditions.len(), conditions[0].status.as_str()), (1, "False"));
        assert_eq!(conditions[0].last_transition_time, at(30));
        set(&mut conditions, observed(None, "who knows"), Some(3), at(40));
        assert_eq!(conditions[0].status, "Unknown");
    }
}
