//! What control's own user asks of control: in the clear where control is, and with the join file
//! where control has left one in its mesh's folder.

use hyper_util::rt::TokioIo;
use sidelane_identity::token::JoinFile;
use sidelane_identity::{pinned, tls};
use sidelane_process::runtime::{RuntimeFolder, join_name};
use sidelane_proto::wire::admin::v1::mesh_client::MeshClient;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::client;
use crate::cluster::Control;

/// The header by which the join file's secret is shown.
const JOIN_HEADER: &str = "sidelane-join";

/// Shows the join file's secret, where there is one.
#[derive(Clone)]
pub struct Owner(Option<MetadataValue<Ascii>>);

impl Interceptor for Owner {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(secret) = &self.0 {
            request.metadata_mut().insert(JOIN_HEADER, secret.clone());
        }
        Ok(request)
    }
}

/// Control's admin service, as its owner asks it.
///
/// # Panics
/// If control does not listen, or its join file is none.
pub async fn mesh(control: &Control) -> MeshClient<InterceptedService<Channel, Owner>> {
    let folder = RuntimeFolder::at(control.folder().join("sidelane"));
    let left = folder.read(&join_name(control.listen()));
    let left = left.expect("the join file can be read");
    let (channel, owner) = match left {
        Some(text) => secured(control, &String::from_utf8(text).expect("text")).await,
        None => {
            let channel = client::channel(control.listen()).await;
            (channel.expect("control listens"), Owner(None))
        }
    };
    MeshClient::with_interceptor(channel, owner)
}

async fn secured(control: &Control, text: &str) -> (Channel, Owner) {
    let file = JoinFile::parse(text).unwrap_or_else(|error| panic!("{error}"));
    let secret: String = file.secret.iter().map(|it| format!("{it:02x}")).collect();
    let config = pinned::client(file.authority).unwrap();
    let listen = control.listen();
    let connector = tower::service_fn(move |_| {
        let config = config.clone();
        async move {
            let stream = TcpStream::connect(listen).await?;
            let stream = TlsConnector::from(config)
                .connect(tls::name(), stream)
                .await;
            stream.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{listen}")).unwrap();
    let channel = endpoint.connect_with_connector(connector).await;
    (
        channel.expect("control listens"),
        Owner(secret.parse().ok()),
    )
}
