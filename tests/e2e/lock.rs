//! Another program holds the database's lock: what is asked is refused and said plainly, what happens is not forgotten.

use crate::daemon::{self, Daemon, code, counter, get, script};

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_database_is_told_and_survived() {
    if !daemon::ready() {
        return;
    }
    let mut d = Daemon::start();
    d.import("test").await;
    let web = d.counter("web").await;
    let port = web.ports[0].host;
    assert_eq!(get(port, "/"), "1");
    d.client.create_pod(&script("brief", "until [ -e /go ]; do usleep 20000; done; exit 7")).await.unwrap();
    let other = rusqlite::Connection::open(d.dir.join("state/torpor.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();

    d.exec("brief", "touch /go").await; // its end can't be written down now
    let e = d.client.create_pod(&counter("new")).await.unwrap_err();
    assert_eq!(code(&e), "in_use", "{e}");
    assert!(e.to_string().contains("locked"), "{e}");
    assert_eq!(d.client.inspect("web").await.unwrap().sandbox_pid, web.sandbox_pid);
    assert_eq!(get(port, "/"), "2");

    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(d.client.wait("brief").await.unwrap().exit_code, 7);
    d.client.create_pod(&counter("new")).await.unwrap();
    crate::support::tried(1);
    d.kill();
    d.launch();
    assert_eq!(d.client.inspect("brief").await.unwrap().exit_code, Some(7));
    assert_eq!(get(port, "/"), "3");
}
