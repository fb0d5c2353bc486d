//! `byrnie check`: looks at the whole mesh, one thing after another, and says what to do.

mod control_plane;
mod finding;
mod namespaces;
mod objects;
mod render;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use kube::Client;

use self::finding::{Report, State};
use crate::{args::Format, output};

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
    let report = look(client, &args.system_namespace).await;
    let text = match args.output {
        Format::Text => render::text(&report),
        Format::Json => output::json(&report)?,
    };
    output::print(&text)?;
    Ok(match report.state {
        State::Ok | State::Warning => ExitCode::SUCCESS,
        State::Failed => ExitCode::FAILURE,
        State::Unknown => ExitCode::from(2),
    })
}

/// From the ground up. What cannot be well because of what it stands on is not looked at.
async fn look(client: &Client, system: &str) -> Report {
    use self::{control_plane as plane, finding::area};
    let mut report = Report::default();
    report.add(area::CONTROL_PLANE, "kubernetes api server", plane::api_server(client).await);
    if report.state == State::Unknown {
        return report;
    }
    report.add(area::CONTROL_PLANE, "kinds", plane::kinds(client).await);
    report.add(area::CONTROL_PLANE, "deployments", plane::deployments(client, system).await);
    if report.state == State::Failed && plane::is_absent(&report) {
        return report;
    }
    report.add(area::CONTROL_PLANE, "webhooks", plane::webhooks(client, system).await);
    if report.state != State::Failed {
        report.add(area::CONTROL_PLANE, plane::INJECTION, plane::injection(client).await);
    }
    report.add(area::TRUST, "meshtrust", objects::trust(client, system).await);
    report.add(area::OBJECTS, "meshpolicies", objects::policies(client, system).await);
    report.add(area::OBJECTS, "trafficsplits", objects::splits(client, system).await);
    report.add(area::NAMESPACES, "all", namespaces::all(client, system).await);
    report
}
