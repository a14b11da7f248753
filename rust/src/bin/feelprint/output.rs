//! Results on standard output, everything else on standard error.

use std::io::{self, BufWriter, Stdout, Write};
use std::process::ExitCode;

use anyhow::Result;
use serde_json::Value;

/// Standard output, and whether a part of the command failed.
pub struct Output {
    pub json: bool,
    out: BufWriter<Stdout>,
    failed: bool,
}

impl Output {
    pub fn new(json: bool) -> Self {
        Self { json, out: BufWriter::new(io::stdout()), failed: false }
    }

    /// Prints `value` with `--json`, else `line`.
    pub fn print(&mut self, value: &Value, line: &str) -> Result<()> {
        if self.json {
            writeln!(self.out, "{value}")?;
        } else {
            writeln!(self.out, "{line}")?;
        }
        self.out.flush()?;
        Ok(())
    }

    /// Reports a failure in one line; the command goes on.
    pub fn failure(&mut self, problem: &dyn std::fmt::Display) {
        self.failed = true;
        warn(problem);
    }

    /// 0, or 1 after a failure.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(u8::from(self.failed))
    }
}

/// Prints a problem in one line.
pub fn warn(problem: &dyn std::fmt::Display) {
    let line = problem.to_string().replace(['\n', '\r'], " ");
    // If standard error is closed, nothing can be reported.
    let _ = writeln!(io::stderr(), "feelprint: {line}");
}

/// Turns off the default report of panics, of several lines: a panic of a decoder is reported as the
/// error of its file.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
