//! The exceptions. Their messages are the lines that the command prints.

use std::io;

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyKeyboardInterrupt, PyValueError};
use pyo3::prelude::*;

create_exception!(
    feelprint,
    Error,
    PyException,
    "What was given, what was expected, and for which file: the line that the command prints."
);
create_exception!(
    feelprint,
    AudioError,
    Error,
    "The audio is at fault: it cannot be decoded, is empty, or has samples that are not finite."
);
create_exception!(
    feelprint,
    ModelError,
    Error,
    "The model is at fault: it is not an ONNX file, or not a feelprint model."
);

/// The exception for an error of the crate: an `OSError` of the kind that Python has for it, a
/// `ValueError` for an argument, else one of those above.
pub fn exception(error: &feelprint::Error) -> PyErr {
    with_message(error, error.to_string())
}

fn with_message(error: &feelprint::Error, message: String) -> PyErr {
    match error.io_error() {
        Some(io) => io_exception(io, message),
        None if error.is_audio() => AudioError::new_err(message),
        None if error.is_model() => ModelError::new_err(message),
        None if error.is_argument() => PyValueError::new_err(message),
        None => Error::new_err(message),
    }
}

/// The exception for an error of a command: that of its cause, with the whole message.
pub fn command_exception(error: &anyhow::Error) -> PyErr {
    let message = feelprint::cli::message(error);
    for cause in error.chain() {
        if let Some(cause) = cause.downcast_ref::<feelprint::Error>() {
            return with_message(cause, message);
        }
        if let Some(cause) = cause.downcast_ref::<io::Error>() {
            return io_exception(cause, message);
        }
    }
    Error::new_err(message)
}

fn io_exception(error: &io::Error, message: String) -> PyErr {
    match error.kind() {
        io::ErrorKind::Interrupted => PyKeyboardInterrupt::new_err(()),
        kind => io::Error::new(kind, message).into(),
    }
}
