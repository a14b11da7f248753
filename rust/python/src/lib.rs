//! The Python module `feelprint._feelprint`: the crate's model and the command, for the package
//! `feelprint`, whose functions have the documentation.

mod errors;
mod index;
mod model;
mod neighbours;
mod work;

use std::ffi::OsString;
use std::path::PathBuf;

use feelprint::cli::walk::{self, walk};
use pyo3::prelude::*;

use errors::command_exception;

/// The compiled part of the package `feelprint`.
#[pymodule]
mod _feelprint {
    use super::*;

    #[pymodule_export]
    use errors::{AudioError, Error, ModelError};
    #[pymodule_export]
    use index::Index;
    #[pymodule_export]
    use model::Model;
    #[pymodule_export]
    use neighbours::nearest;

    /// Runs the command with these arguments, of which the first is the program's name. Returns its
    /// exit status.
    #[pyfunction]
    fn main(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
        py.detach(|| feelprint::cli::main(arguments))
    }

    /// Whether the name is that of an audio file in a supported format.
    #[pyfunction]
    fn is_audio_name(name: PathBuf) -> bool {
        super::walk::is_audio_name(&name)
    }

    /// The audio files under a folder, whose path is canonical, as the command `index` finds them, and
    /// what could not be read or is not supported, in words.
    #[pyfunction]
    fn audio_files(py: Python<'_>, folder: PathBuf) -> PyResult<(Vec<PathBuf>, Vec<String>)> {
        let found = py.detach(|| walk(&folder, &[])).map_err(|error| command_exception(&error))?;
        let unsupported = found.unsupported();
        Ok((found.files, found.unreadable.into_iter().chain(unsupported).collect()))
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // A panic of a decoder is the error of its file; Rust would print it as well.
        std::panic::set_hook(Box::new(|_| {}));
        module.add("MAX_DISTANCE", feelprint::duplicates::MAX_DISTANCE)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
