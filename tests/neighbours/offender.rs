//! A program that takes all it can get of one thing. Compiled by the tests with rustc alone, static.
//!
//! `offender WHAT [ARGUMENT]` waits until there is `/go`, then begins, and goes on until it is killed.
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

unsafe extern "C" {
    fn fork() -> i32;
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let argument = args.get(2).map_or("", String::as_str);
    println!("waiting");
    while !Path::new("/go").exists() {
        std::thread::sleep(Duration::from_millis(50));
    }
    match args.get(1).map(String::as_str) {
        Some("processes") => processes(),
        Some("memory") => memory(),
        Some("disk") => disk(argument),
        Some("inodes") => inodes(argument),
        Some("log") => log(),
        Some("connections") => connections(argument),
        Some("datagrams") => datagrams(argument),
        Some("files") => files(),
        Some("processor") => processor(),
        _ => panic!("what?"),
    }
}

/// Each makes more of them, and works.
fn processes() -> ! {
    loop {
        if unsafe { fork() } < 0 {
            std::hint::spin_loop();
        }
    }
}

fn memory() -> ! {
    let mut all = Vec::new();
    loop {
        all.push(vec![1_u8; 1 << 20]);
    }
}

/// Fills what is written to, and begins again.
fn disk(dir: &str) -> ! {
    let bytes = vec![0x5a_u8; 1 << 20];
    for n in 0_u64.. {
        let path = format!("{dir}/big-{n}");
        let Ok(mut file) = File::create(&path) else {
            let _ = std::fs::remove_file(format!("{dir}/big-{}", n.saturating_sub(1)));
            continue;
        };
        while file.write_all(&bytes).is_ok() {}
        let _ = file.sync_all();
        if n % 4 == 3 {
            for old in n - 3..=n {
                let _ = std::fs::remove_file(format!("{dir}/big-{old}"));
            }
        }
    }
    unreachable!()
}

fn inodes(dir: &str) -> ! {
    for n in 0_u64.. {
        let _ = File::create(format!("{dir}/small-{n}"));
    }
    unreachable!()
}

fn log() -> ! {
    let lines = "all work and no play makes jack a dull boy\n".repeat(1500);
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    loop {
        let _ = out.write_all(lines.as_bytes());
        let _ = err.write_all(lines.as_bytes());
    }
}

/// As many as can be open at once, then new ones for old ones.
fn connections(to: &str) -> ! {
    let to: SocketAddrV4 = to.parse().expect("an address");
    for _ in 0..8 {
        std::thread::spawn(move || {
            let mut open = VecDeque::new();
            loop {
                match TcpStream::connect_timeout(&to.into(), Duration::from_millis(200)) {
                    Ok(stream) => open.push_back(stream),
                    Err(_) => drop(open.pop_front()),
                }
                if open.len() > 3000 {
                    open.pop_front();
                }
            }
        });
    }
    loop {
        std::thread::park();
    }
}

/// Each to another port and address, each from another port: flows without number.
fn datagrams(to: &str) -> ! {
    let [a, b, c, _] = to.parse::<Ipv4Addr>().expect("an address").octets();
    let mut sockets = Vec::new();
    for n in 0_u32.. {
        if n % 1000 == 0 {
            sockets = (0..100).filter_map(|_| UdpSocket::bind("0.0.0.0:0").ok()).collect();
        }
        let to = SocketAddrV4::new(Ipv4Addr::new(a, b, c, (n % 254) as u8 + 1), (n / 254 % 60_000) as u16 + 1000);
        let _ = sockets[n as usize % sockets.len().max(1)].send_to(b"flood", to);
    }
    unreachable!()
}

fn files() -> ! {
    let mut open = Vec::new();
    for n in 0_u64.. {
        // Of the image, of the writable layer, and sockets.
        let file = match n % 3 {
            0 => File::open("/bin/busybox").ok().map(Into::into),
            1 => File::create(format!("/tmp/open-{n}")).ok().map(Into::into),
            _ => UdpSocket::bind("0.0.0.0:0").ok().map(std::os::fd::OwnedFd::from),
        };
        match file {
            Some(f) => open.push(f),
            None if n % 100_000 == 0 => open.clear(),
            None => {}
        }
    }
    unreachable!()
}

fn processor() -> ! {
    for _ in 0..32 {
        std::thread::spawn(|| {
            let mut x = 1_u64;
            loop {
                x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            }
        });
    }
    loop {
        std::thread::park();
    }
}
