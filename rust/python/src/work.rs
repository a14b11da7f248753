//! Long work: without the GIL, and until Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use feelprint::AudioEmbeddingModel;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// The time between two looks at the signals.
const POLL: Duration = Duration::from_millis(50);

/// How long stopped work may take to end before it is left to itself.
const GRACE: Duration = Duration::from_millis(500);

/// Runs `work` on a thread of its own with a model that stops on Ctrl-C.
///
/// # Errors
///
/// `KeyboardInterrupt`, or what else a signal handler raises. The work has then ended, or ends at
/// the file that it reads.
pub fn run<T: Send + 'static>(
    py: Python<'_>,
    model: &AudioEmbeddingModel,
    work: impl FnOnce(&AudioEmbeddingModel) -> T + Send + 'static,
) -> PyResult<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let model = model.until(Arc::clone(&stop));
    let (sender, receiver) = channel();
    // The mutex lets `detach` take a reference; only this thread locks it.
    let receiver = Mutex::new(receiver);
    let wait =
        |time| py.detach(|| receiver.lock().expect("nothing panics in `wait`").recv_timeout(time));
    let thread = std::thread::Builder::new().name("feelprint".into());
    // Sending fails only if nobody waits any more.
    thread.spawn(move || sender.send(work(&model)).ok())?;
    loop {
        match wait(POLL) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err("feelprint panicked: please report this bug"));
            }
            Err(RecvTimeoutError::Timeout) => py.check_signals().inspect_err(|_| {
                stop.store(true, Ordering::Relaxed);
                // Whatever comes of it, the signal's exception is raised.
                let _ = wait(GRACE);
            })?,
        }
    }
}
