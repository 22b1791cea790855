//! PID 1 of a pod. See `torpor::pod::init`.

fn main() {
    let code = match torpor::pod::init::stdio() {
        Ok((input, output)) => torpor::pod::init::run(input, output),
        Err(_) => 125,
    };
    std::process::exit(code);
}
