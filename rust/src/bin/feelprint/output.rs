//! What goes to the terminal: results on standard output, everything else on standard error.

use std::io::{self, BufWriter, Stdout, Write};
use std::process::ExitCode;

use anyhow::Result;
use serde_json::Value;

/// Standard output, and whether something could not be done.
pub struct Output {
    pub json: bool,
    out: BufWriter<Stdout>,
    failed: bool,
}

impl Output {
    pub fn new(json: bool) -> Self {
        Self { json, out: BufWriter::new(io::stdout()), failed: false }
    }

    /// Prints `value` with `--json`, and the line without.
    pub fn print(&mut self, value: &Value, line: &str) -> Result<()> {
        if self.json {
            writeln!(self.out, "{value}")?;
        } else {
            writeln!(self.out, "{line}")?;
        }
        self.out.flush()?;
        Ok(())
    }

    /// Reports what could not be done, in one line; the command goes on.
    pub fn failure(&mut self, problem: &dyn std::fmt::Display) {
        self.failed = true;
        warn(problem);
    }

    /// Success, or 1 if something could not be done.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(u8::from(self.failed))
    }
}

/// Reports something in one line.
pub fn warn(problem: &dyn std::fmt::Display) {
    let line = problem.to_string().replace(['\n', '\r'], " ");
    // Nobody may be reading: then there is nothing to report to.
    let _ = writeln!(io::stderr(), "feelprint: {line}");
}

/// A panic of a decoder is reported as that file's error, in one line; the default report of
/// panics would add several.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
