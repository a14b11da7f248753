//! Signs of life on standard error: a bar in a terminal, and a line now and then without one.
//!
//! A process has one standard error, so there is one bar.

use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::events::{self, Event};
use super::numbers::thousands;

/// When the first sign of life is due.
const FIRST_LINE: Duration = Duration::from_secs(2);

/// The time between two lines without a terminal.
const NEXT_LINE: Duration = Duration::from_secs(10);

static BAR: LazyLock<ProgressBar> = LazyLock::new(|| {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    bar.set_message("starting");
    bar
});

/// Starts the thread that shows what the command does, if it takes long.
pub fn start() {
    std::thread::spawn(|| {
        std::thread::sleep(FIRST_LINE);
        if io::stderr().is_terminal() {
            BAR.set_draw_target(ProgressDrawTarget::stderr());
            BAR.enable_steady_tick(Duration::from_millis(100));
            return;
        }
        loop {
            // If standard error is closed, nothing can be shown.
            let _ = writeln!(io::stderr(), "feelprint: {}", line());
            std::thread::sleep(NEXT_LINE);
        }
    });
}

/// The state of the bar in words.
fn line() -> String {
    let (message, position) = (BAR.message(), BAR.position());
    match BAR.length() {
        Some(length) if length > 0 => {
            let percent = 100.0 * position as f64 / length as f64;
            format!("{message}: {percent:.0} %")
        }
        _ if position > 0 => format!("{message}: {}", thousands(position)),
        _ => message,
    }
}

/// Begins a part of the work whose length is not known.
pub fn begin(what: impl Into<String>) {
    set_style("{spinner} {msg}: {pos}");
    BAR.unset_length();
    BAR.reset();
    BAR.set_message(what.into());
}

/// Begins a part of the work that ends when [`advance`] has counted to `length`.
pub fn begin_of(what: impl Into<String>, length: u64) {
    begin(what);
    set_style("{msg} {wide_bar} {percent} %, {eta} left");
    BAR.set_length(length);
}

fn set_style(template: &str) {
    BAR.set_style(ProgressStyle::with_template(template).expect("the template is valid"));
}

/// Says how many of all files are analysed.
pub fn analysed(done: usize, total: usize) {
    let [done_text, total_text] = [done, total].map(|files| thousands(files as u64));
    message(format!("{done_text} of {total_text} files analysed"));
    // Without a listener, the bar shows it.
    let _ = events::send(Event::Analysed { done, total });
}

/// Says what is done now, of the part that has begun.
pub fn message(what: impl Into<String>) {
    BAR.set_message(what.into());
}

pub fn advance(steps: u64) {
    BAR.inc(steps);
}

/// Hides the bar while `write` writes to the terminal.
pub fn suspend<T>(write: impl FnOnce() -> T) -> T {
    BAR.suspend(write)
}

/// Removes the bar at the end of the command.
pub fn end() {
    BAR.finish_and_clear();
}
