//! Operators that end at once, and how long it takes until every proxy has a stream with everything on it again.

use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    journal::{Events, Sight, since},
    operator::Operator,
};

/// A stream that has not ended by then was another replica's.
const QUIET: Duration = Duration::from_secs(4);

/// What came of it.
#[derive(Serialize)]
pub(crate) struct Outcome {
    /// Streams that ended.
    pub(crate) ended: usize,
    /// From the order to end the operators until the last stream was complete again.
    pub(crate) seconds: f64,
}

/// Ends so many replicas and waits.
pub(crate) async fn after_end_of(
    operator: &Operator,
    replicas: usize,
    streams: usize,
    events: &mut Events,
    patience: Duration,
) -> Result<Outcome> {
    operator.ready(2).await?;
    let began = Instant::now();
    operator.end(replicas).await?;
    let (mut ended, mut last) = (vec![false; streams], began);
    loop {
        let all = ended.iter().all(|ended| *ended);
        let enough = if replicas == 1 { since(began) >= QUIET } else { all };
        if enough && events.down() == 0 {
            break;
        }
        if since(began) > patience {
            bail!("{} of {streams} streams are not up again; {}", events.down(), events.trouble());
        }
        let until = (began + patience).min(Instant::now() + QUIET);
        let Some(event) = events.next(until).await else { continue };
        match event.what {
            Sight::Down => ended[event.proxy] = true,
            Sight::Up => last = event.at,
            Sight::Change { .. } | Sight::Trouble(_) => {}
        }
    }
    operator.ready(2).await?;
    let ended = ended.iter().filter(|ended| **ended).count();
    Ok(Outcome { ended, seconds: (last - began).as_secs_f64() })
}
