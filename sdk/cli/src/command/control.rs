//! The command line's connection to the control plane: its gRPC port, the service
//! `sidelane.admin.v1.Mesh`. Each question has a time limit, and an error says which address was
//! asked and how somebody would come to answer there.

use std::fmt::Write as _;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use sidelane_identity::token::JoinFile;
use sidelane_identity::{pinned, tls};
use sidelane_process::address::HostPort;
use sidelane_process::runtime::{RuntimeFolder, join_names};
use sidelane_process::settings::{Environment, Settings};
use sidelane_proto::wire::admin::v1 as wire;
use sidelane_proto::wire::admin::v1::mesh_client::MeshClient;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::Failure;
use super::arguments::CONTROL;

/// By this header the join file's secret is shown.
const JOIN_HEADER: &str = sidelane_control::certificates::JOIN_HEADER;
/// How long one address may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// How long control may take to judge rules, and to have them on its disk: ten thousand take a
/// second of it.
const APPLY_LIMIT: Duration = Duration::from_secs(60);
/// How long control may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The largest answer that is read, in bytes: 10,000 endpoints with their rules fit several times.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The control plane could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// Nobody at any of the addresses.
    #[error(
        "no control plane answers at {}; start one with `sidelane control --listen {}`, or say \
         where it is with --control HOST:PORT", listed(tried), tried.first().map_or("HOST:PORT", |(address, _)| address.as_str())
    )]
    Unreachable {
        /// Each address, and what happened there.
        tried: Vec<(String, String)>,
    },
    /// An answer that is an error.
    #[error("control at {address} answered {what} with {code:?}: {message}{advice}")]
    Refused {
        /// Who answered.
        address: String,
        /// What was asked.
        what: &'static str,
        /// The gRPC status.
        code: Code,
        /// The status's message.
        message: String,
        /// What to try.
        advice: String,
        /// Nobody had said who asks, and such an answer may be of that.
        unknown: bool,
    },
    /// No answer.
    #[error("control at {address} did not answer {what} within {} s", limit.as_secs())]
    Silent {
        /// Who was asked.
        address: String,
        /// What was asked.
        what: &'static str,
        /// The time that it had.
        limit: Duration,
    },
}

impl ControlError {
    /// Somebody is there, who may answer to its own user alone.
    pub(crate) const fn may_not_know_us(&self) -> bool {
        matches!(self, Self::Refused { unknown: true, .. })
    }
}

/// A control plane that answers.
pub(crate) struct Control {
    address: String,
    /// What may stand in the way, for an answer that is an error.
    hint: String,
    client: MeshClient<InterceptedService<Channel, Join>>,
}

/// Shows the join file's secret, where control has left one: control then knows its own user.
#[derive(Clone)]
pub(crate) struct Join(Option<MetadataValue<Ascii>>);

impl tonic::service::Interceptor for Join {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(secret) = &self.0 {
            request.metadata_mut().insert(JOIN_HEADER, secret.clone());
        }
        Ok(request)
    }
}

/// The addresses that `--control` names.
pub(crate) fn addresses(settings: &Settings) -> Result<Vec<String>, Failure> {
    let items = settings.items(&CONTROL).iter();
    items
        .map(|item| {
            if item.text() == "auto" {
                return Err(item
                    .refuse("control is not looked for in the network here; write its HOST:PORT"));
            }
            item.parse(str::parse::<HostPort>)
                .map(|address| address.to_string())
        })
        .collect::<Result<_, _>>()
        .map_err(Failure::from)
}

/// Connects to the first of these addresses where somebody answers.
pub(crate) async fn connect(addresses: &[String]) -> Result<Control, ControlError> {
    let mut tried = Vec::new();
    for address in addresses {
        match dial(address).await {
            Ok((channel, join, hint)) => {
                let client = MeshClient::with_interceptor(channel, join)
                    .max_decoding_message_size(ANSWER_BYTES);
                let address = address.clone();
                return Ok(Control {
                    address,
                    hint,
                    client,
                });
            }
            Err(why) => tried.push((address.clone(), why)),
        }
    }
    Err(ControlError::Unreachable { tried })
}

impl Control {
    /// The nodes that control knows in one network, or in all where it is empty.
    pub(crate) async fn list_nodes(
        &mut self,
        network: &str,
    ) -> Result<wire::ListNodesResponse, ControlError> {
        let network = network.to_owned();
        let asked = self.client.list_nodes(wire::ListNodesRequest { network });
        answered(
            (&self.address, &self.hint),
            "ListNodes",
            ANSWER_LIMIT,
            asked,
        )
        .await
    }

    /// The services that nodes offer in one network, or in all where it is empty.
    pub(crate) async fn list_services(
        &mut self,
        network: &str,
    ) -> Result<wire::ListServicesResponse, ControlError> {
        let network = network.to_owned();
        let request = wire::ListServicesRequest { network };
        let asked = self.client.list_services(request);
        answered(
            (&self.address, &self.hint),
            "ListServices",
            ANSWER_LIMIT,
            asked,
        )
        .await
    }

    /// Applies rules, or has them checked.
    pub(crate) async fn apply_rules(
        &mut self,
        request: wire::ApplyRulesRequest,
    ) -> Result<wire::ApplyRulesResponse, ControlError> {
        let asked = self.client.apply_rules(request);
        answered(
            (&self.address, &self.hint),
            "ApplyRules",
            APPLY_LIMIT,
            asked,
        )
        .await
    }

    /// The applied rules, of one network and service, or of all where one is empty.
    pub(crate) async fn list_rules(
        &mut self,
        network: &str,
        service: &str,
    ) -> Result<wire::ListRulesResponse, ControlError> {
        let request = wire::ListRulesRequest {
            network: network.to_owned(),
            service: service.to_owned(),
        };
        let asked = self.client.list_rules(request);
        answered(
            (&self.address, &self.hint),
            "ListRules",
            ANSWER_LIMIT,
            asked,
        )
        .await
    }

    /// Makes a join token.
    pub(crate) async fn issue_token(
        &mut self,
        request: wire::IssueTokenRequest,
    ) -> Result<wire::IssueTokenResponse, ControlError> {
        let asked = self.client.issue_token(request);
        answered(
            (&self.address, &self.hint),
            "IssueToken",
            ANSWER_LIMIT,
            asked,
        )
        .await
    }

    /// Revokes somebody, or takes that back.
    pub(crate) async fn revoke(
        &mut self,
        request: wire::RevokeRequest,
    ) -> Result<wire::RevokeResponse, ControlError> {
        let asked = self.client.revoke(request);
        answered((&self.address, &self.hint), "Revoke", ANSWER_LIMIT, asked).await
    }

    /// The roots that are trusted now.
    pub(crate) async fn roots(&mut self) -> Result<wire::ListRootsResponse, ControlError> {
        let asked = self.client.list_roots(wire::ListRootsRequest {});
        let whom = (&*self.address, &*self.hint);
        answered(whom, "ListRoots", ANSWER_LIMIT, asked).await
    }

    /// Brings a new root in.
    pub(crate) async fn rotate_root(&mut self) -> Result<wire::RotateRootResponse, ControlError> {
        let asked = self.client.rotate_root(wire::RotateRootRequest {});
        answered(
            (&self.address, &self.hint),
            "RotateRoot",
            ANSWER_LIMIT,
            asked,
        )
        .await
    }

    /// Waits until every connected sidecar has acknowledged a revision; 0 is the newest.
    pub(crate) async fn wait_revision(
        &mut self,
        revision: u64,
        limit: Duration,
    ) -> Result<wire::WaitRevisionResponse, ControlError> {
        let request = wire::WaitRevisionRequest {
            revision,
            timeout_ms: u32::try_from(limit.as_millis()).unwrap_or(u32::MAX),
        };
        let asked = self.client.wait_revision(request);
        // Control says itself when the wait is over; this is for one that does not.
        answered(
            (&self.address, &self.hint),
            "WaitRevision",
            limit + ANSWER_LIMIT,
            asked,
        )
        .await
    }
}

/// With TLS where control has left a join file for us, in the clear where it has not: a control in
/// trust mode `disabled` leaves none.
async fn dial(address: &str) -> Result<(Channel, Join, String), String> {
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).map_err(|error| reason(&error))?;
    let dialled = async {
        match join_file(address).await? {
            Ok((file, path)) => {
                let secured = secured(address, endpoint, &file).await;
                let (channel, join) = secured.map_err(|why| {
                    let path = path.display();
                    format!("{why}; {path} may be of a control that is gone: remove it then")
                })?;
                Ok((channel, join, String::new()))
            }
            Err(hint) => {
                let channel = endpoint.connect().await;
                let channel = channel.map_err(|error| reason(&error))?;
                Ok((channel, Join(None), hint))
            }
        }
    };
    match timeout(CONNECT_LIMIT, dialled).await {
        Ok(dialled) => dialled,
        Err(_) => Err(format!("no answer within {} s", CONNECT_LIMIT.as_secs())),
    }
}

/// The join file and where it is; within, what to say where there is none.
async fn join_file(address: &str) -> Result<Result<(JoinFile, PathBuf), String>, String> {
    let folder = RuntimeFolder::of(&Environment::of_process());
    let addresses = tokio::net::lookup_host(address).await;
    let addresses = addresses.map_err(|error| error.to_string())?;
    let names: Vec<String> = addresses.flat_map(join_names).collect();
    for name in &names {
        let read = folder.read(name).map_err(|error| error.to_string())?;
        let Some(bytes) = read.map(zeroize::Zeroizing::new) else {
            continue;
        };
        let path = folder.path(name);
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        return match JoinFile::parse(text) {
            Ok(file) => Ok(Ok((file, path))),
            Err(error) => Err(format!("{} is no join file: {error}", path.display())),
        };
    }
    let Some(first) = names.first() else {
        return Ok(Err(
            "; control was asked in the clear: where it is strict, run this on its machine, as its \
             user"
                .to_owned(),
        ));
    };
    let beside = names.iter().find_map(|name| folder.elsewhere(name));
    let beside = beside.map(|path| format!(" (one is at {}: set XDG_RUNTIME_DIR)", path.display()));
    Ok(Err(format!(
        "; control was asked in the clear, since there is no join file {}{}: where control is strict, \
         run this as its user",
        folder.path(first).display(),
        beside.unwrap_or_default()
    )))
}

async fn secured(
    address: &str,
    endpoint: Endpoint,
    file: &JoinFile,
) -> Result<(Channel, Join), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let config = pinned::client(file.authority.clone()).map_err(|error| text(&error))?;
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(|error| text(&error))?;
    let stream = TlsConnector::from(config)
        .connect(tls::name(), stream)
        .await;
    let stream = stream.map_err(|error| sidelane_identity::Refusal::of_io(&error).to_string())?;
    // A channel dials again by itself; a command needs one connection.
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = once.take();
        async move { stream.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)) }
    });
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.map_err(|error| reason(&error))?;
    let secret: String = file
        .secret
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut secret: MetadataValue<Ascii> = secret.parse().map_err(|error| text(&error))?;
    secret.set_sensitive(true);
    Ok((channel, Join(Some(secret))))
}

async fn answered<T>(
    (address, hint): (&str, &str),
    what: &'static str,
    limit: Duration,
    asked: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, ControlError> {
    let address = address.to_owned();
    match timeout(limit, asked).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => {
            let advice = match status.code() {
                Code::Unimplemented => {
                    "; is this control's gRPC port (--listen), and is control as new as this command?"
                }
                // As a TLS port answers who speaks in the clear, or who shows no secret.
                Code::Unavailable
                | Code::Unknown
                | Code::Internal
                | Code::Cancelled
                | Code::Unauthenticated
                | Code::PermissionDenied => hint,
                _ => "",
            };
            let unknown = !hint.is_empty() && advice == hint;
            let advice = advice.to_owned();
            Err(ControlError::Refused {
                address,
                what,
                code: status.code(),
                message: status.message().to_owned(),
                advice,
                unknown,
            })
        }
        Err(_) => Err(ControlError::Silent {
            address,
            what,
            limit,
        }),
    }
}

/// The innermost reason, which is the operating system's: "Connection refused".
fn reason(error: &tonic::transport::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn listed(tried: &[(String, String)]) -> String {
    let mut text = String::new();
    for (index, (address, why)) in tried.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", nor at " };
        // Writing into a String cannot fail.
        let _ = write!(text, "{separator}{address} ({why})");
    }
    text
}
