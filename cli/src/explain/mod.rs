//! `byrnie explain`: would this call pass, and which rule decides?
//!
//! [`fetch`] reads the cluster, [`decide`] finds the [`answer`] (pure, with the proxies' own evaluator), [`render`]
//! prints it.

mod answer;
mod decide;
mod fetch;
mod ground;
mod mismatch;
mod mtls;
mod question;
mod render;
mod target;
#[cfg(test)]
mod tests;
mod world;

use std::process::ExitCode;

use byrnie_model::ObjectName;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use kube::Client;

use self::{
    answer::Verdict,
    question::{Call, Caller, HttpCall, Question, To},
};
use crate::{args::Format, output};

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// Who calls: a pod in the mesh that runs as this ServiceAccount
    #[arg(long, value_name = "NAMESPACE/SERVICEACCOUNT", value_parser = question::account)]
    #[arg(required_unless_present = "from_plaintext", conflicts_with = "from_plaintext")]
    from: Option<ObjectName>,
    /// Who calls: somebody outside the mesh, in plaintext
    #[arg(long)]
    from_plaintext: bool,
    /// What is called, a Service or NAMESPACE/pod/NAME[:PORT]; the port by number or name
    ///
    /// Of a Service, its own port; of a pod, the container's. It may be left out where there is only one.
    #[arg(long, value_name = "NAMESPACE/SERVICE[:PORT]")]
    to: To,
    /// Method of the request
    #[arg(long, value_name = "METHOD", default_value = "GET", help_heading = REQUEST)]
    method: Method,
    /// Path of the request; a query is cut, rules do not see it
    #[arg(long, value_name = "PATH", default_value = "/", value_parser = question::path, help_heading = REQUEST)]
    path: String,
    /// Host of the request [default: SERVICE.NAMESPACE.svc:PORT, or the pod's address]
    #[arg(long, value_name = "HOST", help_heading = REQUEST)]
    host: Option<String>,
    /// Header of the request; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = question::header, help_heading = REQUEST)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Not a request but bytes that are no HTTP
    #[arg(long, conflicts_with_all = ["method", "path", "host", "headers"], help_heading = REQUEST)]
    tcp: bool,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

const REQUEST: &str = "Request";

impl ExplainArgs {
    fn question(&self) -> Question {
        let from = self.from.clone().map_or(Caller::Plaintext, Caller::Account);
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        let call = if self.tcp {
            Call::Tcp
        } else {
            let (method, path, host) = (self.method.clone(), self.path.clone(), self.host.clone());
            Call::Http(HttpCall { method, path, host, headers })
        };
        Question { from, to: self.to.clone(), call }
    }
}

pub(crate) async fn run(client: &Client, args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let question = args.question();
    let objects = fetch::objects(client, &question).await?;
    let explanation = decide::explain(&objects, &question)?;
    let text = match args.output {
        Format::Text => render::text(&explanation),
        Format::Json => output::json(&explanation)?,
    };
    output::print(&text)?;
    Ok(match explanation.verdict {
        Verdict::Allowed => ExitCode::SUCCESS,
        Verdict::Refused => ExitCode::FAILURE,
    })
}
