//! What monitoring asks: counted as it happens, or read when it is asked for, in the text format of Prometheus.
//!
//! The number of series is bounded: labels are states, codes, routes and operations, of which there are so many and no more.
//! Single pods are shown only if asked for, and `MOST_PODS` of them at most. What is read anew each time leaves nothing
//! behind when a pod goes.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use super::Core;
use super::trace::Done;
use crate::host::cgroup::Usage;
use crate::host::network::Counters;
use crate::host::{files, process};
use crate::model::{Error, ExitReason, PodRecord, PodState, Result};

/// Pods that are shown one by one, the oldest first.
const MOST_PODS: usize = 500;
/// Seconds: a start is a few hundredths, a wake out of a far store a minute.
const SECONDS: [f64; 14] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0];

type Labels = Vec<(&'static str, String)>;
type Number = Gauge<f64, AtomicU64>;
type Total = Counter<f64, AtomicU64>;
type Timed = Family<Labels, Histogram, fn() -> Histogram>;

/// What is counted as it happens.
pub struct Metrics {
    operations: Timed,
    failures: Family<Labels, Counter>,
    exits: Family<Labels, Counter>,
    requests: Family<Labels, Counter>,
    /// Of the pool of spares.
    spares: Family<Labels, Gauge>,
    pool_target: Family<Labels, Gauge>,
    handed_out: Family<Labels, Counter>,
}

/// Where a pod that was handed out came from.
const SPARE: &str = "spare";
const MADE: &str = "made";

impl Default for Metrics {
    fn default() -> Self {
        let this = Metrics {
            operations: Timed::new_with_constructor(|| Histogram::new(SECONDS)),
            failures: Family::default(),
            exits: Family::default(),
            requests: Family::default(),
            spares: Family::default(),
            pool_target: Family::default(),
            handed_out: Family::default(),
        };
        // As long as there is none.
        this.pool(0, 0, 0);
        for source in [SPARE, MADE] {
            drop(this.handed_out.get_or_create(&labelled("source", source)));
        }
        this
    }
}

impl Metrics {
    /// An operation on a pod has ended.
    pub(super) fn operation(&self, done: &Done) {
        let operation = ("operation", done.operation.as_str().to_owned());
        match done.failed {
            None => self.operations.get_or_create(&vec![operation]).observe(done.took.as_secs_f64()),
            Some(code) => {
                self.failures.get_or_create(&vec![operation, ("code", code.as_str().to_owned())]).inc();
            }
        }
    }

    /// A pod's command has ended.
    pub(super) fn exited(&self, reason: ExitReason) {
        self.exits.get_or_create(&vec![("reason", super::view::reason(reason))]).inc();
    }

    /// How many spares there are, and are to be.
    pub fn pool(&self, ready: usize, making: usize, target: usize) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.spares.get_or_create(&labelled("state", "ready")).set(count(ready));
        self.spares.get_or_create(&labelled("state", "making")).set(count(making));
        self.pool_target.get_or_create(&Vec::new()).set(count(target));
    }

    /// Somebody got a pod: a spare, or one that was made for it.
    pub fn handed_out(&self, spare: bool) {
        self.handed_out.get_or_create(&labelled("source", if spare { SPARE } else { MADE })).inc();
    }

    /// A request was answered. `route` must be one of few.
    pub fn answered(&self, surface: &'static str, method: &'static str, route: &'static str, status: u16) {
        let labels = vec![
            ("surface", surface.to_owned()),
            ("method", method.to_owned()),
            ("route", route.to_owned()),
            ("status", status.to_string()),
        ];
        self.requests.get_or_create(&labels).inc();
    }
}

/// One exposition.
#[derive(Default)]
struct Page(Registry);

impl Page {
    fn put(&mut self, name: &str, help: &str, metric: impl Metric) {
        self.0.register(name, help, metric);
    }

    /// What goes up and down.
    #[expect(clippy::cast_precision_loss, reason = "the format has no other numbers")]
    fn gauge(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let all = Family::<Labels, Number>::default();
        for (labels, value) in values {
            all.get_or_create(&labels).set(value as f64);
        }
        self.put(name, help, all);
    }

    /// What only grows; the name is written with `_total`.
    fn total(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
        let all = Family::<Labels, Total>::default();
        for (labels, value) in values {
            all.get_or_create(&labels).inc_by(value);
        }
        self.put(name, help, all);
    }
}

fn one<T>(value: T) -> [(Labels, T); 1] {
    [(Vec::new(), value)]
}

fn labelled(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

/// A label's value that needs no escapes.
fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).take(200).collect()
}

#[expect(clippy::cast_precision_loss, reason = "seconds of processor time")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[expect(clippy::cast_precision_loss, reason = "the format has no other numbers")]
fn number(n: u64) -> f64 {
    n as f64
}

impl Core {
    /// What is counted as it happens.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// `GET /metrics`, in the OpenMetrics text format; `each`: pods one by one, too.
    ///
    /// # Errors
    /// The kernel does not tell what it is asked.
    pub async fn exposition(&self, each: bool) -> Result<String> {
        let mut page = Page::default();
        self.own(&mut page)?;
        self.of_pods(&mut page).await;
        self.room_of_host(&mut page)?;
        let m = &self.metrics;
        let about = "Operations on pods that were done, and how long they took";
        page.put("torpor_pod_operation_duration_seconds", about, m.operations.clone());
        page.put("torpor_pod_operation_failures", "Operations on pods that failed", m.failures.clone());
        page.put("torpor_pod_exits", "Ends of pods' commands", m.exits.clone());
        page.put("torpor_pool_spares", "Spares of the pool, by state", m.spares.clone());
        page.put("torpor_pool_target_spares", "Spares that are to be ready", m.pool_target.clone());
        let about = "Containers that were given to those who asked where there is a pool, by where they came from";
        page.put("torpor_pool_handed_out", about, m.handed_out.clone());
        page.put("torpor_http_requests", "Requests that were answered", m.requests.clone());
        let requests = self.host.store.requests();
        let of = |n: fn(&crate::host::store::Requests) -> u64| {
            requests.iter().map(|r| (labelled("request", r.kind), number(n(r)))).collect::<Vec<_>>()
        };
        page.total("torpor_store_requests", "Requests to the object store", of(|r| r.all));
        page.total("torpor_store_request_failures", "Requests to the object store that failed", of(|r| r.failed));
        if each {
            self.each_pod(&mut page).await;
        }
        let mut out = String::new();
        text::encode(&mut out, &page.0).map_err(|e| Error::internal("write the metrics").because(e))?;
        Ok(out)
    }

    fn own(&self, page: &mut Page) -> Result<()> {
        let version = self.version();
        let labels = vec![
            ("version", version.version),
            ("engine", plain(version.engine.as_deref().unwrap_or(""))),
            ("instance_tag", version.instance),
        ];
        page.gauge("torpor_build_info", "Which torpord this is", [(labels, 1)]);
        let healthy = self.health().problems.is_empty();
        page.gauge("torpor_healthy", "1: nothing keeps torpord from working", one(u64::from(healthy)));
        let p = process::usage()?;
        page.total("process_cpu_seconds", "Processor time of torpord", one(p.cpu_seconds));
        page.gauge("process_resident_memory_bytes", "Memory of torpord", one(p.resident));
        page.gauge("process_virtual_memory_bytes", "Address space of torpord", one(p.virtual_memory));
        page.gauge("process_threads", "Threads of torpord", one(p.threads));
        page.gauge("process_open_fds", "Open descriptors of torpord", one(p.open_files));
        page.gauge("process_max_fds", "Descriptors that torpord may have", one(p.most_files));
        let started = Number::default();
        started.set(p.started);
        page.put("process_start_time_seconds", "When torpord was started, since 1970", started);
        Ok(())
    }

    async fn of_pods(&self, page: &mut Page) {
        let pods = self.pods();
        let of = |state| pods.iter().filter(|p| p.state() == state).count() as u64;
        let states = PodState::ALL.map(|s| (labelled("state", s.as_str()), of(s)));
        page.gauge("torpor_pods", "Pods, by state", states);
        let unreadable = self.unreadable.len() as u64;
        page.gauge("torpor_pods_unreadable", "Pods whose records can't be read", one(unreadable));
        // Before the first pod there is neither.
        let used = self.host.cgroups.all_usage().await.unwrap_or_default();
        let gone = self.host.network.traffic().await.unwrap_or_default();
        let cpu = one(seconds(used.cpu_ns));
        page.total("torpor_sandboxes_cpu_seconds", "Processor time of all sandboxes, those that are gone too", cpu);
        let memory = one(used.memory.saturating_sub(used.cache));
        page.gauge("torpor_sandboxes_memory_bytes", "Memory of all sandboxes, without what can be dropped", memory);
        page.gauge("torpor_sandboxes_processes", "Processes and threads of all sandboxes", one(used.pids));
        let received = one(number(gone.rx_bytes));
        page.total("torpor_network_receive_bytes", "Bytes that pods received from outside their network", received);
        let sent = one(number(gone.tx_bytes));
        page.total("torpor_network_transmit_bytes", "Bytes that pods sent out of their network", sent);
    }

    fn room_of_host(&self, page: &mut Page) -> Result<()> {
        let room = self.capacity()?;
        let wares = [("memory", &room.memory), ("disk", &room.disk)];
        let of = |value: fn(&crate::api::types::capacity::Budget) -> u64| {
            wares.map(|(name, budget)| (labelled("resource", name), value(budget)))
        };
        page.gauge("torpor_capacity_bytes", "What the host has", of(|b| b.capacity));
        page.gauge("torpor_capacity_limit_bytes", "What may be promised to pods", of(|b| b.limit));
        page.gauge("torpor_capacity_promised_bytes", "What is promised to pods", of(|b| b.promised));
        let free = files::free_bytes(self.dirs.state())?;
        page.gauge("torpor_disk_free_bytes", "Free bytes of the state directory's disk", one(free));
        let reserve = one(self.config().disk_reserve);
        page.gauge("torpor_disk_reserve_bytes", "Bytes of that disk that are kept free", reserve);
        Ok(())
    }

    async fn each_pod(&self, page: &mut Page) {
        let mut awake: Vec<PodRecord> =
            self.records().into_iter().filter(|r| matches!(r.state, PodState::Running | PodState::Paused)).collect();
        awake.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        let more = awake.len().saturating_sub(MOST_PODS) as u64;
        awake.truncate(MOST_PODS);
        let mut seen: Vec<(Labels, PodRecord, Usage, Counters)> = Vec::new();
        for record in awake {
            // One that ends meanwhile is not shown.
            let usage = self.host.cgroups.usage(&record.runtime_id().to_string()).await;
            let counters = self.host.network.counters(&self.pod_net(&record)).await;
            if let (Ok(usage), Ok(counters)) = (usage, counters) {
                let labels = vec![("pod", record.spec.name.to_string()), ("id", record.id.to_string())];
                seen.push((labels, record, usage, counters));
            }
        }
        page.gauge("torpor_pod_series_left_out", "Pods that run and are not shown one by one", one(more));
        page.total(
            "torpor_pod_cpu_seconds",
            "Processor time of a pod's sandbox",
            seen.iter().map(|(l, _, u, _)| (l.clone(), seconds(u.cpu_ns))),
        );
        page.gauge(
            "torpor_pod_memory_bytes",
            "Memory of a pod's sandbox, without what can be dropped",
            seen.iter().map(|(l, _, u, _)| (l.clone(), u.memory.saturating_sub(u.cache))),
        );
        page.gauge(
            "torpor_pod_memory_limit_bytes",
            "Memory that a pod may have",
            seen.iter().map(|(l, r, _, _)| (l.clone(), r.spec.resources.memory)),
        );
        page.gauge(
            "torpor_pod_processes",
            "Processes and threads of a pod's sandbox",
            seen.iter().map(|(l, _, u, _)| (l.clone(), u.pids)),
        );
        page.total(
            "torpor_pod_network_receive_bytes",
            "Bytes that a pod received",
            seen.iter().map(|(l, _, _, c)| (l.clone(), number(c.rx_bytes))),
        );
        page.total(
            "torpor_pod_network_transmit_bytes",
            "Bytes that a pod sent",
            seen.iter().map(|(l, _, _, c)| (l.clone(), number(c.tx_bytes))),
        );
    }
}

/// The same in the older text format, version 0.0.4, which every reader knows: there a counter's description bears the name of
/// its series.
pub fn older_format(openmetrics: &str) -> String {
    let counters: std::collections::BTreeSet<&str> =
        openmetrics.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut out = String::with_capacity(openmetrics.len() + 1024);
    for line in openmetrics.lines().filter(|l| *l != "# EOF") {
        let described = line.strip_prefix("# ").and_then(|rest| {
            let (kind, rest) = rest.split_once(' ')?;
            let (name, rest) = rest.split_once(' ')?;
            counters.contains(name).then(|| format!("# {kind} {name}_total {rest}"))
        });
        out.push_str(described.as_deref().unwrap_or(line));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_described_by_the_names_of_their_series() {
        let text =
            "# HELP a_b Of a b.\n# TYPE a_b counter\na_b_total{x=\"1\"} 2\n# HELP c C.\n# TYPE c gauge\nc 1\n# EOF\n";
        let older = "# HELP a_b_total Of a b.\n# TYPE a_b_total counter\na_b_total{x=\"1\"} 2\n# HELP c C.\n# TYPE c gauge\nc 1\n";
        assert_eq!(older_format(text), older);
    }

    #[test]
    fn labels_are_plain() {
        assert_eq!(plain("release-2026\"\n\\x y ä"), "release-2026xy");
    }

    #[test]
    fn failures_have_their_code_and_no_time() {
        let metrics = Metrics::default();
        metrics.exited(ExitReason::Oom);
        metrics.answered("v1", "GET", "/v1/pods/{pod}", 404);
        let mut registry = Registry::default();
        registry.register("x", "X", metrics.exits.clone());
        registry.register("y", "Y", metrics.requests.clone());
        let mut out = String::new();
        text::encode(&mut out, &registry).unwrap();
        assert!(out.contains("x_total{reason=\"oom\"} 1\n"), "{out}");
        assert!(out.contains("route=\"/v1/pods/{pod}\",status=\"404\"} 1\n"), "{out}");
    }
}
