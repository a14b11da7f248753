//! From samples to an embedding.
//!
//! The names and calls are those of `mecomp_analysis::embeddings`, so that its callers change
//! one `use`.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::network::{Desk, Network};

/// The number of values in an [`Embedding`].
pub const DIM_EMBEDDING: usize = 32;

/// The name of the model in a folder that a training run or the Hub made.
const ONNX_NAME: &str = "feelprint.onnx";

/// How a song feels: a point at a distance of about 1 from the middle. Near points are songs that a
/// person would play one after the other.
#[derive(Debug, Default, PartialEq, Clone, Copy)]
#[repr(transparent)]
pub struct Embedding(pub [f32; DIM_EMBEDDING]);

impl Embedding {
    /// The number of values, [`DIM_EMBEDDING`].
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no values: never.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values.
    #[inline]
    #[must_use]
    pub const fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// The values, to be changed.
    #[inline]
    #[must_use]
    pub const fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.0
    }

    /// The values as an array.
    #[inline]
    #[must_use]
    pub const fn inner(&self) -> &[f32; DIM_EMBEDDING] {
        &self.0
    }

    /// The Euclidean distance: 0 for the same feeling, about 2 for the opposite.
    ///
    /// The cosine orders songs a little differently, and not as well: an embedding's length tells
    /// how much of the song lies on the axes along which music differs most.
    #[must_use]
    pub fn distance(&self, other: &Self) -> f32 {
        let squares = self.0.iter().zip(&other.0).map(|(a, b)| (a - b) * (a - b));
        squares.sum::<f32>().sqrt()
    }
}

/// Audio as the model takes it: one channel at [`SAMPLE_RATE`](crate::SAMPLE_RATE).
#[derive(Debug, Clone)]
pub struct ResampledAudio {
    /// The file that the samples came from; it is only named in errors.
    pub path: PathBuf,
    /// Samples, nominally from -1 to 1.
    pub samples: Vec<f32>,
}

/// Which model to load.
#[derive(Debug, Clone, Default)]
pub struct ModelConfig {
    /// An ONNX file, or a folder that holds `feelprint.onnx`; `None` is the bundled model.
    pub path: Option<PathBuf>,
}

/// A loaded model.
///
/// Embedding takes `&self`: one model serves all threads of a pool.
#[derive(Debug)]
pub struct AudioEmbeddingModel {
    network: Network,
}

impl AudioEmbeddingModel {
    /// Loads the model that the crate was built with.
    ///
    /// # Errors
    ///
    /// Fails if the crate was built without the feature `bundled-model`.
    pub fn load_default() -> Result<Self> {
        #[cfg(feature = "bundled-model")]
        {
            let network = Network::from_onnx(include_bytes!("../models/feelprint.onnx"))?;
            Ok(Self { network })
        }
        #[cfg(not(feature = "bundled-model"))]
        Err(Error::model(
            "built without the feature `bundled-model`: name a model file (ModelConfig::path, or \
             --model)",
        ))
    }

    /// Loads an ONNX file, or `feelprint.onnx` from a folder.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read, or is not a feelprint model.
    pub fn load_from_onnx<P: AsRef<Path>>(path: P) -> Result<Self> {
        let mut path = path.as_ref().to_path_buf();
        if path.is_dir() {
            path.push(ONNX_NAME);
        }
        let bytes = std::fs::read(&path).map_err(|error| Error::io(&path, error))?;
        let network = Network::from_onnx(&bytes).map_err(|error| error.at(&path))?;
        Ok(Self { network })
    }

    /// Loads the model that `config` names.
    ///
    /// # Errors
    ///
    /// As [`load_default`](Self::load_default) and [`load_from_onnx`](Self::load_from_onnx). A
    /// path that does not lead to a model is an error: no other model takes its place.
    pub fn load(config: &ModelConfig) -> Result<Self> {
        config.path.as_ref().map_or_else(Self::load_default, Self::load_from_onnx)
    }

    /// What to stamp on an embedding: only embeddings of the same version can be compared.
    ///
    /// It is the version in the file's metadata and a digest of the file.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.network.version
    }

    /// Samples in one of the windows that the model hears.
    #[must_use]
    pub fn window(&self) -> usize {
        self.network.window
    }

    /// The embedding of a song.
    ///
    /// # Errors
    ///
    /// Fails if there is no sample, or a sample is not finite.
    pub fn embed(&self, audio: &ResampledAudio) -> Result<Embedding> {
        let embed = || {
            let mut stream = self.stream();
            stream.push(&audio.samples)?;
            Ok(stream.finish()?.embedding)
        };
        embed().map_err(|error: Error| error.at(&audio.path))
    }

    /// The embeddings of songs, in their order. Each is what [`embed`](Self::embed) gives.
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed), for the first song that fails.
    pub fn embed_batch(&self, audios: &[ResampledAudio]) -> Result<Vec<Embedding>> {
        audios.iter().map(|audio| self.embed(audio)).collect()
    }

    /// Starts a song whose samples come piece by piece.
    #[must_use]
    pub fn stream(&self) -> EmbeddingStream<'_> {
        EmbeddingStream {
            network: &self.network,
            desk: self.network.desk(),
            pending: Vec::with_capacity(self.network.window),
            tokens: Vec::new(),
            audible: Vec::new(),
        }
    }
}

/// A song that is being heard. Memory: a window of samples, and one token a window.
#[derive(Debug)]
pub struct EmbeddingStream<'m> {
    network: &'m Network,
    desk: Desk,
    /// Samples not yet encoded, fewer than a window.
    pending: Vec<f32>,
    /// (windows, dim), row by row.
    tokens: Vec<f32>,
    audible: Vec<f32>,
}

impl EmbeddingStream<'_> {
    /// Hears the next samples: one channel at [`SAMPLE_RATE`](crate::SAMPLE_RATE).
    ///
    /// # Errors
    ///
    /// Fails if a sample is not finite.
    pub fn push(&mut self, mut samples: &[f32]) -> Result<()> {
        if !are_finite(samples) {
            return Err(Error::audio("a sample is not a finite number"));
        }
        let window = self.network.window;
        while !samples.is_empty() {
            let (now, later) = samples.split_at(samples.len().min(window - self.pending.len()));
            self.pending.extend_from_slice(now);
            samples = later;
            if self.pending.len() == window {
                self.encode()?;
            }
        }
        Ok(())
    }

    /// Ends the song.
    ///
    /// # Errors
    ///
    /// Fails if no sample was heard.
    pub fn finish(mut self) -> Result<Heard> {
        if !self.pending.is_empty() {
            self.pending.resize(self.network.window, 0.0);
            self.encode()?;
        }
        if self.audible.is_empty() {
            return Err(Error::audio("no samples"));
        }
        let (embedding, attention) = self.network.pool(&self.tokens, &self.audible)?;
        if !embedding.iter().all(|value| value.is_finite()) {
            return Err(Error::audio("the samples are too large for the model"));
        }
        Ok(Heard {
            embedding: Embedding(embedding),
            tokens: self.tokens,
            audible: self.audible,
            attention,
        })
    }

    /// Encodes the pending window.
    fn encode(&mut self) -> Result<()> {
        let (token, audible) = self.network.encode(&self.pending, &mut self.desk)?;
        self.pending.clear();
        self.tokens.extend(token);
        self.audible.push(audible);
        Ok(())
    }
}

/// Whether every sample is a finite number, without a branch for each.
fn are_finite(samples: &[f32]) -> bool {
    const LEAST_EXPONENT: u32 = 1 << 23;
    // An exponent of ones, that of NaN and of infinity, is carried into the place of the sign.
    let carry = |sample: &f32| (sample.to_bits() & i32::MAX as u32) + LEAST_EXPONENT;
    samples.iter().fold(0, |all, sample| all | carry(sample)) >> 31 == 0
}

/// A song that was heard to its end: its embedding, and what it was made from.
#[derive(Debug, Clone)]
pub struct Heard {
    embedding: Embedding,
    tokens: Vec<f32>,
    audible: Vec<f32>,
    attention: Vec<f32>,
}

impl Heard {
    /// The song's embedding.
    #[must_use]
    pub fn embedding(&self) -> Embedding {
        self.embedding
    }

    /// The number of windows in the song.
    #[must_use]
    pub fn windows(&self) -> usize {
        self.audible.len()
    }

    /// Whether no window held any sound. The embedding is then the same for every such song.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.audible.iter().all(|&audible| audible == 0.0)
    }

    /// The token of a window: what the model keeps of it.
    ///
    /// # Panics
    ///
    /// Panics if there is no such window.
    #[must_use]
    pub fn token(&self, window: usize) -> &[f32] {
        let dim = self.tokens.len() / self.windows();
        &self.tokens[window * dim..(window + 1) * dim]
    }

    /// The share of each window in the embedding: the attention's mean over its queries. The
    /// shares sum to one.
    #[must_use]
    pub fn attention(&self) -> Vec<f32> {
        let windows = self.windows();
        let queries = (self.attention.len() / windows) as f32;
        (0..windows)
            .map(|w| self.attention[w..].iter().step_by(windows).sum::<f32>() / queries)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{AudioEmbeddingModel, EmbeddingStream, are_finite};

    #[test]
    fn a_model_serves_all_threads_and_a_song_goes_to_any_one() {
        fn shared<T: Send + Sync>() {}
        fn sent<T: Send>() {}
        shared::<AudioEmbeddingModel>();
        sent::<EmbeddingStream<'_>>();
    }

    #[test]
    fn one_sample_that_is_no_finite_number_is_seen() {
        let finite = [0.0, -0.0, 1.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, f32::from_bits(1)];
        assert!(are_finite(&[]) && are_finite(&finite));
        for strange in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in 0..=finite.len() {
                let mut samples = finite.to_vec();
                samples.insert(at, strange);
                assert!(!are_finite(&samples), "{strange} at {at}");
            }
        }
    }
}
