//! The operator's replicas: what they use, by the kernel's accounting, and how they are ended.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use byrnie_crds::names::{OPERATOR, SYSTEM_NAMESPACE};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};
use tokio::time::{Instant, sleep};

/// The unit of /proc/PID/stat, which Linux has fixed for programs.
const TICKS: f64 = 100.0;

/// See the module.
pub(crate) struct Operator {
    pods: Api<Pod>,
}

/// What all replicas have used.
pub(crate) struct Usage {
    /// Since they began.
    pub(crate) cpu_seconds: f64,
    /// Of the larger one.
    pub(crate) rss_mib: f64,
    /// Its highest, of the larger one.
    pub(crate) peak_mib: f64,
    /// Of everything on the machine: busy, and all.
    machine: (f64, f64),
}

impl Usage {
    /// Which part of the machine's CPU was busy since then.
    pub(crate) fn busy_since(&self, before: &Self) -> f64 {
        (self.machine.0 - before.machine.0) / (self.machine.1 - before.machine.1).max(1.0)
    }
}

impl Operator {
    pub(crate) fn new(client: Client) -> Self {
        Self { pods: Api::namespaced(client, SYSTEM_NAMESPACE) }
    }

    /// Adds up all replicas.
    pub(crate) async fn usage(&self) -> Result<Usage> {
        let pods = self.ready(1).await?;
        let mut usage = Usage { cpu_seconds: 0.0, rss_mib: 0.0, peak_mib: 0.0, machine: machine()? };
        for pod in &pods {
            let uid = pod.uid().context("pod without UID")?;
            let process = process(&uid).with_context(|| format!("no process of {} here", pod.name_any()))?;
            let status = fs::read_to_string(format!("{process}/status"))?;
            usage.rss_mib = usage.rss_mib.max(mib(&status, "VmRSS:")?);
            usage.peak_mib = usage.peak_mib.max(mib(&status, "VmHWM:")?);
            usage.cpu_seconds += cpu(&fs::read_to_string(format!("{process}/stat"))?)?;
        }
        Ok(usage)
    }

    /// Ends so many replicas at once, without any grace. They come back as other pods.
    pub(crate) async fn end(&self, count: usize) -> Result<()> {
        let pods = self.ready(2).await?;
        for pod in pods.iter().take(count) {
            self.pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await?;
        }
        Ok(())
    }

    /// Waits until at least so many are ready.
    pub(crate) async fn ready(&self, count: usize) -> Result<Vec<Pod>> {
        let until = Instant::now() + Duration::from_mins(1);
        let ours = ListParams::default().labels(&format!("app.kubernetes.io/name={OPERATOR}"));
        loop {
            let mut pods = self.pods.list(&ours).await?.items;
            pods.retain(|pod| pod.metadata.deletion_timestamp.is_none() && is_ready(pod));
            if pods.len() >= count {
                return Ok(pods);
            }
            ensure!(Instant::now() < until, "{} of {count} operators are ready", pods.len());
            sleep(Duration::from_millis(200)).await;
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The directory in /proc of the operator in a pod; the kubelet names cgroups by UIDs.
fn process(uid: &str) -> Option<String> {
    let in_path = uid.replace('-', "_");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let path = entry.path().to_str()?.to_owned();
        let cgroup = fs::read_to_string(format!("{path}/cgroup")).ok()?;
        let command = fs::read_to_string(format!("{path}/cmdline")).ok()?;
        let ours = cgroup.contains(uid) || cgroup.contains(&in_path);
        (ours && command.contains(OPERATOR)).then_some(path)
    })
}

fn mib(status: &str, field: &str) -> Result<f64> {
    let line =
        status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// User and system time; the command's name may have spaces.
fn cpu(stat: &str) -> Result<f64> {
    let (_, after) = stat.rsplit_once(')').context("no command in stat")?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks = |index: usize| Ok::<f64, anyhow::Error>(fields.get(index).context("short stat")?.parse()?);
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

fn machine() -> Result<(f64, f64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("empty /proc/stat")?;
    let numbered: BTreeMap<usize, f64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .enumerate()
        .filter_map(|(index, text)| Some((index, text.parse().ok()?)))
        .collect();
    let all: f64 = numbered.values().sum();
    let idle: f64 = [3, 4].iter().filter_map(|index| numbered.get(index)).sum();
    Ok((all - idle, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let of_mib = mib("Name:\tx\nVmHWM:\t  20480 kB\nVmRSS:\t  10240 kB\n", "VmRSS:").unwrap();
        assert!((of_mib - 10.0).abs() < 1e-9, "{of_mib}");
        let stat = "12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0";
        let seconds = cpu(stat).unwrap();
        assert!((seconds - 2.0).abs() < 1e-9, "{seconds}");
    }
}
