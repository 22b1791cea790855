//! A web server for tests, with its state in memory. Compiled by the tests with rustc alone, static.
//!
//! By UDP on the same port it answers every datagram with its own number and what it was sent.
//!
//! `GET /` counts and answers the count; `/hold?N` holds N MiB of memory; `/spin` uses a processor; anything else echoes.
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

fn main() {
    let port = std::env::args().nth(1).unwrap_or_else(|| "80".into());
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).expect("listen");
    let socket = std::net::UdpSocket::bind(format!("0.0.0.0:{port}")).expect("bind");
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        for n in 1_u64.. {
            let Ok((size, from)) = socket.recv_from(&mut bytes) else { continue };
            let _ = socket.send_to(format!("{n} {}", String::from_utf8_lossy(&bytes[..size])).as_bytes(), from);
        }
    });
    println!("listening on {port}");
    let mut count = 0_u64;
    let mut held: Vec<Vec<u8>> = Vec::new();
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut line = String::new();
        let mut reader = BufReader::new(stream.try_clone().expect("clone"));
        let _ = reader.read_line(&mut line);
        let Some(path) = line.split_whitespace().nth(1).map(str::to_owned) else { continue }; // a probe
        let body = match path.split_once('?') {
            Some(("/hold", mib)) => {
                let mut seed = 0x9E37_79B9_u32;
                let bytes = (0..mib.parse::<usize>().unwrap_or(0) << 20).map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 17;
                    seed ^= seed << 5;
                    (seed >> 8) as u8 & 0x3f
                });
                held.push(bytes.collect());
                format!("{}", held.iter().map(Vec::len).sum::<usize>())
            }
            _ if path == "/" => {
                count += 1;
                format!("{count}")
            }
            _ if path == "/sum" => {
                format!("{}", held.iter().flatten().fold(0_u64, |s, b| s.wrapping_mul(31).wrapping_add(u64::from(*b))))
            }
            _ => path,
        };
        let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    }
}
