//! A mesh whose identities come from SPIFFE agents: control and sidecars each ask theirs, nothing is
//! signed here, and everything else is as strict as ever.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::time::{Duration, Instant};

use sidelane_proto::wire::spiffe::X509svidResponse;
use sidelane_tests::ask::{ask, until_answered};
use sidelane_tests::certificates::{Authority, DOMAIN, LONG};
use sidelane_tests::cluster::Node;
use sidelane_tests::load::{Load, Plan};
use sidelane_tests::run::Run;
use sidelane_tests::wire::v1::UnaryResponse;
use sidelane_tests::workload::{Agent, svid};
use sidelane_tests::{Cluster, Upstream, cluster, exclusive, secrets, services};
use tempfile::TempDir;
use tonic::Code;

const ECHO: &str = "/sidelane.test.v1.Echo/Unary";
/// From a change to what it does, at most.
const SOON: Duration = Duration::from_secs(10);

/// The agents of a mesh. In life one agent tells processes apart by what the kernel says of them;
/// here each process has its own.
struct Agents {
    authority: Authority,
    control: Agent,
    caller: Agent,
    callee: Agent,
    _folder: TempDir,
}

impl Agents {
    async fn start(life: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [control, caller, callee] = ["control", "caller", "callee"];
        let agents = Self {
            authority: Authority::new(),
            control: Agent::start(folder.path(), control).await,
            caller: Agent::start(folder.path(), caller).await,
            callee: Agent::start(folder.path(), callee).await,
            _folder: folder,
        };
        agents.rotate(life);
        agents
    }

    /// Everybody gets another certificate.
    fn rotate(&self, life: Duration) {
        let id = format!("spiffe://{DOMAIN}/ns/sidelane/sa/control");
        let mut own = svid(&self.authority, "control", life);
        (own.x509_svid, own.x509_svid_key) = self.authority.mint(&id, life);
        own.spiffe_id = id;
        self.control.says(Ok(X509svidResponse {
            svids: vec![own],
            ..X509svidResponse::default()
        }));
        self.caller.names(&self.authority, &["caller"], life);
        self.callee.names(&self.authority, &["callee"], life);
    }

    /// A strict mesh in which control and both nodes take their identities from them.
    async fn mesh(&self, upstream: &Upstream) -> Cluster {
        cluster!()
            .enrolled()
            .control()
            .with("--spiffe-socket", &self.control.place())
            .node("caller")
            .with("--spiffe-socket", &self.caller.place())
            .with("--log", "debug")
            .node("callee")
            .with("--spiffe-socket", &self.callee.place())
            .serving(services::ECHO, upstream)
            .serving(services::VAULT, upstream)
            .start()
            .await
    }
}

async fn code(node: &Node, path: &str) -> Code {
    ask(node, path, &[]).await.grpc_status().unwrap().code()
}

#[tokio::test]
async fn a_whole_strict_mesh_takes_its_identities_from_agents() {
    let agents = Agents::start(LONG).await;
    let upstream = Upstream::named("callee").start().await;
    let mesh = agents.mesh(&upstream).await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    let answer = ask(caller, ECHO, &[]).await;
    let told = answer.message::<UnaryResponse>().unwrap().metadata;
    let id = Authority::id("caller");
    let wanted = format!("sidelane-source-identity: {id}");
    assert!(told.contains(&wanted), "{told:?}");
    let vault = "/sidelane.test.v1.Vault/Open";
    assert_eq!(code(caller, vault).await, Code::Ok, "what is secure may go");

    // The pages say where the certificate is from.
    let certificate = caller.config().await["certificate"].clone();
    assert_eq!(certificate["identity"], id);
    assert_eq!(certificate["roots"], 1, "federated roots are not believed");
    assert_eq!(certificate["source"]["kind"], "spiffe");
    assert_eq!(certificate["source"]["place"], agents.caller.place());
    let metrics = caller.metrics().await;
    let source = [("source", "spiffe")];
    assert_eq!(
        metrics.sum("sidelane_certificate_source_info", &source),
        1.0
    );
    let plain = callee.metrics().await;
    assert_eq!(plain.sum("sidelane_plaintext_links_total", &[]), 0.0);
    let control = mesh.control().get("/metrics").await.body;
    assert!(control.contains("connections_plain_total 0\n"), "{control}");

    // Control's own user is known by the join file, as ever; and control signs for nobody.
    let address = mesh.control().listen().to_string();
    let folder = mesh.folder().display().to_string();
    let command = |arguments: &[&str]| {
        Run::of(env!("CARGO_BIN_EXE_sidelane-under-test"))
            .with(arguments.iter().copied())
            .with(["--control", address.as_str()])
            .variable("XDG_RUNTIME_DIR", &folder)
            .to_its_end()
    };
    let nodes = command(&["nodes"]).await;
    assert!(nodes.stdout.contains("caller"), "{nodes:?}");
    let token = command(&["token", "--node", "a"]).await;
    assert!(token.stderr.contains("signs nothing"), "{token:?}");
}

#[tokio::test]
async fn certificates_change_every_two_seconds_and_no_call_fails() {
    let _turn = exclusive().await;
    let life = Duration::from_secs(8);
    let agents = Agents::start(life).await;
    let upstream = Upstream::named("callee").start().await;
    let mesh = agents.mesh(&upstream).await;
    let plan = Plan {
        rate: 200,
        longest_ms: 50,
    };
    let load = Load::start(mesh.node("caller").outbound(), plan).await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        agents.rotate(life);
    }
    load.stop().await.nothing_failed();
    for node in mesh.nodes() {
        let renewed = node.metrics().await;
        let renewed = renewed.sum("sidelane_certificate_renewals_total", &[]);
        assert!(renewed >= 5.0, "{}: {renewed} renewals", node.name());
    }
}

#[tokio::test]
async fn without_an_agent_calls_go_on_to_the_certificates_end_and_fail_closed() {
    let _turn = exclusive().await;
    let mut agents = Agents::start(LONG).await;
    let upstream = Upstream::named("callee").start().await;
    let life = Duration::from_secs(12);
    agents.caller.names(&agents.authority, &["caller"], life);
    let ends = Instant::now() + life;
    let mesh = agents.mesh(&upstream).await;
    let caller = mesh.node("caller");
    assert_eq!(until_answered(caller).await, "callee");
    agents.caller.kill();
    let trouble = |body: &str| body.contains("there is no such socket");
    caller.answers("/config", |it| trouble(&it.body)).await;
    if Instant::now() + Duration::from_secs(2) < ends {
        assert_eq!(code(caller, ECHO).await, Code::Ok, "it has not ended yet");
    }
    let said = |body: &str| body.contains("the certificate ended") && trouble(body);
    caller
        .answers("/readyz", |it| it.status == 503 && said(&it.body))
        .await;
    while code(caller, ECHO).await == Code::Ok {
        assert!(ends.elapsed() < SOON, "{}", caller.end_of_log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refused = ask(caller, ECHO, &[]).await.grpc_status().unwrap();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    agents.caller.names(&agents.authority, &["caller"], LONG);
    agents.caller.start_again().await;
    assert_eq!(until_answered(caller).await, "callee");
    caller.ready().await;
    let source = caller.config().await["certificate"]["source"].clone();
    assert!(source["trouble"].is_null(), "{source}");
}

#[tokio::test]
async fn a_sidecar_waits_for_its_agent_and_says_what_stands_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let mut agent = Agent::start(folder.path(), "agent").await;
    agent.kill();
    let place = agent.place();
    let mut mesh = cluster!().enrolled().launch().await;
    let variable = [("SPIFFE_ENDPOINT_SOCKET", place.as_str())];
    // By the variable of the standard.
    let node = mesh
        .add("orders", &["--spiffe-hint", "orders"], &variable)
        .await;
    let says = async |part: &str| {
        let waits = |it: &sidelane_tests::admin::Answer| it.status == 503 && it.body.contains(part);
        node.answers("/readyz", waits).await;
    };
    says("there is no such socket").await;
    agent.start_again().await;
    says("spire-server entry create").await;
    agent.says(Err(Code::Unavailable));
    says("Unavailable").await;
    agent.says(Ok(X509svidResponse::default()));
    says("svids: 0 identities").await;
    let garbage = |spoil: &dyn Fn(&mut sidelane_proto::wire::spiffe::X509svid)| {
        let mut one = svid(&authority, "orders", LONG);
        spoil(&mut one);
        agent.says(Ok(X509svidResponse {
            svids: vec![one],
            ..X509svidResponse::default()
        }));
    };
    garbage(&|it| it.x509_svid = b"garbage".to_vec());
    says("x509_svid: certificate 1 is none").await;
    garbage(&|it| it.x509_svid_key = b"a key that is none of ours".to_vec());
    says("the private key cannot be used").await;
    garbage(&|it| it.bundle = Authority::new().root_der());
    says("no peer would take the certificate").await;
    agent.names(&authority, &["first"], LONG);
    says("none of 1 has the hint `orders`").await;
    // Several, of which one is meant.
    agent.names(&authority, &["first", "orders"], LONG);
    node.answers("/config", |it| it.body.contains(&Authority::id("orders")))
        .await;
    // Who is somebody else starts anew.
    let mut other = svid(&authority, "else", LONG);
    other.hint = "orders".to_owned();
    agent.says(Ok(X509svidResponse {
        svids: vec![other],
        ..X509svidResponse::default()
    }));
    node.answers("/config", |it| it.body.contains("starts anew"))
        .await;
    let certificate = node.config().await["certificate"].clone();
    assert_eq!(certificate["identity"], Authority::id("orders"));
    // What the standard forbids to ask again ends the program.
    agent.says(Err(Code::InvalidArgument));
    let last = mesh.add("last", &[], &variable).await;
    assert!(!last.exited(SOON).await.success());
    assert!(
        last.log().contains("refuses the question"),
        "{}",
        last.log()
    );
    assert_eq!(secrets::seen_in(&last.log()), None);
}

#[tokio::test]
async fn a_control_that_sidecars_would_not_take_says_so_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(folder.path(), "agent").await;
    agent.names(&Authority::new(), &["other"], LONG);
    let mesh = cluster!()
        .enrolled()
        .control()
        .with("--spiffe-socket", &agent.place())
        .launch()
        .await;
    assert!(!mesh.control().exited(SOON).await.success());
    let log = mesh.control().log();
    assert!(log.contains("ns/sidelane/sa/control"), "{log}");
}
