//! The guards of the state machine by name. Every one is in force; only a test can take one out, to see what it is for.

/// Why something must not happen yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Guard {
    /// A root is in the bundle before it signs.
    Stage = 1,
    /// It signs when every live proxy trusts it.
    BundlesAcked = 1 << 1,
    /// The root before goes when no live proxy shows a certificate of it.
    LeavesAcked = 1 << 2,
    /// Nothing that was signed or heard before a phase is on its way when the phase ends.
    Dwell = 1 << 3,
    /// Nothing goes on while the leader may not know of every pod.
    Complete = 1 << 5,
    /// A rotation begins when every proxy has the state that it begins from.
    Together = 1 << 6,
    /// What has no key does not sign.
    Keys = 1 << 7,
    /// A state that is older than what proxies have goes nowhere before it was brought in line with them.
    Recovery = 1 << 8,
    /// Nothing is signed from the moment on at which that was seen, and what is on its way arrives first.
    Freeze = 1 << 9,
}

/// Those in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Guards(u16);

impl Guards {
    /// What the operator runs with.
    pub(super) const ALL: Self = Self(u16::MAX);

    pub(super) fn has(self, guard: Guard) -> bool {
        self.0 & guard as u16 != 0
    }

    #[cfg(test)]
    pub(super) fn without(guard: Guard) -> Self {
        Self(!(guard as u16))
    }
}
