//! The command `feelprint`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(feelprint::cli::main(std::env::args_os()))
}
