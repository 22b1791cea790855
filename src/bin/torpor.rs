//! The command line. See `torpor::cli`.

fn main() -> std::process::ExitCode {
    torpor::cli::main()
}
