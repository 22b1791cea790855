//! Nothing is promised that the host has not.

use torpor::api::client::ClientError;
use torpor::api::types::capacity::Shortage;
use torpor::api::types::{CreatePod, Pod, Size, UpdatePod, WakePod};

use crate::daemon::{self, Daemon, Options, code, counter, get, script};

const MIB: u64 = 1 << 20;

/// A daemon that may promise so much memory.
fn with_memory(bytes: u64) -> Daemon {
    let all = torpor::host::memory::of_host().unwrap();
    Daemon::with(Options {
        config: format!("memory-head-room = {}\ndisk-overcommit = 1\n", all - bytes),
        ..Options::default()
    })
}

fn room(done: Result<Pod, ClientError>) -> Shortage {
    match done {
        Err(ClientError::Refused(problem)) => {
            assert_eq!((problem.status, problem.code.as_str()), (507, "exhausted"), "{problem:?}");
            problem.room.unwrap()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pod_gets_what_others_were_promised() {
    if !daemon::ready() {
        return;
    }
    let mut d = with_memory(640 * MIB);
    d.import("test").await;
    let web = d.counter("web").await;
    d.counter("other").await;
    let sums = room(d.client.create_pod(&counter("third")).await);
    assert_eq!((sums.resource.as_str(), sums.asked, sums.promised), ("memory", 256 * MIB, 512 * MIB));
    assert_eq!((sums.limit, sums.capacity - sums.head_room, sums.ratio), (640 * MIB, 640 * MIB, 1.0));
    let shown = d.client.capacity().await.unwrap();
    assert_eq!((shown.memory.promised, shown.memory.left, shown.pods.awake), (512 * MIB, 128 * MIB, 2));
    // What is only made, and what is over, has no memory.
    d.client.create_pod(&CreatePod { start: false, ..counter("third") }).await.unwrap();
    assert_eq!(room(d.client.start("third").await).promised, 512 * MIB);
    assert_eq!(d.client.inspect("third").await.unwrap().state, "created");
    // Nor has what sleeps, until it wakes.
    assert_eq!(get(web.ports[0].host, "/"), "1");
    d.sleep("web").await;
    d.client.start("third").await.unwrap();
    for cold in [false, true] {
        room(d.client.wake("web", &WakePod { cold, ..WakePod::default() }, &mut |_| ()).await);
    }
    assert_eq!(d.client.inspect("web").await.unwrap().state, "sleeping");
    // A restart forgets no promise.
    d.kill();
    d.launch();
    room(d.client.wake("web", &WakePod::default(), &mut |_| ()).await);
    let more = |m: u64| UpdatePod { memory: Some(Size::Bytes(m * MIB)), ..UpdatePod::default() };
    assert_eq!(room(d.client.update("other", &more(512)).await).asked, 512 * MIB);
    d.client.update("other", &more(384)).await.unwrap();
    d.client.update("other", &more(128)).await.unwrap();
    d.wake("web").await;
    assert_eq!(get(web.ports[0].host, "/"), "2");
    // The last room goes to one of many.
    d.client.remove("third", true).await.unwrap();
    d.client.remove("other", true).await.unwrap();
    // There is memory for it, and no disk.
    let large = CreatePod {
        disk: Some(Size::Bytes(1 << 45)),
        memory: Some(Size::Text("64m".into())),
        ..script("large", "true")
    };
    assert_eq!(room(d.client.create_pod(&large).await).resource, "disk");
    let pods: Vec<CreatePod> = (0..5).map(|n| script(&format!("p{n}"), "sleep 1000")).collect();
    let all = futures::future::join_all(pods.iter().map(|p| d.client.create_pod(p))).await;
    let refused: Vec<&str> = all.iter().filter_map(|r| r.as_ref().err().map(code)).collect();
    assert_eq!(refused, ["exhausted"; 4]);
    let shown = d.client.capacity().await.unwrap();
    assert_eq!((shown.memory.promised, shown.pods.awake), (512 * MIB, 2));
    crate::support::tried(12);
}

#[tokio::test(flavor = "multi_thread")]
async fn tiers_are_limits_by_name_and_what_is_said_wins() {
    if !daemon::ready() {
        return;
    }
    let config = "[tiers.'mine']\ncpus = 0.25\nmemory = '96m'\ndisk = '64m'\npids = 77\n";
    let d = Daemon::with(Options { config: config.into(), ..Options::default() });
    d.import("test").await;
    let tiers = d.client.tiers().await.unwrap();
    let names: Vec<&str> = tiers.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["dev.large", "dev.medium", "dev.small", "mine"]);
    let small = &tiers[2].resources;
    assert_eq!((small.cpus, small.memory), (0.5, 1 << 30));
    let pod = |name: &str| CreatePod { tier: Some("mine".into()), memory: None, start: false, ..script(name, "true") };
    let made = d.client.create_pod(&pod("a")).await.unwrap().resources;
    assert_eq!((made.cpus, made.memory, made.disk, made.pids), (0.25, 96 * MIB, 64 * MIB, 77));
    let made = CreatePod { cpus: Some(0.5), memory: Some(Size::Text("128m".into())), ..pod("b") };
    let made = d.client.create_pod(&made).await.unwrap().resources;
    assert_eq!((made.cpus, made.memory, made.disk, made.pids), (0.5, 128 * MIB, 64 * MIB, 77));
    let e = d.client.create_pod(&CreatePod { tier: Some("nosuch".into()), ..pod("c") }).await.unwrap_err();
    assert_eq!(code(&e), "invalid_request");
    assert!(e.hint().unwrap().contains("dev.small"), "{e}");
}
