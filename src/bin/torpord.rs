//! The daemon. See `torpor::daemon`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use torpor::config::{self, Config};
use torpor::host::store::StoreConfig;
use torpor::host::{files, runtime, unpack};
use torpor::model::{Error, Result};

/// gVisor sandboxes that sleep in object storage.
#[derive(Debug, Clone, Parser)]
#[command(name = "torpord", version)]
struct Flags {
    /// Configuration file [default: /etc/torpor/torpor.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where all durable state lives
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The API's Unix socket
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Object store: file:///dir, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Allow http:// endpoints of the store
    #[arg(long)]
    store_allow_http: bool,
    /// Addresses of pods
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Option<String>,
    /// Host ports given out when none is asked for
    #[arg(long, value_name = "A-B")]
    port_range: Option<String>,
    /// One more address to serve the API at; may be given more than once. Tokens are asked for
    #[arg(long, value_name = "ADDRESS[,cert=FILE,key=FILE]")]
    listen: Vec<config::listen::Listen>,
    /// The runsc to use for new pods
    #[arg(long, value_name = "PROGRAM")]
    runsc: Option<PathBuf>,
    /// Check the configuration and end
    #[arg(long)]
    check_config: bool,
    /// Take from the host what pods share (network, mounts, cgroups, values of secrets), and end; refused while a pod has a sandbox.
    /// What pods keep stays
    #[arg(long)]
    leave_nothing: bool,
    /// Put a backup (of `torpor system backup`) into a state directory that has no state, and end
    #[arg(long, value_name = "FILE")]
    restore: Option<PathBuf>,
    /// Print the manual page, and end
    #[arg(long, hide = true)]
    man: bool,
}

fn configuration(flags: Flags) -> Result<(Config, Vec<String>)> {
    let usual = PathBuf::from("/etc/torpor/torpor.toml");
    let text = match &flags.config {
        Some(path) => files::read(path)?,
        None => files::read_if_present(&usual)?.unwrap_or_default(),
    };
    let (mut file, unknown) = config::parse(&text)?;
    // Flags win.
    file.state_dir = flags.state_dir.or(file.state_dir);
    file.socket = flags.socket.or(file.socket);
    // As clients of MinIO name their bucket, where nothing else is said.
    let bucket = || std::env::var("S3_BUCKET").ok().filter(|b| !b.is_empty()).map(|b| format!("s3://{b}"));
    file.store = flags.store.or(file.store).or_else(bucket);
    file.pod_cidr = flags.pod_cidr.or(file.pod_cidr);
    file.port_range = flags.port_range.or(file.port_range);
    file.runsc = flags.runsc.or(file.runsc);
    if !flags.listen.is_empty() {
        file.listen = flags.listen;
    }
    if let Ok(port) = std::env::var("PORT") {
        config::listen::at_port(&mut file.listen, &port)?;
    }
    if flags.store_allow_http {
        file.store_allow_http = Some(true);
    }
    Ok((config::complete(file)?, unknown))
}

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    // Run by torpord itself, before there is a runtime with threads.
    match args.next().as_deref().and_then(|a| a.to_str()) {
        Some(unpack::WORKER) => return unpack::worker_main(args.filter_map(|a| a.into_string().ok())),
        Some(runtime::HELPER) => return runtime::helper_main(args),
        _ => {}
    }
    let flags = Flags::parse();
    if flags.man {
        let page = clap_mangen::Man::new(Flags::command()).section("8");
        return page.render(&mut std::io::stdout()).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let (check, leave) = (flags.check_config, flags.leave_nothing);
    torpor::daemon::log::begin();
    let (again, restore) = (flags.clone(), flags.restore.clone());
    let (config, unknown) = match configuration(flags) {
        Ok(all) => all,
        Err(e) => return failed(&e),
    };
    if check && !unknown.is_empty() {
        let text = format!("the configuration has keys that this torpord does not know: {}", unknown.join(", "));
        return failed(&Error::invalid(text).hint("a torpord that starts leaves them aside, with a warning"));
    }
    for key in unknown {
        tracing::warn!(%key, "a key of the configuration that this torpord does not know");
    }
    // Before anything is made.
    let store = StoreConfig { url: config.store.clone(), allow_http: config.store_allow_http };
    match store.check() {
        Err(e) => return failed(&e),
        Ok(()) if check => return ExitCode::SUCCESS,
        Ok(()) => {}
    }
    if let Some(archive) = restore {
        return match torpor::daemon::run::restore(&config, &archive) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => failed(&e),
        };
    }
    let prepared = match torpor::daemon::run::prepare(config) {
        Ok(p) => p.reading_anew(Box::new(move || configuration(again.clone()))),
        Err(e) => return failed(&e),
    };
    // Often: a client that comes is not to wait behind sixty pieces of others' work.
    let runtime = match tokio::runtime::Builder::new_multi_thread().event_interval(5).enable_all().build() {
        Ok(r) => r,
        Err(e) => {
            tracing::error!(error = %e, "start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let work = async {
        if leave {
            torpor::daemon::run::leave_nothing(prepared).await
        } else {
            torpor::daemon::run::run(prepared).await
        }
    };
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => failed(&e),
    }
}

fn failed(e: &torpor::model::Error) -> ExitCode {
    use std::io::Write;
    let mut err = std::io::stderr();
    let _ = writeln!(err, "error: {}", e.report());
    if let Some(hint) = e.hint_text() {
        let _ = writeln!(err, "hint: {hint}");
    }
    ExitCode::FAILURE
}
