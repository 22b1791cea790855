//! What is run on both ends of a probe: in pods, in their network namespaces, on the host and outside. Compiled by the tests
//! with rustc alone, static.
//!
//! `serve NAME PORT...` answers `NAME` by TCP and UDP, and keeps what came in: `?` asks for all of it. The other commands
//! try one way once and print `answer WHO`, `none WHY` or `no-socket WHY`.
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_millis(700);

unsafe extern "C" {
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, length: c_uint) -> c_int;
    fn sendto(fd: c_int, buf: *const c_void, n: usize, flags: c_int, to: *const c_void, length: c_uint) -> isize;
    fn recv(fd: c_int, buf: *mut c_void, n: usize, flags: c_int) -> isize;
    fn if_nametoindex(name: *const c_char) -> c_uint;
}

const INET: c_int = 2;
const INET6: c_int = 10;
const PACKET: c_int = 17;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let said = match words[..] {
        ["serve", name, ref ports @ ..] => serve(name, ports),
        ["tcp", to, token] => tcp(to, token),
        ["udp", to, token] => udp("0.0.0.0:0", to, token, &[]),
        ["udp6", to, token] => udp("[::]:0", to, token, &[]),
        ["udp-from", from, to, token] => udp(from, to, token, &[]),
        // IP_OPTIONS: a route that the packet is to take.
        ["udp-by", kind, via, to, token] => udp("0.0.0.0:0", to, token, &source_route(kind, via)),
        ["icmp", to, token] => icmp(to, token),
        ["unix", path] => answer(UnixStream::connect(path).map(|_| "unix".into())),
        ["abstract", name] => answer(
            std::os::unix::net::SocketAddr::from_abstract_name(name)
                .and_then(|a| UnixStream::connect_addr(&a))
                .map(|_| "abstract".into()),
        ),
        ["raw", kind] => raw(kind),
        ["frame", link, hex] => frame(link, hex),
        ["arp", link, request, who] => arp(link, request, who),
        _ => "none usage".into(),
    };
    println!("{said}");
}

fn answer(got: std::io::Result<String>) -> String {
    match got {
        Ok(who) => format!("answer {who}"),
        Err(e) => format!("none {e}"),
    }
}

/// What came in, for ever.
type Seen = Arc<Mutex<Vec<String>>>;

fn serve(name: &str, ports: &[&str]) -> String {
    let seen: Seen = Arc::default();
    for port in ports {
        // `127.0.0.1:1` and the like, or a port on all addresses.
        let addresses = if port.contains(':') {
            vec![(*port).to_owned()]
        } else {
            vec![format!("0.0.0.0:{port}"), format!("[::]:{port}")]
        };
        for address in addresses {
            let address: SocketAddr = address.parse().expect("an address");
            // Where IPv4 has the port, the IPv6 socket must not take it too.
            let Ok(listener) = listen(address) else { continue };
            let (own, all) = (name.to_owned(), Arc::clone(&seen));
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (name, all) = (own.clone(), Arc::clone(&all));
                    std::thread::spawn(move || talk(stream, &name, &all));
                }
            });
            let Ok(socket) = bind_udp(address) else { continue };
            let (name, all) = (name.to_owned(), Arc::clone(&seen));
            std::thread::spawn(move || {
                let _ = socket.set_broadcast(true);
                let _ = socket.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 251), &Ipv4Addr::UNSPECIFIED);
                let mut bytes = [0; 2048];
                while let Ok((n, from)) = socket.recv_from(&mut bytes) {
                    note(&all, &bytes[..n]);
                    let _ = socket.send_to(name.as_bytes(), from);
                }
            });
        }
    }
    // ICMP that comes in, where that may be seen.
    for (domain, protocol) in [(INET, 1), (INET6, 58)] {
        let (fd, all) = (unsafe { socket(domain, 3, protocol) }, Arc::clone(&seen));
        if fd >= 0 {
            std::thread::spawn(move || {
                let mut bytes = [0_u8; 2048];
                while let Ok(n) = usize::try_from(unsafe { recv(fd, bytes.as_mut_ptr().cast(), bytes.len(), 0) }) {
                    note(&all, &bytes[..n]);
                }
            });
        }
    }
    println!("serving");
    loop {
        std::thread::park();
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    if address.is_ipv4() { TcpListener::bind(address) } else { only_v6(1, address).map(Into::into) }
}

fn bind_udp(address: SocketAddr) -> std::io::Result<UdpSocket> {
    if address.is_ipv4() { UdpSocket::bind(address) } else { only_v6(2, address).map(Into::into) }
}

/// A bound IPv6 socket that takes no IPv4; the standard library has none.
fn only_v6(kind: c_int, address: SocketAddr) -> std::io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    unsafe extern "C" {
        fn bind(fd: c_int, to: *const c_void, length: c_uint) -> c_int;
        #[link_name = "listen"]
        fn start_listening(fd: c_int, backlog: c_int) -> c_int;
    }
    let SocketAddr::V6(v6) = address else { unreachable!() };
    let fd = unsafe { socket(INET6, kind, 0) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let owned = unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) };
    let one: c_int = 1;
    let mut raw = vec![INET6 as u8, 0];
    raw.extend(v6.port().to_be_bytes());
    raw.extend([0; 4]);
    raw.extend(v6.ip().octets());
    raw.extend([0; 4]);
    let done = unsafe {
        setsockopt(fd, 41, 26, (&raw const one).cast(), 4) == 0
            && bind(fd, raw.as_ptr().cast(), raw.len() as c_uint) == 0
            && (kind != 1 || start_listening(fd, 64) == 0)
    };
    if done { Ok(owned) } else { Err(std::io::Error::last_os_error()) }
}

/// Keeps the tokens in what came in: `<...>`.
fn note(seen: &Seen, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(token) = text.split_once('<').and_then(|(_, rest)| rest.split_once('>')) {
        seen.lock().expect("a lock").push(token.0.to_owned());
    }
}

fn talk(mut stream: TcpStream, name: &str, seen: &Seen) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut bytes = [0; 512];
    let n = stream.read(&mut bytes).unwrap_or(0);
    if bytes[..n].starts_with(b"?") {
        let all = seen.lock().expect("a lock").join("\n");
        let _ = stream.write_all(all.as_bytes());
    } else {
        note(seen, &bytes[..n]);
        let _ = stream.write_all(name.as_bytes());
    }
}

fn tcp(to: &str, token: &str) -> String {
    let say = if token == "?" { "?".to_owned() } else { format!("<{token}>") };
    answer((|| {
        let to: SocketAddr = to.parse().map_err(std::io::Error::other)?;
        let mut stream = TcpStream::connect_timeout(&to, WAIT)?;
        stream.set_read_timeout(Some(WAIT))?;
        stream.write_all(say.as_bytes())?;
        let mut who = String::new();
        stream.read_to_string(&mut who)?;
        if who.is_empty() && token != "?" {
            return Err(std::io::Error::other("closed without a word"));
        }
        Ok(who)
    })())
}

fn udp(from: &str, to: &str, token: &str, options: &[u8]) -> String {
    let socket = match UdpSocket::bind(from) {
        Ok(s) => s,
        Err(e) => return format!("no-socket {e}"),
    };
    if !options.is_empty() {
        let set = unsafe { setsockopt(socket.as_raw_fd(), 0, 4, options.as_ptr().cast(), options.len() as c_uint) };
        if set != 0 {
            return format!("no-socket {}", std::io::Error::last_os_error());
        }
    }
    answer((|| {
        socket.set_broadcast(true)?;
        socket.set_read_timeout(Some(WAIT))?;
        socket.send_to(format!("<{token}>").as_bytes(), to)?;
        let mut bytes = [0; 64];
        let n = socket.recv(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes[..n]).into_owned())
    })())
}

fn source_route(kind: &str, via: &str) -> Vec<u8> {
    let via: Ipv4Addr = via.parse().expect("an address");
    let number = if kind == "strict" { 137 } else { 131 };
    let mut option = vec![number, 7, 4];
    option.extend(via.octets());
    option.push(0);
    option
}

/// An echo request by the socket for it that needs no privilege.
fn icmp(to: &str, token: &str) -> String {
    let to: IpAddr = to.parse().expect("an address");
    let (domain, protocol, request, reply) = if to.is_ipv4() { (INET, 1, 8, 0) } else { (INET6, 58, 128, 129) };
    let fd = unsafe { socket(domain, 2, protocol) };
    if fd < 0 {
        return format!("no-socket {}", std::io::Error::last_os_error());
    }
    let mut packet = vec![request, 0, 0, 0, 0, 7, 0, 1];
    packet.extend(format!("<{token}>").as_bytes());
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    let wait: [i64; 2] = [0, WAIT.as_micros() as i64];
    let mut raw = vec![domain as u8, 0, 0, 0];
    match to {
        IpAddr::V4(v4) => {
            raw.extend(v4.octets());
            raw.extend([0; 8]);
        }
        IpAddr::V6(v6) => {
            raw.extend([0; 4]);
            raw.extend(v6.octets());
            raw.extend([0; 4]);
        }
    }
    let mut bytes = [0_u8; 256];
    let got = unsafe {
        setsockopt(fd, 1, 20, wait.as_ptr().cast(), 16);
        if sendto(fd, packet.as_ptr().cast(), packet.len(), 0, raw.as_ptr().cast(), raw.len() as c_uint) < 0 {
            return format!("none {}", std::io::Error::last_os_error());
        }
        recv(fd, bytes.as_mut_ptr().cast(), bytes.len(), 0)
    };
    if got > 0 && bytes[0] == reply { "answer echo".into() } else { "none no reply".into() }
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sockets that may send what they like.
fn raw(kind: &str) -> String {
    let (domain, protocol) = match kind {
        "ip" => (INET, 255),
        "icmp" => (INET, 1),
        "ip6" => (INET6, 255),
        _ => (PACKET, 0x0300), // all protocols, in network order
    };
    let fd = unsafe { socket(domain, 3, protocol) };
    if fd < 0 { format!("no-socket {}", std::io::Error::last_os_error()) } else { "answer socket".into() }
}

fn packet_socket(link: &str) -> Result<(c_int, [u8; 20]), String> {
    let fd = unsafe { socket(PACKET, 3, 0x0300) };
    let name = CString::new(link).expect("a name");
    let index = unsafe { if_nametoindex(name.as_ptr()) };
    if fd < 0 || index == 0 {
        return Err(format!("no-socket {}", std::io::Error::last_os_error()));
    }
    let mut address = [0_u8; 20];
    address[0] = PACKET as u8;
    address[4..8].copy_from_slice(&index.to_ne_bytes());
    Ok((fd, address))
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).expect("hex")).collect()
}

/// A whole frame; nothing answers it here: who got it knows.
fn frame(link: &str, hex: &str) -> String {
    let (fd, address) = match packet_socket(link) {
        Ok(s) => s,
        Err(said) => return said,
    };
    let bytes = bytes_of(hex);
    let sent = unsafe { sendto(fd, bytes.as_ptr().cast(), bytes.len(), 0, address.as_ptr().cast(), 20) };
    if sent < 0 { format!("no-socket {}", std::io::Error::last_os_error()) } else { "none sent".into() }
}

/// Sends an ARP request and looks for a reply of that address.
fn arp(link: &str, request: &str, who: &str) -> String {
    let (fd, address) = match packet_socket(link) {
        Ok(s) => s,
        Err(said) => return said,
    };
    let bytes = bytes_of(request);
    let who: Ipv4Addr = who.parse().expect("an address");
    let wait: [i64; 2] = [0, 100_000];
    let end = Instant::now() + WAIT;
    unsafe {
        setsockopt(fd, 1, 20, wait.as_ptr().cast(), 16);
        sendto(fd, bytes.as_ptr().cast(), bytes.len(), 0, address.as_ptr().cast(), 20);
    }
    while Instant::now() < end {
        let mut got = [0_u8; 2048];
        let n = unsafe { recv(fd, got.as_mut_ptr().cast(), got.len(), 0) };
        let reply = n >= 42 && got[12..14] == [8, 6] && got[20..22] == [0, 2];
        if reply && got[28..32] == who.octets() && got[6..12] != bytes[6..12] {
            return "answer arp".into();
        }
    }
    "none no reply".into()
}
