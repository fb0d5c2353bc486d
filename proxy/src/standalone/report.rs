//! What has become of the file: which version of it is in force, and why not the latest. For the admin port, the
//! metrics and the log.

use std::{
    fmt::Write,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::problem::Problems;

/// Written by the one who reloads, read by the admin port.
#[derive(Debug)]
pub struct Report {
    file: PathBuf,
    versions: AtomicU64,
    since: ArcSwap<Instant>,
    refused: ArcSwapOption<String>,
    waiting: ArcSwap<Vec<&'static str>>,
}

impl Report {
    pub(super) fn new(file: PathBuf) -> Self {
        let since = ArcSwap::from_pointee(Instant::now());
        Self { file, versions: AtomicU64::new(0), since, refused: None.into(), waiting: ArcSwap::default() }
    }

    /// Another version is in force, except for these fields, which take a restart.
    pub(super) fn applied(&self, waiting: Vec<&'static str>) -> u64 {
        self.waiting.store(waiting.into());
        self.since.store(Instant::now().into());
        self.refused.store(None);
        self.versions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The file is not used; whether for other reasons than the last time.
    pub(super) fn refused(&self, why: &Problems) -> bool {
        let why = why.to_string();
        self.refused.swap(Some(why.clone().into())).is_none_or(|before| *before != why)
    }

    /// Whether the file as it is now is in force.
    pub fn is_current(&self) -> bool {
        self.refused.load().is_none()
    }

    /// For people.
    pub fn text(&self) -> String {
        let (version, since) = (self.versions.load(Ordering::Relaxed), self.since.load().elapsed().as_secs());
        let mut text = format!("file: {}\nin force: version {version}, for {since} s\n", self.file.display());
        for field in &**self.waiting.load() {
            // a String takes all that is written to it
            let _ = writeln!(text, "takes a restart: {field}");
        }
        if let Some(why) = &*self.refused.load() {
            let _ = writeln!(text, "the file as it is now is not used:\n{why}");
        }
        text
    }
}
