//! A whole mesh on 127.0.0.1: one control process and a sidecar process for each node, written
//! down like a sentence and then started. Ports are chosen here and stay, so that a process that
//! is started again is where it was.

mod commands;
mod member;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

pub use member::{Control, Member, Node, READY_LIMIT};

use crate::admin::Answer;
use crate::certificates::Certificate;
use crate::ports::free_port;
use crate::process::{Output, Process};
use crate::routes::ROUTES;
use crate::run::Run;

/// What can stand behind a sidecar.
pub trait LocalService {
    /// Where it listens, as `--serve` takes it.
    fn address(&self) -> String;
}

/// Where one will listen, or would.
impl LocalService for SocketAddr {
    fn address(&self) -> String {
        self.to_string()
    }
}

impl LocalService for str {
    fn address(&self) -> String {
        self.to_owned()
    }
}

/// A mesh that is being written down.
#[derive(Debug)]
pub struct ClusterBuilder {
    program: PathBuf,
    control: Option<Plan>,
    nodes: Vec<Plan>,
    last: Last,
    enrolled: bool,
    /// Where the files of control's own are, if nodes show certificates from files.
    authority: Option<PathBuf>,
}

#[derive(Debug)]
struct Plan {
    name: String,
    /// Instead of the mesh's.
    program: Option<PathBuf>,
    flags: Vec<String>,
    serves: Vec<String>,
    variables: Vec<(String, String)>,
}

/// Which process the next flags are for.
#[derive(Debug, Clone, Copy)]
enum Last {
    Nothing,
    Control,
    Node,
}

/// A running mesh. It ends with this value.
#[derive(Debug)]
pub struct Cluster {
    // Before the folder: processes end before their files go.
    nodes: Vec<Node>,
    control: Option<Control>,
    ground: Ground,
    folder: TempDir,
}

impl ClusterBuilder {
    /// A control plane. Without it the sidecars get its address all the same, and nobody there.
    #[must_use]
    pub fn control(mut self) -> Self {
        self.control = Some(Plan::named("control"));
        self.last = Last::Control;
        self
    }

    /// A node of this name: its sidecar.
    #[must_use]
    pub fn node(mut self, name: &str) -> Self {
        self.nodes.push(Plan::named(name));
        self.last = Last::Node;
        self
    }

    /// The last named node serves this service from there.
    ///
    /// # Panics
    /// Without a node.
    #[must_use]
    pub fn serving(self, service: &str, local: &(impl LocalService + ?Sized)) -> Self {
        assert!(
            matches!(self.last, Last::Node),
            "serving {service}: say which node, `.node(\"…\").serving(…)`"
        );
        let served = format!("{service}={}", local.address());
        let mut plan = self.with("--serve", &served);
        if let Some(node) = plan.nodes.last_mut() {
            node.serves.push(service.to_owned());
        }
        plan
    }

    /// One more flag for what was named last.
    ///
    /// # Panics
    /// If nothing was named.
    #[must_use]
    pub fn with(mut self, flag: &str, value: &str) -> Self {
        let plan = self.last_plan(flag);
        plan.flags.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    /// Adds a switch, which takes no value, to what was named last.
    ///
    /// # Panics
    /// If nothing was named.
    #[must_use]
    pub fn switched_on(mut self, switch: &str) -> Self {
        self.last_plan(switch).flags.push(switch.to_owned());
        self
    }

    /// Everybody says nothing of trust, and so is strict: control signs, and each node finds the join
    /// file that control leaves in this mesh's own folder, unless it is given another proof.
    #[must_use]
    pub fn enrolled(mut self) -> Self {
        self.enrolled = true;
        self
    }

    /// What was named last shows its certificate, and takes links of peers that show theirs and no
    /// others.
    ///
    /// # Panics
    /// If nothing was named.
    #[must_use]
    pub fn strict(self, certificate: &Certificate) -> Self {
        self.with("--trust", "strict").showing(certificate)
    }

    /// What was named last shows its certificate, and takes links in the clear, too.
    ///
    /// # Panics
    /// If nothing was named.
    #[must_use]
    pub fn permissive(self, certificate: &Certificate) -> Self {
        self.with("--trust", "permissive").showing(certificate)
    }

    fn showing(mut self, certificate: &Certificate) -> Self {
        self.authority = Some(certificate.control.clone());
        let path = |file: &Path| file.display().to_string();
        self.with("--identity-chain", &path(&certificate.chain))
            .with("--identity-key", &path(&certificate.key))
            .with("--identity-roots", &path(&certificate.roots))
    }

    fn last_plan(&mut self, what: &str) -> &mut Plan {
        let plan = match self.last {
            Last::Nothing => None,
            Last::Control => self.control.as_mut(),
            Last::Node => self.nodes.last_mut(),
        };
        plan.unwrap_or_else(|| panic!("{what}: say whose, `.control()` or `.node(…)`"))
    }

    /// What was named last runs this program instead of the mesh's: one that was compiled with
    /// other rules.
    ///
    /// # Panics
    /// If nothing was named.
    #[must_use]
    pub fn running(mut self, program: impl AsRef<Path>) -> Self {
        self.last_plan("running").program = Some(program.as_ref().to_owned());
        self
    }

    /// Starts everything, and waits until every process says that it is ready and every sidecar
    /// knows all that is served.
    ///
    /// # Panics
    /// If that takes more than 20 s each.
    pub async fn start(self) -> Cluster {
        let cluster = self.each_ready().await;
        cluster.settled().await;
        cluster
    }

    /// Starts everything, and waits until every process says that it is ready: for a mesh in which not
    /// everybody is to find everybody.
    ///
    /// # Panics
    /// If that takes more than 20 s each.
    pub async fn each_ready(self) -> Cluster {
        let cluster = self.launch().await;
        if let Some(control) = &cluster.control {
            control.ready().await;
        }
        for node in &cluster.nodes {
            node.ready().await;
        }
        cluster
    }

    /// Starts everything and waits for nothing.
    ///
    /// # Panics
    /// If a program cannot be started.
    pub async fn launch(self) -> Cluster {
        let folder = tempfile::tempdir().expect("a folder for logs and data");
        let listen = loopback(free_port());
        let ground = Ground {
            program: self.program,
            folder: folder.path().to_owned(),
            listen,
            enrolled: self.enrolled,
        };
        let mut cluster = Cluster {
            nodes: Vec::new(),
            control: None,
            ground,
            folder,
        };
        let plain = self.nodes.iter().any(|plan| !plan.has("--identity-chain"));
        if let Some(mut plan) = self.control {
            if let Some(folder) = self.authority
                && !plan.has("--trust")
            {
                plan.shows(&folder, if plain { "permissive" } else { "strict" });
            }
            cluster.control = Some(plan.start_control(&cluster.ground).await);
        }
        for plan in self.nodes {
            let node = plan.start_node(&cluster.ground).await;
            cluster.nodes.push(node);
        }
        cluster
    }
}

/// What all processes of a mesh have in common.
#[derive(Debug)]
struct Ground {
    program: PathBuf,
    folder: PathBuf,
    /// Where control is, or would be.
    listen: SocketAddr,
    enrolled: bool,
}

impl Plan {
    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            program: None,
            flags: Vec::new(),
            serves: Vec::new(),
            variables: Vec::new(),
        }
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own == flag)
    }

    /// Control of nodes whose certificates come from files has its own from there.
    fn shows(&mut self, folder: &Path, trust: &str) {
        let file = |name: &str| folder.join(name).display().to_string();
        for (flag, value) in [
            ("--trust", trust.to_owned()),
            ("--identity-chain", file("chain.pem")),
            ("--identity-key", file("key.pem")),
            ("--identity-roots", file("roots.pem")),
        ] {
            self.flags.extend([flag.to_owned(), value]);
        }
    }

    async fn start_control(self, ground: &Ground) -> Control {
        let admin = loopback(free_port());
        let listen = ground.listen;
        let flags = [
            ("--listen", listen.to_string()),
            ("--admin", admin.to_string()),
            ("--data", data_folder(&ground.folder, &self.name)),
        ];
        let member = self.start(ground, "control", &flags, admin).await;
        Control {
            member,
            listen,
            folder: ground.folder.clone(),
        }
    }

    async fn start_node(mut self, ground: &Ground) -> Node {
        let [outbound, internal, external, admin] = [(); 4].map(|()| loopback(free_port()));
        let flags = [
            ("--node", self.name.clone()),
            ("--control", ground.listen.to_string()),
            ("--outbound", outbound.to_string()),
            ("--internal", internal.to_string()),
            ("--external", external.to_string()),
            ("--admin", admin.to_string()),
            ("--data", data_folder(&ground.folder, &self.name)),
        ];
        let serves = std::mem::take(&mut self.serves);
        let member = self.start(ground, "sidecar", &flags, admin).await;
        Node {
            member,
            serves,
            outbound,
            internal,
            external,
        }
    }

    async fn start(
        self,
        ground: &Ground,
        subcommand: &str,
        flags: &[(&str, String)],
        admin: SocketAddr,
    ) -> Member {
        let mut arguments = vec![subcommand.to_owned()];
        for (flag, value) in flags {
            // What a test says itself takes the place of what is said here.
            if !self.flags.iter().any(|own| own == flag) {
                arguments.extend([(*flag).to_owned(), value.clone()]);
            }
        }
        let folder = ground.folder.display().to_string();
        let mut variables = vec![("XDG_RUNTIME_DIR".to_owned(), folder)];
        if !ground.enrolled && !self.has("--trust") {
            arguments.extend(["--trust".to_owned(), "disabled".to_owned()]);
        }
        arguments.extend(self.flags);
        // The later one counts.
        variables.extend(self.variables);
        let program = self.program.as_deref().unwrap_or(&ground.program);
        let (folder, output) = (&ground.folder, Output::Logged);
        let process =
            Process::start_with(&self.name, program, arguments, variables, folder, output).await;
        Member { process, admin }
    }
}

impl Cluster {
    /// A mesh of this program, to be written down; `cluster!()` knows the program.
    #[must_use]
    pub fn of(program: impl AsRef<Path>) -> ClusterBuilder {
        ClusterBuilder {
            program: program.as_ref().to_owned(),
            control: None,
            nodes: Vec::new(),
            last: Last::Nothing,
            enrolled: false,
            authority: None,
        }
    }

    /// The control process.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn control(&self) -> &Control {
        self.control.as_ref().expect("this mesh has no control")
    }

    /// What `sidelane nodes` says of a node.
    ///
    /// # Panics
    /// If the command fails, or names no such node.
    pub async fn listed(&self, node: &str) -> Value {
        let control = self.control().listen().to_string();
        let ended = Run::of(&self.ground.program)
            .with(["nodes", "-o", "json", "--control", &control])
            .to_its_end()
            .await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let listed: Value = serde_json::from_str(&ended.stdout).expect("JSON");
        let mut nodes = listed["nodes"].as_array().into_iter().flatten();
        let found = nodes.find(|found| found["node_id"] == node);
        found
            .unwrap_or_else(|| panic!("no {node}: {listed}"))
            .clone()
    }

    /// Starts one more node, with these flags and variables, and waits for nothing.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub async fn add(&mut self, name: &str, flags: &[&str], variables: &[(&str, &str)]) -> &Node {
        let mut plan = Plan::named(name);
        plan.flags = flags.iter().map(ToString::to_string).collect();
        let variables = variables.iter();
        plan.variables = variables
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let node = plan.start_node(&self.ground).await;
        self.nodes.push(node);
        self.node(name)
    }

    /// The node of this name.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn node(&self, name: &str) -> &Node {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.unwrap_or_else(|| panic!("this mesh has no node `{name}`"))
    }

    /// All nodes, in the order in which they were named.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Waits until every sidecar would send calls to every node that serves what it calls. Ready
    /// processes alone are not enough for that: what one says of itself takes a moment to reach
    /// the others.
    ///
    /// # Panics
    /// If one would not after 20 s.
    pub async fn settled(&self) {
        // Without a rule a service is not known before it is called; a secure one is refused.
        let asked = ROUTES.rules().filter(|rule| !rule.secure);
        for service in asked.map(|rule| &*rule.service) {
            let serving: Vec<&str> = self
                .nodes
                .iter()
                .filter(|node| node.serves.iter().any(|serves| serves == service))
                .map(|node| node.name())
                .collect();
            for node in self.nodes.iter().filter(|_| !serving.is_empty()) {
                let question = format!("/explain?path=/{service}/Any");
                let all = |answer: &Answer| {
                    let eligible = eligible(&answer.body);
                    serving
                        .iter()
                        .all(|node| eligible.iter().any(|id| id == node))
                };
                node.answers(&question, all).await;
            }
        }
    }

    /// The folder with logs and data, which goes with the mesh.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// The nodes to which a call could go, by the answer of `/explain`.
fn eligible(explanation: &str) -> Vec<String> {
    let answer: serde_json::Value = serde_json::from_str(explanation).unwrap_or_default();
    let candidates = answer["candidates"].as_array().cloned().unwrap_or_default();
    candidates
        .iter()
        .filter(|candidate| candidate["eligible"] == true)
        .filter_map(|candidate| candidate["node_id"].as_str().map(str::to_owned))
        .collect()
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn data_folder(folder: &Path, name: &str) -> String {
    folder.join(format!("{name}.data")).display().to_string()
}
