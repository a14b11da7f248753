//! What a caller in the same process learns of a running command; the command itself prints it on
//! standard error.

use std::cell::RefCell;
use std::sync::mpsc::Sender;

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A problem or a remark in one line.
    Note(String),
    /// So many of all files are analysed.
    Analysed { done: usize, total: usize },
}

thread_local! {
    static LISTENER: RefCell<Option<Sender<Event>>> = const { RefCell::new(None) };
}

/// Runs `work`; what happens in it on this thread is sent to `listener`.
pub fn listen<T>(listener: Sender<Event>, work: impl FnOnce() -> T) -> T {
    LISTENER.set(Some(listener));
    let result = work();
    LISTENER.set(None);
    result
}

/// Sends an event to this thread's listener. Without one, it is given back.
pub fn send(event: Event) -> Result<(), Event> {
    LISTENER.with_borrow(|listener| match listener {
        Some(listener) => {
            // Sending fails if the listener has gone away, which has stopped the work.
            let _ = listener.send(event);
            Ok(())
        }
        None => Err(event),
    })
}
