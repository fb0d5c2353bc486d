//! The gRPC service Identity: one request from limit to log line, in order.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use byrnie_api::v1::{IssueRequest, IssueResponse, identity_server::Identity};
use byrnie_crds::names;
use byrnie_model::{SpiffeId, TrustDomain};
use rcgen::SubjectPublicKeyInfo;
use thiserror::Error;
use tokio::time::{Instant, sleep};
use tonic::{Code, Request, Response, Status, metadata::MetadataValue};
use tracing::warn;

use super::{
    Facts,
    limit::{Limit, PATIENCE},
    token::{self, Claim, PodError, TokenError},
};
use crate::{
    api_call::ApiError,
    metrics::{Metrics, Outcome},
    rate::TooMany,
    serve::PeerAddress,
    trust::{
        AuthorityError,
        csr::{self, CsrError},
        current::Stale,
    },
};

/// A projected token has about 1 KiB.
const MAX_TOKEN: usize = 16 * 1024;
/// Whoever asks too often is not told so at once: a connection has few streams, and while they wait it is quiet.
const SLOW_REFUSAL: Duration = Duration::from_secs(1);

/// See the module.
pub struct Issuance<F> {
    facts: F,
    domain: TrustDomain,
    audience: String,
    limit: Limit,
    metrics: Metrics,
}

/// Why there is no certificate.
#[derive(Debug, Error)]
enum Refusal {
    #[error("too many requests for certificates; try again in {} ms", .0.retry_after.as_millis())]
    TooMany(TooMany),
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error("token is missing or longer than {MAX_TOKEN} bytes")]
    TokenLength,
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("there is no pod {namespace}/{name} with UID {uid} yet; try again")]
    NoPod { namespace: String, name: String, uid: String },
    #[error("pod {0} has no address of its own yet (one in its node's network never has); try again")]
    NoAddress(String),
    #[error("pod {pod} gets no certificate: {problem}")]
    Pod { pod: String, problem: PodError },
    #[error("pod's names make no SPIFFE id: {0}")]
    Name(#[from] byrnie_model::spiffe::SpiffeError),
    #[error("token cannot be reviewed now: {0}")]
    Review(ApiError),
    #[error(transparent)]
    Trust(#[from] Stale),
    #[error("proxy has seen trust epoch {seen}, MeshTrust is at {stored}; was an old state restored?")]
    Epoch { seen: u64, stored: u64 },
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("request has no peer address")]
    NoPeer,
}

impl<F: Facts> Issuance<F> {
    /// Serves one trust domain.
    pub fn new(facts: F, domain: TrustDomain, metrics: Metrics) -> Self {
        let audience = names::audience(domain.as_str());
        Self { facts, domain, audience, limit: Limit::new(Instant::now()), metrics }
    }

    async fn answer(&self, peer: Option<IpAddr>, request: IssueRequest) -> Result<IssueResponse, Refusal> {
        let peer = peer.ok_or(Refusal::NoPeer)?;
        let turn = self.limit.admit(peer, Instant::now()).map_err(Refusal::TooMany)?;
        sleep(turn).await;
        let key = csr::public_key(&request.csr)?;
        if request.token.is_empty() || request.token.len() > MAX_TOKEN {
            return Err(Refusal::TokenLength);
        }
        let claim = self.who_asks(&request.token, peer).await?;
        self.limit.admit_pod(&claim.pod_uid, Instant::now()).map_err(Refusal::TooMany)?;
        self.sign(&claim, &key, request.trust_epoch).await
    }

    async fn who_asks(&self, token: &str, peer: IpAddr) -> Result<Claim, Refusal> {
        let review = {
            let _call = self.limit.call().await;
            self.facts.review(token, &self.audience).await.map_err(Refusal::Review)?
        };
        let claim = token::claim(&review, &self.audience)?;
        let Claim { namespace, pod_name: name, pod_uid: uid, .. } = &claim;
        let Some(pod) = self.facts.pod(namespace, name, uid).await else {
            return Err(Refusal::NoPod {
                namespace: namespace.clone(),
                name: name.clone(),
                uid: uid.clone(),
            });
        };
        if pod.addresses.is_empty() {
            return Err(Refusal::NoAddress(format!("{namespace}/{name}")));
        }
        match token::check_pod(&pod, &claim).and_then(|()| token::check_address(&pod, peer)) {
            Ok(()) => Ok(claim),
            Err(problem) => Err(Refusal::Pod { pod: format!("{namespace}/{name}"), problem }),
        }
    }

    async fn sign(
        &self,
        claim: &Claim,
        key: &SubjectPublicKeyInfo,
        seen: u64,
    ) -> Result<IssueResponse, Refusal> {
        let id = SpiffeId::new(&self.domain, &claim.namespace, &claim.service_account)?;
        let trusted = {
            let _call = self.limit.call().await;
            self.facts.trust().await?
        };
        let stored = trusted.state.epoch;
        if seen > stored {
            return Err(Refusal::Epoch { seen, stored });
        }
        let issued = trusted.signer()?.sign(key, &id, trusted.leaf_lifetime, SystemTime::now())?;
        super::record(&self.metrics, claim, &id, &issued, &trusted);
        let chain = issued.chain.iter().map(|certificate| certificate.to_vec()).collect();
        Ok(IssueResponse { chain, trust: Some(trusted.message()) })
    }
}

#[tonic::async_trait]
impl<F: Facts> Identity for Issuance<F> {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let peer = request.extensions().get::<PeerAddress>().map(|PeerAddress(address)| address.ip());
        match self.answer(peer, request.into_inner()).await {
            Ok(response) => {
                self.metrics.issued(Outcome::Issued);
                Ok(Response::new(response))
            }
            Err(refusal) => {
                self.metrics.issued(refusal.outcome());
                if refusal.outcome() == Outcome::Limited {
                    sleep(SLOW_REFUSAL).await;
                } else {
                    warn!(peer = ?peer, reason = %refusal, "no certificate");
                }
                Err(refusal.status())
            }
        }
    }
}

impl Refusal {
    fn outcome(&self) -> Outcome {
        match self {
            Self::TooMany(_) => Outcome::Limited,
            Self::Csr(_) | Self::TokenLength => Outcome::BadRequest,
            Self::Token(_) => Outcome::Unauthenticated,
            Self::Pod { .. } | Self::Name(_) | Self::Epoch { .. } => Outcome::Denied,
            Self::NoPod { .. }
            | Self::NoAddress(_)
            | Self::Review(_)
            | Self::Trust(_)
            | Self::Authority(_)
            | Self::NoPeer => Outcome::Unavailable,
        }
    }

    fn status(&self) -> Status {
        let code = match self {
            Self::TooMany(_) => Code::ResourceExhausted,
            Self::Epoch { .. } => Code::FailedPrecondition,
            _ => match self.outcome() {
                Outcome::BadRequest => Code::InvalidArgument,
                Outcome::Unauthenticated => Code::Unauthenticated,
                Outcome::Denied => Code::PermissionDenied,
                _ => Code::Unavailable,
            },
        };
        let mut status = Status::new(code, self.to_string());
        let retry = match self {
            // Not all of a herd at the same moment.
            Self::TooMany(TooMany { retry_after }) => Some(*retry_after + PATIENCE.mul_f64(fastrand::f64())),
            Self::NoPod { .. } | Self::NoAddress(_) => Some(Duration::from_millis(200)),
            _ => None,
        };
        if let Some(retry) = retry {
            // The key that gRPC's retry design (gRFC A6) uses for the same thing.
            let millis = u32::try_from(retry.as_millis()).unwrap_or(u32::MAX);
            status.metadata_mut().insert("grpc-retry-pushback-ms", MetadataValue::from(millis));
        }
        status
    }
}
