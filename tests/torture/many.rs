//! R11: torpord is killed and started again and again over many pods, most of them at rest.

use std::sync::Arc;
use std::time::Duration;

use crate::daemon::{Daemon, Options, script};
use crate::load::{Desk, Steady, Worker};
use crate::rest;
use crate::tally::Tally;

const AT_REST: u64 = 100;
const RUNNING: u64 = 10;
/// torpord is ready again within that.
const READY: Duration = Duration::from_secs(10);

pub async fn pods(tally: &Arc<Tally>, trials: u64) {
    let mut d = Daemon::with(Options::default());
    d.import("test").await;
    let desk = Desk { client: d.client.clone(), tally: Arc::clone(tally), me: "many" };
    let mut steady = Vec::new();
    for n in 0..RUNNING {
        steady.extend(Steady::new(desk.clone(), &format!("runs-{n}")).await);
    }
    for n in 0..AT_REST {
        let mut pod = script(&format!("rests-{n}"), "true");
        pod.start = n % 10 == 0;
        if desk.must("create", desk.client.create_pod(&pod)).await.is_some() && pod.start {
            desk.must("wait", desk.client.wait(&format!("rests-{n}"))).await;
        }
    }
    for _ in 0..trials {
        tally.begin_trial();
        d.kill();
        tally.recovered(d.launch(), READY);
        for pod in &mut steady {
            pod.verify().await;
        }
        let all = desk.must("list pods", desk.client.pods()).await.unwrap_or_default();
        let at_rest = all.iter().filter(|p| matches!(p.state.as_str(), "created" | "stopped")).count() as u64;
        if at_rest != AT_REST {
            desk.lost(&format!("{at_rest} pods are at rest, not {AT_REST}"));
        }
    }
    rest::empty(&d, tally).await;
    rest::end(d, tally);
}
