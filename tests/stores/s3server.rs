//! The tests' S3 server, for benchmarks and for trying things out.

mod server;

use std::time::Duration;

use server::{BUCKET, Fault, KEY, S3Server, SECRET};

const USAGE: &str = "\
usage: s3server [--port PORT] [--delay-ms MS] [--slow BYTES_PER_SECOND]

Serves one bucket from memory on 127.0.0.1, until it is ended. Each request waits MS before it is answered.";

fn main() {
    let (mut port, mut delay, mut slow) = (0, 0, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or_else(|| usage());
        match word.as_str() {
            "--port" => port = number() as u16,
            "--delay-ms" => delay = number(),
            "--slow" => slow = Some(number()),
            _ => usage(),
        }
    }
    let server = S3Server::start_at(port, Duration::from_millis(delay));
    if let Some(rate) = slow {
        server.set_fault(Fault::Slow(rate));
    }
    println!("export AWS_ENDPOINT_URL={} AWS_ALLOW_HTTP=true AWS_REGION=us-east-1", server.endpoint());
    println!("export AWS_ACCESS_KEY_ID={KEY} AWS_SECRET_ACCESS_KEY={SECRET}");
    println!("# s3://{BUCKET}/PREFIX");
    loop {
        std::thread::park();
    }
}

fn usage() -> ! {
    eprintln!("{USAGE}");
    std::process::exit(2)
}
