//! Which roots the open mesh connections stand on, counted over all workers.
//!
//! A rotation lets a root go when nothing stands on it any more. Costs a lock per connection, none per request.

use std::{collections::BTreeMap, sync::Arc};

use byrnie_identity::{RootId, Standing};
use parking_lot::Mutex;

/// The counts.
#[derive(Debug, Default)]
pub struct Standings(Mutex<BTreeMap<RootId, u64>>);

/// One connection, counted until this is dropped.
#[derive(Debug)]
pub struct Counted {
    /// What it stands on.
    pub standing: Standing,
    all: Arc<Standings>,
}

impl Standings {
    /// Counts a connection in.
    pub fn count(self: &Arc<Self>, standing: Standing) -> Counted {
        let mut roots = self.0.lock();
        for root in [standing.own, standing.peer] {
            *roots.entry(root).or_default() += 1;
        }
        drop(roots);
        Counted { standing, all: self.clone() }
    }

    /// The roots that connections stand on, other than this one.
    pub fn besides(&self, own: Option<RootId>) -> Vec<RootId> {
        self.0.lock().keys().filter(|root| Some(**root) != own).copied().collect()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut roots = self.all.0.lock();
        for root in [self.standing.own, self.standing.peer] {
            if let Some(count) = roots.get_mut(&root) {
                *count -= 1;
                if *count == 0 {
                    roots.remove(&root);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_known_for_as_long_as_anything_stands_on_it() {
        let all = Arc::new(Standings::default());
        let (a, b) = ([1; 32], [2; 32]);
        let old = all.count(Standing { own: a, peer: a });
        let mixed = all.count(Standing { own: b, peer: a });
        assert_eq!((all.besides(Some(a)), all.besides(None)), (vec![b], vec![a, b]));
        drop(old);
        assert_eq!(all.besides(Some(b)), [a]);
        drop(mixed);
        assert!(all.besides(None).is_empty());
    }
}
