//! Results on standard output, everything else on standard error.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::events::{self, Event};
use super::progress;

/// Standard output, and whether a part of the command failed.
pub struct Output {
    pub json: bool,
    out: BufWriter<Stdout>,
    is_terminal: bool,
    failed: bool,
}

impl Output {
    pub fn new(json: bool) -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        Self { json, out: BufWriter::new(stdout), is_terminal, failed: false }
    }

    /// Prints `value` with `--json`, else `line`.
    pub fn print(&mut self, value: &Value, line: impl AsRef<[u8]>) -> Result<()> {
        if self.json {
            self.print_bytes(escape(&value.to_string(), json_escape).as_bytes(), b"\n")
        } else {
            self.print_bytes(line.as_ref(), b"\n")
        }
    }

    /// Prints `bytes` and `end` as they are.
    pub fn print_bytes(&mut self, bytes: &[u8], end: &[u8]) -> Result<()> {
        let write = |out: &mut BufWriter<Stdout>| {
            out.write_all(bytes)?;
            out.write_all(end)?;
            out.flush()
        };
        if self.is_terminal {
            progress::suspend(|| write(&mut self.out))?;
        } else {
            write(&mut self.out)?;
        }
        Ok(())
    }

    /// A name as it is printed: its bytes, and in a terminal without control characters.
    pub fn name(&self, path: &Path) -> Vec<u8> {
        if self.is_terminal {
            return visible(&path.to_string_lossy()).into_owned().into_bytes();
        }
        path.as_os_str().as_encoded_bytes().to_vec()
    }

    /// A text of a file's tags or of an error, without control characters in a terminal.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.is_terminal { visible(text) } else { Cow::Borrowed(text) }
    }

    /// Reports a failure in one line; the command goes on.
    pub fn failure(&mut self, problem: &dyn Display) {
        self.failed = true;
        note(problem);
    }

    /// 0, or 1 after a failure.
    pub fn exit_status(&self) -> u8 {
        u8::from(self.failed)
    }
}

/// Prints a problem or a remark in one line, without control characters.
pub fn note(problem: &dyn Display) {
    let line = problem.to_string().replace(['\n', '\r'], " ");
    let Err(Event::Note(line)) = events::send(Event::Note(line)) else { return };
    // If standard error is closed, nothing can be reported.
    let _ = progress::suspend(|| writeln!(io::stderr(), "feelprint: {}", visible(&line)));
}

/// `text` with its control characters, which a terminal would obey, as escapes.
pub fn visible(text: &str) -> Cow<'_, str> {
    escape(text, |c| c.escape_unicode().to_string())
}

fn json_escape(c: char) -> String {
    format!("\\u{:04x}", u32::from(c))
}

fn escape(text: &str, with: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.chars().any(is_control) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().map(|c| if is_control(c) { with(c) } else { c.to_string() });
    Cow::Owned(escaped.collect())
}

/// Control characters, and those that change the direction of the text.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_made_visible() {
        assert_eq!(visible("Ænima — 3"), "Ænima — 3");
        assert_eq!(visible("a\u{1b}[2Jb\u{9b}c\u{202e}"), "a\\u{1b}[2Jb\\u{9b}c\\u{202e}");
        let json = Value::from("\u{9b}x").to_string();
        let escaped = escape(&json, json_escape);
        assert_eq!(escaped, "\"\\u009bx\"");
        assert_eq!(serde_json::from_str::<Value>(&escaped).unwrap(), "\u{9b}x");
    }
}
