//! Long work: without the GIL, and until Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use feelprint::AudioEmbeddingModel;
use feelprint::cli::events::{self, Event};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// The time between two looks at the signals.
const POLL: Duration = Duration::from_millis(50);

/// How long stopped work may take to end before it is left to itself.
const GRACE: Duration = Duration::from_millis(500);

/// The result of work, and the notes that the command would have printed.
pub struct Done<T> {
    pub result: T,
    pub notes: Vec<String>,
}

/// Runs `work` on a thread of its own with a model that stops on Ctrl-C. `progress` is called with
/// the number of files that are analysed and that of all.
///
/// # Errors
///
/// `KeyboardInterrupt` or what else a signal handler raises, or the exception of `progress`. The
/// work has then ended, or ends at the file that it reads.
pub fn run<T: Send + 'static>(
    py: Python<'_>,
    model: &AudioEmbeddingModel,
    progress: Option<Bound<'_, PyAny>>,
    work: impl FnOnce(&AudioEmbeddingModel) -> T + Send + 'static,
) -> PyResult<Done<T>> {
    let stop = Arc::new(AtomicBool::new(false));
    let model = model.until(Arc::clone(&stop));
    let (listener, events) = channel();
    let (sender, result) = channel();
    let thread = std::thread::Builder::new().name("feelprint".into());
    // Sending fails only if nobody waits any more.
    thread.spawn(move || sender.send(events::listen(listener, || work(&model))).ok())?;
    // The mutex lets `detach` take a reference; only this thread locks it.
    let result = Mutex::new(result);
    let wait =
        |time| py.detach(|| result.lock().expect("nothing panics in `wait`").recv_timeout(time));
    let mut notes = Vec::new();
    loop {
        let end = wait(POLL);
        let going_on = py.check_signals().and_then(|()| {
            let analysed = drain(&events, &mut notes);
            match (&progress, analysed) {
                (Some(progress), Some(counts)) => progress.call1(counts).map(drop),
                _ => Ok(()),
            }
        });
        match end {
            Ok(result) => return going_on.map(|()| Done { result, notes }),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err("feelprint panicked: please report this bug"));
            }
            Err(RecvTimeoutError::Timeout) => going_on.inspect_err(|_| {
                stop.store(true, Ordering::Relaxed);
                // Whatever comes of it, the exception is raised.
                let _ = wait(GRACE);
            })?,
        }
    }
}

/// Moves the notes to `notes`, and returns the latest counts of files.
fn drain(events: &Receiver<Event>, notes: &mut Vec<String>) -> Option<(usize, usize)> {
    let mut analysed = None;
    for event in events.try_iter() {
        match event {
            Event::Note(line) => notes.push(line),
            Event::Analysed { done, total } => analysed = Some((done, total)),
        }
    }
    analysed
}
