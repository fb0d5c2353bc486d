//! `byrnie check`: looks at the whole mesh, one finding after another.

mod control_plane;
mod namespaces;
mod objects;
mod report;

use std::process::ExitCode;

use kube::Client;

pub(crate) use self::report::Finding;
use crate::args::Format;

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// Namespace of the control plane
    #[arg(long, default_value = byrnie_crds::names::SYSTEM_NAMESPACE, value_name = "NAMESPACE")]
    system_namespace: String,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) async fn run(client: &Client, args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let mut findings = vec![control_plane::api_server(client).await?];
    findings.extend(control_plane::kinds(client).await?);
    findings.extend(control_plane::deployments(client, &args.system_namespace).await?);
    findings.extend(control_plane::webhooks(client).await?);
    if findings.iter().all(|finding| !finding.is_failed()) {
        findings.push(control_plane::injection(client).await);
        findings.extend(objects::trust(client).await?);
        findings.extend(objects::policies(client).await?);
        findings.extend(objects::splits(client).await?);
        findings.extend(namespaces::all(client).await?);
    }
    report::print(&findings, args.output)?;
    Ok(if findings.iter().any(Finding::is_failed) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
