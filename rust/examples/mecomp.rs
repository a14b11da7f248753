//! The analysis of a player's library in the shape of MECOMP 0.7.2, with feelprint where MECOMP's
//! own embedding model was:
//! `cargo run --release --example mecomp -- a.mp3 b.flac` prints a line for each file.
//!
//! The types and the calls of feelprint are those of `mecomp-analysis` and of its callers, so that a
//! change of the crate that would break them breaks this build and `tests/mecomp.rs`. It differs
//! from MECOMP in what is not about embeddings: there are two features instead of 23, the decoder is
//! feelprint's, and threads come from the standard library.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

pub use embeddings::DIM_EMBEDDING;
use embeddings::{AudioEmbeddingModel, Embedding, ModelConfig};
use errors::{AnalysisError, AnalysisResult};
pub use feelprint::ResampledAudio;

/// The whole of MECOMP's `embeddings.rs`.
pub mod embeddings {
    pub use feelprint::embeddings::*;
}

pub mod errors {
    use super::fmt;

    #[derive(Debug)]
    pub enum AnalysisError {
        EmptySamples,
        EmbeddingError(feelprint::Error),
        SendError,
    }

    pub type AnalysisResult<T> = Result<T, AnalysisError>;

    impl fmt::Display for AnalysisError {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            match self {
                Self::EmptySamples => f.write_str("Samples are empty or too short"),
                Self::EmbeddingError(error) => write!(f, "Embedding Error: {error}"),
                Self::SendError => f.write_str("Send Error"),
            }
        }
    }

    // This and the next are what `EmbeddingError(#[from] feelprint::Error)` of thiserror makes.
    impl std::error::Error for AnalysisError {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            match self {
                Self::EmbeddingError(error) => Some(error),
                _ => None,
            }
        }
    }

    impl From<feelprint::Error> for AnalysisError {
        fn from(error: feelprint::Error) -> Self {
            Self::EmbeddingError(error)
        }
    }
}

pub const NUMBER_FEATURES: usize = 2;

/// The longest window of a feature, in samples. Shorter audio has no features.
pub const LARGEST_WINDOW: usize = 8_192;

/// MECOMP's own features of a track: the loudness and the rate of zero crossings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Analysis {
    internal_analysis: [f32; NUMBER_FEATURES],
}

impl Analysis {
    pub fn from_samples(audio: &ResampledAudio) -> AnalysisResult<Self> {
        let samples = &audio.samples;
        if samples.len() < LARGEST_WINDOW {
            return Err(AnalysisError::EmptySamples);
        }
        let power: f32 = samples.iter().map(|sample| sample * sample).sum();
        let crossings =
            samples.windows(2).filter(|pair| (pair[0] < 0.0) != (pair[1] < 0.0)).count();
        let count = samples.len() as f32;
        Ok(Self { internal_analysis: [(power / count).sqrt(), crossings as f32 / count] })
    }

    pub const fn inner(&self) -> &[f32; NUMBER_FEATURES] {
        &self.internal_analysis
    }
}

impl TryInto<Analysis> for ResampledAudio {
    type Error = AnalysisError;

    fn try_into(self) -> Result<Analysis, Self::Error> {
        Analysis::from_samples(&self)
    }
}

pub type ProcessingCallback =
    SyncSender<(PathBuf, AnalysisResult<Analysis>, AnalysisResult<Embedding>)>;

pub trait Decoder {
    fn decode(&self, path: &Path) -> AnalysisResult<ResampledAudio>;

    /// Sends the features and the embedding of each track. Every thread loads a model for itself.
    fn process_songs(
        &self,
        paths: &[PathBuf],
        callback: ProcessingCallback,
        model_config: ModelConfig,
    ) -> AnalysisResult<()>
    where
        Self: Sync,
    {
        thread_local! {
            static MODEL: RefCell<Option<AudioEmbeddingModel>> = const { RefCell::new(None) };
        }
        let process = |path: &PathBuf| {
            let audio = match self.decode(path) {
                Ok(audio) => audio,
                Err(error) => {
                    eprintln!("Error decoding {}: {error}", path.display());
                    return Ok(());
                }
            };
            let analysis = Analysis::from_samples(&audio);
            let embedding = MODEL.with(|model_cell| {
                let mut model_ref = model_cell.borrow_mut();
                if model_ref.is_none() {
                    *model_ref = Some(AudioEmbeddingModel::load(&model_config)?);
                }
                let model = model_ref.as_mut().unwrap();
                model.embed(&audio).map_err(AnalysisError::from)
            });
            callback.send((path.clone(), analysis, embedding)).map_err(|_| AnalysisError::SendError)
        };
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        thread::scope(|scope| {
            let threads: Vec<_> = paths
                .chunks(paths.len().div_ceil(cores).max(1))
                .map(|paths| scope.spawn(move || paths.iter().try_for_each(process)))
                .collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap())
        })
    }
}

pub struct MecompDecoder;

impl Decoder for MecompDecoder {
    fn decode(&self, path: &Path) -> AnalysisResult<ResampledAudio> {
        Ok(feelprint::decode::decode(path)?)
    }
}

/// A row of the library's database.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub path: PathBuf,
    pub features: [f32; NUMBER_FEATURES],
    pub embedding: [f32; DIM_EMBEDDING],
}

/// The rows of the tracks that have both features and an embedding, and the errors of the others.
pub fn analyze(
    paths: Vec<PathBuf>,
    config: ModelConfig,
) -> (Vec<Row>, Vec<(PathBuf, AnalysisError)>) {
    let (tx, rx) = sync_channel(16);
    let handle = thread::spawn(move || MecompDecoder.process_songs(&paths, tx, config.clone()));
    let (mut rows, mut errors) = (Vec::new(), Vec::new());
    for (path, maybe_analysis, maybe_embedding) in rx {
        let embedding = match maybe_embedding {
            Ok(embedding) => *embedding.inner(),
            Err(error) => {
                errors.push((path, error));
                continue;
            }
        };
        let features = match maybe_analysis {
            Ok(analysis) => *analysis.inner(),
            Err(error) => {
                errors.push((path, error));
                continue;
            }
        };
        rows.push(Row { path, features, embedding });
    }
    handle.join().unwrap().unwrap();
    (rows, errors)
}

fn main() -> Result<(), AnalysisError> {
    let config = ModelConfig { path: None };
    // A path that leads to no model would fail every track: this fails once, before any is decoded.
    AudioEmbeddingModel::load(&config)?;
    let (rows, errors) = analyze(std::env::args_os().skip(1).map(PathBuf::from).collect(), config);
    for Row { path, features, embedding } in rows {
        println!("{}: {features:.4?} {embedding:.4?}", path.display());
    }
    for (path, error) in errors {
        eprintln!("{}: {error}", path.display());
    }
    Ok(())
}
