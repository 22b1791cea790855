//! A server for tests that says again what it is told, at a port of the loopback. Compiled by the tests with rustc alone, static.
use std::net::{Ipv4Addr, Shutdown, TcpListener};

fn main() {
    let port = std::env::args().nth(1).and_then(|p| p.parse().ok()).expect("a port");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("listen");
    println!("listening on {port}");
    for stream in listener.incoming() {
        let Ok(mut from) = stream else { continue };
        std::thread::spawn(move || {
            let mut to = from.try_clone().expect("clone");
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}
