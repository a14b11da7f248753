//! The one error type of the crate.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// An error: what was given, what was expected, and for which file.
///
/// The message is one line. It names the file if there is one.
#[derive(Debug)]
pub struct Error {
    path: Option<PathBuf>,
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Io(io::Error),
    Audio(String),
    Model(String),
    Argument(String),
}

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The file that the error is about, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The underlying I/O error, if there is one.
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        match &self.inner {
            Inner::Io(error) => Some(error),
            _ => None,
        }
    }

    /// Whether the audio is at fault: it cannot be decoded, is empty or too long, or has samples that
    /// are too large or not finite; in a file, only if none is finite.
    #[must_use]
    pub fn is_audio(&self) -> bool {
        matches!(self.inner, Inner::Audio(_))
    }

    /// Whether the model is at fault: it is not an ONNX file, or not a feelprint model.
    #[must_use]
    pub fn is_model(&self) -> bool {
        matches!(self.inner, Inner::Model(_))
    }

    /// Whether an argument is out of its range.
    #[must_use]
    pub fn is_argument(&self) -> bool {
        matches!(self.inner, Inner::Argument(_))
    }

    pub(crate) fn io(path: impl Into<PathBuf>, error: io::Error) -> Self {
        Self { path: Some(path.into()), inner: Inner::Io(error) }
    }

    /// An I/O error of the file whose path [`at`](Self::at) adds.
    pub(crate) fn reading(error: io::Error) -> Self {
        Self { path: None, inner: Inner::Io(error) }
    }

    pub(crate) fn audio(message: impl Into<String>) -> Self {
        Self { path: None, inner: Inner::Audio(message.into()) }
    }

    pub(crate) fn model(message: impl Into<String>) -> Self {
        Self { path: None, inner: Inner::Model(message.into()) }
    }

    pub(crate) fn argument(message: impl Into<String>) -> Self {
        Self { path: None, inner: Inner::Argument(message.into()) }
    }

    /// Adds the file's path, unless the error already has one.
    #[must_use]
    pub(crate) fn at(mut self, path: &Path) -> Self {
        if self.path.is_none() && !path.as_os_str().is_empty() {
            self.path = Some(path.to_path_buf());
        }
        self
    }

    /// The message without the file's path.
    #[must_use]
    pub fn reason(&self) -> String {
        match &self.inner {
            Inner::Io(error) => error.to_string(),
            Inner::Audio(message) | Inner::Model(message) | Inner::Argument(message) => {
                message.clone()
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}: {}", path.display(), self.reason()),
            None => f.write_str(&self.reason()),
        }
    }
}

// `source` is none: the message already contains the underlying error's.
impl std::error::Error for Error {}
