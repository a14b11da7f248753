//! The model: files and samples to embeddings.

use std::path::PathBuf;
use std::sync::Arc;

use feelprint::{AudioEmbeddingModel, Embedding, ModelConfig, Track};
use numpy::{PyArray1, PyReadonlyArray2};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyList;
use rayon::prelude::*;

use crate::errors::{AudioError, exception};
use crate::work;

/// A loaded model; threads share it.
#[pyclass(frozen)]
pub struct Model {
    pub model: Arc<AudioEmbeddingModel>,
}

/// What is kept of an analysed track: its tokens would fill the memory.
struct Summary {
    embedding: Embedding,
    duration_s: f64,
    silent: bool,
    damage: Option<String>,
}

/// The arguments of `feelprint.Track`.
type TrackFields<'py> = (Bound<'py, PyArray1<f32>>, f64, bool, Option<String>);

impl From<Track> for Summary {
    fn from(track: Track) -> Self {
        Self {
            embedding: track.analysis().embedding(),
            duration_s: track.duration().as_secs_f64(),
            silent: track.analysis().is_silent(),
            damage: track.damage().map(str::to_string),
        }
    }
}

impl Summary {
    fn fields(self, py: Python<'_>) -> TrackFields<'_> {
        let embedding = PyArray1::from_slice(py, self.embedding.as_slice());
        (embedding, self.duration_s, self.silent, self.damage)
    }
}

#[pymethods]
impl Model {
    #[new]
    fn new(py: Python<'_>, path: Option<PathBuf>, whole: bool) -> PyResult<Self> {
        let config = ModelConfig { path };
        let model = py.detach(|| AudioEmbeddingModel::load(&config));
        let model = model.map_err(|error| exception(&error))?;
        Ok(Self { model: Arc::new(if whole { model.whole() } else { model }) })
    }

    #[getter]
    fn version(&self) -> &str {
        self.model.version()
    }

    fn analyse<'py>(&self, py: Python<'py>, path: PathBuf) -> PyResult<TrackFields<'py>> {
        let track = work::run(py, &self.model, None, move |model| model.embed_file(path))?.result;
        Ok(Summary::from(track.map_err(|error| exception(&error))?).fields(py))
    }

    fn analyse_bytes<'py>(
        &self,
        py: Python<'py>,
        content: PyBackedBytes,
    ) -> PyResult<TrackFields<'py>> {
        let content = py.detach(|| content.to_vec());
        let track =
            work::run(py, &self.model, None, move |model| model.embed_bytes(content))?.result;
        Ok(Summary::from(track.map_err(|error| exception(&error))?).fields(py))
    }

    fn analyse_many<'py>(
        &self,
        py: Python<'py>,
        paths: Vec<PathBuf>,
        threads: usize,
    ) -> PyResult<Bound<'py, PyList>> {
        // Not the global pool, which would have no threads after a fork.
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|error| crate::errors::Error::new_err(error.to_string()))?;
        let tracks = work::run(py, &self.model, None, move |model| {
            let analyse = |path: &PathBuf| {
                (!model.is_stopped()).then(|| model.embed_file(path).map(Summary::from))
            };
            pool.install(|| paths.par_iter().map(analyse).collect::<Option<Vec<_>>>())
        })?;
        let list = PyList::empty(py);
        // None only if it was stopped, and then `run` has raised the signal's exception.
        for track in tracks.result.ok_or_else(|| PyKeyboardInterrupt::new_err(()))? {
            match track {
                Ok(track) => list.append(track.fields(py))?,
                Err(error) => list.append(exception(&error).into_value(py))?,
            }
        }
        Ok(list)
    }

    /// `samples` are (samples, channels).
    fn embed_samples<'py>(
        &self,
        py: Python<'py>,
        samples: PyReadonlyArray2<'py, f32>,
        rate: u32,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let samples = samples.as_array();
        // In a file they would count as 0.
        if samples.iter().any(|sample| !sample.is_finite()) {
            return Err(AudioError::new_err("a sample is not finite"));
        }
        let content = wav(samples.iter(), samples.ncols(), rate);
        let track =
            work::run(py, &self.model, None, move |model| model.embed_bytes(content))?.result;
        let track = track.map_err(|error| exception(&error))?;
        Ok(PyArray1::from_slice(py, track.analysis().embedding().as_slice()))
    }
}

/// A WAV file of interleaved samples, so that they are analysed as those of a file are.
fn wav<'a>(samples: impl ExactSizeIterator<Item = &'a f32>, channels: usize, rate: u32) -> Vec<u8> {
    const FLOAT: u16 = 3;
    const WIDTH: usize = size_of::<f32>();
    let bytes = samples.len() * WIDTH;
    // The length in the header is a hint: the decoder reads to the end.
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
    let block = channels * WIDTH; // bytes of a frame
    let mut file = Vec::with_capacity(44 + bytes);
    file.extend(b"RIFF");
    file.extend(length(36 + bytes));
    file.extend(b"WAVEfmt ");
    file.extend(16_u32.to_le_bytes());
    file.extend(FLOAT.to_le_bytes());
    file.extend((channels as u16).to_le_bytes());
    file.extend(rate.to_le_bytes());
    file.extend((rate * block as u32).to_le_bytes());
    file.extend((block as u16).to_le_bytes());
    file.extend((8 * WIDTH as u16).to_le_bytes());
    file.extend(b"data");
    file.extend(length(bytes));
    file.extend(samples.flat_map(|sample| sample.to_le_bytes()));
    file
}
