//! parse → run → exit code. The only place where an error's chain is printed.

use std::process::ExitCode;

use clap::Parser as _;
use hirelake::cli;

fn main() -> ExitCode {
    let args = cli::Args::parse();
    match cli::run(args) {
        Ok(code) => ExitCode::from(code.number()),
        Err(error) => {
            let failure = cli::failure(&error);
            anstream::eprintln!("error: {failure}");
            ExitCode::from(failure.code.number())
        }
    }
}
