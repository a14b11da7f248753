//! The one error type of the crate.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why something could not be done: what was given, what was expected, and for which file.
///
/// The message is one line, and names the file when there is one.
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
}

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The file that the error is about, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The underlying input or output error, if that is what it was.
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        match &self.inner {
            Inner::Io(error) => Some(error),
            _ => None,
        }
    }

    /// Whether the audio is at fault: not decodable, empty, too long, or not finite.
    #[must_use]
    pub fn is_audio(&self) -> bool {
        matches!(self.inner, Inner::Audio(_))
    }

    /// Whether the model is at fault: not readable as ONNX, or not of the expected contract.
    #[must_use]
    pub fn is_model(&self) -> bool {
        matches!(self.inner, Inner::Model(_))
    }

    pub(crate) fn io(path: impl Into<PathBuf>, error: io::Error) -> Self {
        Self { path: Some(path.into()), inner: Inner::Io(error) }
    }

    pub(crate) fn audio(message: impl Into<String>) -> Self {
        Self { path: None, inner: Inner::Audio(message.into()) }
    }

    pub(crate) fn model(message: impl Into<String>) -> Self {
        Self { path: None, inner: Inner::Model(message.into()) }
    }

    /// The same error, about this file (unless it already names one).
    #[must_use]
    pub(crate) fn at(mut self, path: &Path) -> Self {
        if self.path.is_none() && !path.as_os_str().is_empty() {
            self.path = Some(path.to_path_buf());
        }
        self
    }

    /// The message without the file's name.
    #[must_use]
    pub fn reason(&self) -> String {
        match &self.inner {
            Inner::Io(error) => error.to_string(),
            Inner::Audio(message) | Inner::Model(message) => message.clone(),
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

// The message says all that an underlying error says, which is therefore no source of its own.
impl std::error::Error for Error {}
