//! Which TrafficSplit is in charge of a Service.

use std::sync::Arc;

use super::{facts::Split, world::Space};

/// The oldest that was understood, then the first by name.
pub fn in_charge<'a>(space: &'a Space, service: &str) -> Option<(&'a String, &'a Arc<Split>)> {
    let about = |split: &Split| split.shares.as_ref().is_ok_and(|shares| shares.service == service);
    space
        .splits
        .iter()
        .filter(|(_, split)| about(split))
        .min_by_key(|(name, split)| (split.created, name.as_str()))
}
