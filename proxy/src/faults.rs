//! What a policy has done to requests on purpose: some later, some not at all.

use byrnie_model::Faults;
use http::StatusCode;
use tokio::time::sleep;

use crate::reject::{self, Reject};

/// Lets time pass, or ends the request, by chance.
pub async fn inject(faults: Faults) -> Result<(), Reject> {
    let hit = |percent: u32| fastrand::u32(..100) < percent;
    if let Some((_, time)) = faults.delay.filter(|(percent, _)| hit(*percent)) {
        sleep(time).await;
    }
    match faults.abort.filter(|(percent, _)| hit(*percent)) {
        Some((_, status)) => {
            let status = StatusCode::from_u16(status).unwrap_or(reject::FAULT.status);
            Err(Reject { status, ..reject::FAULT })
        }
        None => Ok(()),
    }
}
