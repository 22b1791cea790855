//! Pods that stand still.

use std::time::Duration;

use crate::daemon::{self, Daemon, get, script};

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_pod_stands_still_and_goes_on() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    let web = d.counter("web").await;
    let port = web.ports[0].host;
    assert_eq!(get(port, "/"), "1");
    d.exec("web", "(while :; do echo x >> /ticks; sleep 0.01; done) > /dev/null 2>&1 & echo").await;
    let paused = d.client.pause("web").await.unwrap();
    assert_eq!((paused.state.as_str(), paused.sandbox_pid), ("paused", web.sandbox_pid));
    assert_eq!(d.client.pause("web").await.unwrap().state, "paused");
    let e = d.client.kill("web", "TERM").await.unwrap_err();
    assert_eq!((daemon::code(&e), e.hint()), ("wrong_state", Some("resume it first")));
    // Nobody answers, before and after torpord is started anew.
    let silent = || {
        let mut s =
            std::net::TcpStream::connect_timeout(&(std::net::Ipv4Addr::LOCALHOST, port).into(), Duration::from_secs(5))
                .unwrap();
        s.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        std::io::Write::write_all(&mut s, b"GET /quiet HTTP/1.0\r\n\r\n").is_ok()
            && std::io::Read::read(&mut s, &mut [0; 100]).is_err()
    };
    assert!(silent());
    d.kill();
    d.launch();
    assert_eq!(d.client.inspect("web").await.unwrap().state, "paused");
    assert!(silent());
    assert_eq!(d.client.resume("web").await.unwrap().state, "running");
    let ticks: u64 = d.exec("web", "wc -l < /ticks").await.stdout.trim().parse().unwrap();
    assert!(ticks > 0);
    get(port, "/");

    // Paused pods sleep, stop and go.
    d.client.pause("web").await.unwrap();
    assert_eq!(d.sleep("web").await.state, "sleeping");
    assert_eq!(d.wake("web").await.state, "running");
    let more: u64 = d.exec("web", "wc -l < /ticks").await.stdout.trim().parse().unwrap();
    assert!(more >= ticks);
    d.client.create_pod(&script("trap", "trap 'exit 7' TERM; while :; do sleep 0.02; done")).await.unwrap();
    d.client.pause("trap").await.unwrap();
    assert_eq!(d.stop("trap").await.exit_code, Some(7));
    d.client.pause("web").await.unwrap();
    assert_eq!(daemon::code(&d.client.remove("web", false).await.unwrap_err()), "wrong_state");
    d.client.remove("web", true).await.unwrap();

    // One whose sandbox dies while it is paused has ended.
    let pod = d.client.create_pod(&script("lost", "sleep 1000")).await.unwrap();
    let host = format!("unix://{}", d.socket.display());
    let torpor = |args: &[&str]| {
        let ran =
            std::process::Command::new(env!("CARGO_BIN_EXE_torpor")).args(args).env("TORPOR_HOST", &host).output();
        ran.unwrap().status.code()
    };
    assert_eq!(
        (torpor(&["pause", "lost"]), torpor(&["unpause", "lost"]), torpor(&["pause", "lost"])),
        (Some(0), Some(0), Some(0))
    );
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pod.sandbox_pid.unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(d.client.wait("lost").await.unwrap().exit_reason, "sandbox-lost");
}
