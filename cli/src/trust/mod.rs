//! `byrnie trust`: how the mesh's roots stand, and what people may want of their rotation.

mod progress;
mod render;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use byrnie_crds::{MeshTrust, names};
use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    api::Doing,
    args::Format,
    output::{self, bold},
};

/// What the API server calls the writer of these changes.
const MANAGER: &str = "byrnie";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum TrustCommand {
    /// Roots, who signs, how far a rotation is and what it waits for
    #[command(
        after_help = "Exit codes: 0 certificates are issued, 1 they are not, 2 it could not be found out."
    )]
    Status {
        /// How to print
        #[arg(long, short, value_enum, default_value_t)]
        output: Format,
    },
    /// Ask for another root now; it happens by itself at half of the root's life
    ///
    /// Nothing is restarted and no request is lost: a step is taken when every proxy is ready for it.
    #[command(
        after_help = "Exit codes: 0 asked for (with --wait: done), 1 it stopped, 2 it could not be asked for."
    )]
    Rotate {
        /// Show the progress, until the new root is the only one
        #[arg(long, short)]
        wait: bool,
    },
    /// Take back a rotation that is under way, and begin none until `byrnie trust rotate`
    Abort,
    /// A root's key may be in wrong hands: put it out of force within two minutes
    ///
    /// Another root takes its place at once. Connections that stand on the compromised one end, and a proxy that cannot be
    /// reached in time is without the mesh until it has asked for everything anew.
    Compromised {
        /// The root's id, or its beginning: see `byrnie trust status`
        #[arg(value_name = "ID", value_parser = root_id)]
        root: String,
        /// Show the progress, until it is out of force
        #[arg(long, short)]
        wait: bool,
    },
}

pub(crate) async fn run(client: &Client, command: &TrustCommand) -> anyhow::Result<ExitCode> {
    let trust = Trust { api: Api::all(client.clone()) };
    match command {
        TrustCommand::Status { output } => trust.status(*output).await,
        TrustCommand::Rotate { wait } => trust.rotate(*wait).await,
        TrustCommand::Abort => trust.abort().await,
        TrustCommand::Compromised { root, wait } => trust.compromised(root, *wait).await,
    }
}

struct Trust {
    api: Api<MeshTrust>,
}

impl Trust {
    async fn get(&self) -> anyhow::Result<MeshTrust> {
        self.api.get(names::MESH_TRUST).await.doing("read MeshTrust default")
    }

    async fn status(&self, format: Format) -> anyhow::Result<ExitCode> {
        let object = self.get().await?;
        output::print(&match format {
            Format::Text => render::status(&object, Timestamp::now()),
            Format::Json => output::json(&render::Report::of(&object))?,
        })?;
        Ok(if render::is_ready(&object) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn rotate(&self, wait: bool) -> anyhow::Result<ExitCode> {
        let before = self.get().await?;
        let request = Timestamp::now().to_string();
        self.change(&json!({"rotation": {"request": request, "abort": null}})).await?;
        output::print("asked for another root\n")?;
        self.perhaps_wait(wait, &before, progress::is_rotated).await
    }

    async fn abort(&self) -> anyhow::Result<ExitCode> {
        self.change(&json!({"rotation": {"abort": true}})).await?;
        output::print(
            "a rotation that is under way is taken back; `byrnie trust rotate` asks for one again\n",
        )?;
        Ok(ExitCode::SUCCESS)
    }

    async fn compromised(&self, root: &str, wait: bool) -> anyhow::Result<ExitCode> {
        let before = self.get().await?;
        let id = render::find(&before, root)?;
        let mut all = before.spec.read().map(|trust| trust.compromised.clone()).unwrap_or_default();
        if !all.contains(&id) {
            all.push(id.clone());
        }
        self.change(&json!({"compromised": all})).await?;
        output::print(&format!("root {} goes within two minutes\n", bold(render::short(&id))))?;
        self.perhaps_wait(wait, &before, progress::is_out_of_force(id)).await
    }

    async fn change(&self, spec: &Value) -> anyhow::Result<()> {
        let patch = json!({ "spec": spec });
        let parameters = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let patched = self.api.patch(names::MESH_TRUST, &parameters, &Patch::Merge(&patch)).await;
        patched.map(drop).doing("change MeshTrust default")
    }

    async fn perhaps_wait(
        &self,
        wait: bool,
        before: &MeshTrust,
        done: impl Fn(&MeshTrust, &MeshTrust) -> bool,
    ) -> anyhow::Result<ExitCode> {
        if !wait {
            output::print("see how far it is: byrnie trust status\n")?;
            return Ok(ExitCode::SUCCESS);
        }
        progress::show(&self.api, before, done).await
    }
}

fn root_id(text: &str) -> Result<String, String> {
    let is_hex = text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
    if is_hex && (8..=64).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("an id is 8 to 64 of the characters 0-9 and a-f, as `byrnie trust status` shows it".into())
    }
}
