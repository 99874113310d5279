//! What happens in a demo, in order: everything starts, calm, a node is killed, control is killed
//! and comes back, the other nodes are rolled, calm again. The load goes on all the while.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, ClusterError, STOREFRONT};
use super::facts::{CALM, Facts, Step, calm};
use super::message::now;
use super::stage::Stage;
use super::traces::Traces;
use super::verdict::Killed;
use super::{DemoError, load, look, report};

/// First calls open connections; they are not timed.
const WARM_UP: Duration = Duration::from_millis(1_500);
/// How long calls are timed: 1,500 unary ones through the mesh, enough for a p99.
const CALM_TIME: Duration = Duration::from_secs(5);
/// How long the load goes on after a node was killed: longer than a bulk stream, so that one which
/// was cut is followed by one that is not.
const AFTER_KILL: Duration = Duration::from_secs(3);
/// How long the mesh must do without control.
const WITHOUT_CONTROL: Duration = Duration::from_secs(3);
/// How long the load goes on after a disturbance is over, to see what it left behind.
const AFTERMATH: Duration = Duration::from_secs(1);
/// Time between two lines of progress.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// The node that is killed.
const KILLED: &str = "orders-2";
/// The nodes that are rolled, one by one.
const ROLLED: [&str; 2] = ["orders-1", "orders-3"];
/// A node that came back answers so many calls before it counts as back: more than could have been
/// counted late from before it went.
const ANSWERS_AGAIN: u64 = 50;
/// How long it may take until it does.
const ANSWERS_LIMIT: Duration = Duration::from_secs(8);

/// A demo that runs.
pub(super) struct Script<'a> {
    stage: &'a Stage,
    cluster: Cluster,
    traces: Traces,
    steps: Vec<Step>,
}

impl<'a> Script<'a> {
    /// Gets ready; nothing runs yet.
    pub(super) async fn begin(stage: &'a Stage, otlp: Option<String>) -> Result<Self, DemoError> {
        let traces = Traces::begin(otlp).await;
        let traces = traces.map_err(|source| ClusterError::Place {
            what: "a port for the sidecars' spans",
            source,
        })?;
        let cluster = Cluster::plan(traces.flags())?;
        Ok(Self {
            stage,
            cluster,
            traces,
            steps: Vec::new(),
        })
    }

    /// Plays it to the end.
    pub(super) async fn play(&mut self) -> Result<Facts, DemoError> {
        self.start().await?;
        self.phase("warming up", false, WARM_UP).await?;
        self.phase(CALM, true, CALM_TIME).await?;
        let killed = self.kill_node().await?;
        self.restart_control().await?;
        for node in ROLLED {
            self.roll(node).await?;
        }
        self.phase("calm again", false, AFTERMATH).await?;

        self.say("the load ends; open calls are waited for");
        let storefront = self.cluster.storefront()?;
        let report = storefront.report().await.map_err(ClusterError::from)?;
        let failed = storefront.heard().failed.clone();
        let steps = std::mem::take(&mut self.steps);
        let trace = self.traces.best();
        Ok(Facts::new(&report, &failed, killed, steps).with_trace(trace))
    }

    /// Starts again what was killed, goes on with the load, and says how to look around.
    pub(super) async fn look_around(&mut self) -> Result<(), DemoError> {
        self.cluster.start_again(KILLED).await?;
        self.say(&format!("{KILLED} is started again"));
        let storefront = self.cluster.storefront()?;
        storefront.resume().await.map_err(ClusterError::from)?;
        for line in look::lines(&mut self.cluster) {
            self.say(&line);
        }
        Ok(())
    }

    /// Leaves the logs behind, and says where.
    pub(super) fn keep_logs(&mut self) -> String {
        let folder = self.cluster.folder();
        folder.keep();
        format!("what everybody logged is in {}", folder.path().display())
    }

    async fn start(&mut self) -> Result<(), DemoError> {
        let folder = self.cluster.folder().path().display().to_string();
        self.say(&format!(
            "a shop in 13 processes on loopback; data and logs in {folder}"
        ));
        let control = self.cluster.control_text();
        self.say(&format!("control starts at {control}"));
        self.cluster.start_control().await?;
        self.say("six nodes start, each with its sidecar: storefront, 3 orders, 2 inventory");
        self.cluster.start_nodes().await?;
        let target = self.cluster.node(STOREFRONT).outbound;
        self.say(&format!(
            "all are healthy; the storefront begins to call, by its sidecar at http://{target}"
        ));
        self.cluster.start_storefront().await?;
        self.say(&load::sentence());
        Ok(())
    }

    async fn kill_node(&mut self) -> Result<Killed, DemoError> {
        let began = self.begin_phase("node killed", false).await?;
        // From here on the calm phase does not change any more.
        let storefront = self.cluster.storefront()?;
        let interim = storefront.interim().await.map_err(ClusterError::from)?;
        self.stage.show(&report::calm(&calm(&interim)));
        self.say(&format!("SIGKILL to {KILLED}, its sidecar and its app"));
        let at = now();
        self.cluster.kill_node(KILLED).await?;
        let gone = now();
        self.go_on(AFTER_KILL).await?;
        self.step(&format!("{KILLED} killed by SIGKILL"), "node killed", began);
        Ok(Killed {
            node: KILLED.to_owned(),
            at,
            gone,
        })
    }

    async fn restart_control(&mut self) -> Result<(), DemoError> {
        let phase = "control restarted";
        let began = self.begin_phase(phase, false).await?;
        self.say("SIGKILL to control");
        self.cluster.kill_control().await?;
        self.go_on(WITHOUT_CONTROL).await?;
        self.say("control starts again");
        self.cluster.start_control().await?;
        self.cluster.all_back().await?;
        self.say("all nodes are back at control");
        self.go_on(AFTERMATH).await?;
        self.step("control killed by SIGKILL and restarted", phase, began);
        Ok(())
    }

    async fn roll(&mut self, node: &'static str) -> Result<(), DemoError> {
        let phase = format!("{node} rolled");
        let began = self.begin_phase(&phase, false).await?;
        self.say(&format!(
            "SIGTERM to {node}: it drains, ends and starts again"
        ));
        self.cluster.roll(node).await?;
        let storefront = self.cluster.storefront()?;
        let answered = |heard: &super::storefront::Heard| {
            let progress = heard.progress.as_ref();
            progress.map_or(0, |progress| {
                progress.nodes.get(node).copied().unwrap_or_default()
            })
        };
        let before = answered(&storefront.heard());
        storefront
            .until(
                "the node that came back answers calls",
                ANSWERS_LIMIT,
                |heard| answered(heard) >= before + ANSWERS_AGAIN,
            )
            .await
            .map_err(ClusterError::from)?;
        self.say(&format!("{node} is back and answers calls"));
        self.step(
            &format!("{node} rolled: drained, ended, started"),
            &phase,
            began,
        );
        Ok(())
    }

    async fn phase(&mut self, name: &str, direct: bool, time: Duration) -> Result<(), DemoError> {
        let began = self.begin_phase(name, direct).await?;
        self.go_on(time).await?;
        self.step(name, name, began);
        Ok(())
    }

    async fn begin_phase(&mut self, name: &str, direct: bool) -> Result<Instant, DemoError> {
        let storefront = self.cluster.storefront()?;
        storefront
            .phase(name, direct)
            .await
            .map_err(ClusterError::from)?;
        Ok(Instant::now())
    }

    /// The phase is over.
    fn step(&mut self, what: &str, phase: &str, began: Instant) {
        self.steps.push(Step {
            what: what.to_owned(),
            phase: phase.to_owned(),
            took: began.elapsed(),
        });
    }

    /// Lets the load go on, tells how it goes, and notices processes that end.
    async fn go_on(&mut self, time: Duration) -> Result<(), DemoError> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let next = Instant::now() + TELL_EVERY;
            sleep(next.min(end).duration_since(Instant::now())).await;
            self.cluster.must_live()?;
            let storefront = self.cluster.storefront()?;
            let told = storefront.heard().progress.clone().unwrap_or_default();
            self.say(&format!(
                "  {:6} calls, {} failed ({})",
                told.calls, told.failed, told.phase
            ));
        }
        Ok(())
    }

    fn say(&self, line: &str) {
        self.stage.say(line);
    }
}
