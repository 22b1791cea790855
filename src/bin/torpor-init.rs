//! PID 1 of a pod. See `torpor::pod::init`.

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if std::process::id() != 1 && !args.is_empty() {
        std::process::exit(torpor::pod::init::helper::run(&args));
    }
    // When its command has ended, init kills all that it may: anywhere but in a pod that would be the whole host.
    if std::process::id() != 1 {
        std::process::exit(125);
    }
    let code = match torpor::pod::init::stdio() {
        Ok((input, output)) => torpor::pod::init::run(input, output),
        Err(_) => 125,
    };
    std::process::exit(code);
}
