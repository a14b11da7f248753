//! Embeds audio samples.
//!
//! The names and signatures are those of `mecomp_analysis::embeddings` 0.7.2, so that its callers
//! stay as they are (`docs/mecomp.md`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use crate::decode::ResampledAudio;
use crate::error::{Error, Result};
pub use crate::network::DIM_EMBEDDING;
use crate::network::{EncoderState, Network};

/// The model's file name in a folder that a training run or the Hugging Face Hub made.
const ONNX_NAME: &str = "feelprint.onnx";

/// The embedding of a track: a vector whose Euclidean norm is about 1, but not exactly 1. Compare
/// embeddings by their [`distance`](Self::distance).
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

    /// Always `false`; a companion of [`len`](Self::len).
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values as a slice.
    #[inline]
    #[must_use]
    pub const fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// The values as a mutable slice.
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

    /// The Euclidean distance: 0 for equal embeddings, without an upper bound (the norms are about
    /// 1, but not exactly 1).
    ///
    /// The cosine ignores the norm and ranks tracks slightly worse: the norm is larger for a track
    /// that lies along the axes on which albums differ most.
    #[must_use]
    pub fn distance(&self, other: &Self) -> f32 {
        let squares = self.0.iter().zip(&other.0).map(|(a, b)| (a - b) * (a - b));
        squares.sum::<f32>().sqrt()
    }
}

/// Which model to load.
#[derive(Debug, Clone, Default)]
pub struct ModelConfig {
    /// An ONNX file, or a folder that holds `feelprint.onnx`; `None` is the bundled model.
    pub path: Option<PathBuf>,
}

/// A loaded model.
///
/// All methods take `&self`: threads can share one model.
#[derive(Debug)]
pub struct AudioEmbeddingModel {
    network: Arc<Network>,
    stop: Arc<AtomicBool>,
}

impl AudioEmbeddingModel {
    /// Loads the bundled model.
    ///
    /// # Errors
    ///
    /// Fails if the crate was built without the feature `bundled-model`.
    pub fn load_default() -> Result<Self> {
        #[cfg(feature = "bundled-model")]
        {
            Ok(Self::new(Network::from_onnx(include_bytes!("../models/feelprint.onnx"))?))
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
        Ok(Self::new(network))
    }

    /// Loads the model that `config` names.
    ///
    /// # Errors
    ///
    /// As [`load_default`](Self::load_default) and [`load_from_onnx`](Self::load_from_onnx). If
    /// `config.path` is not a model, that is an error; the bundled model is not used instead.
    pub fn load(config: &ModelConfig) -> Result<Self> {
        config.path.as_ref().map_or_else(Self::load_default, Self::load_from_onnx)
    }

    fn new(network: Network) -> Self {
        Self { network: Arc::new(network), stop: Arc::default() }
    }

    /// The same model, whose work ends when `stop` is set: with an I/O error of the kind
    /// [`Interrupted`](io::ErrorKind::Interrupted), also in the middle of a track. The weights are
    /// shared.
    #[must_use]
    pub fn until(&self, stop: Arc<AtomicBool>) -> Self {
        Self { network: Arc::clone(&self.network), stop }
    }

    /// Whether the flag of [`until`](Self::until) is set.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.check_stopped().is_err()
    }

    /// Fails if the flag of [`until`](Self::until) is set.
    pub(crate) fn check_stopped(&self) -> Result<()> {
        check(&self.stop)
    }

    /// The model's version: the one in the file's metadata and a digest of the file, such as
    /// `0.10.0-1f2e3d4c5b6a`. Store it with embeddings: only those of one version can be compared.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.network.version
    }

    /// The length of a window, in samples.
    #[must_use]
    pub fn window(&self) -> usize {
        self.network.window
    }

    /// The embedding of a track.
    ///
    /// # Errors
    ///
    /// Fails if there is no sample, or if a sample is not finite or too large for the model.
    pub fn embed(&self, audio: &ResampledAudio) -> Result<Embedding> {
        let embed = || {
            let mut stream = self.stream();
            stream.push(&audio.samples)?;
            Ok(stream.finish()?.embedding)
        };
        embed().map_err(|error: Error| error.at(&audio.path))
    }

    /// The embeddings of several tracks, in the order given. Each equals the result of
    /// [`embed`](Self::embed).
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed), for the first track that fails.
    pub fn embed_batch(&self, audios: &[ResampledAudio]) -> Result<Vec<Embedding>> {
        audios.iter().map(|audio| self.embed(audio)).collect()
    }

    /// Starts the embedding of a track whose samples come block by block.
    #[must_use]
    pub fn stream(&self) -> EmbeddingStream<'_> {
        EmbeddingStream {
            network: &self.network,
            stop: &self.stop,
            encoder_state: self.network.encoder_state(),
            pending: Vec::with_capacity(self.network.window),
            tokens: Vec::new(),
            nonsilent_ratio: Vec::new(),
        }
    }
}

/// A track that is being embedded. It holds up to one window of samples, and the tokens so far.
#[derive(Debug)]
pub struct EmbeddingStream<'m> {
    network: &'m Network,
    stop: &'m AtomicBool,
    encoder_state: EncoderState,
    /// Samples not yet encoded, fewer than a window.
    pending: Vec<f32>,
    /// (windows, dim), row-major.
    tokens: Vec<f32>,
    /// (windows).
    nonsilent_ratio: Vec<f32>,
}

impl EmbeddingStream<'_> {
    /// Adds the next samples: mono, at [`SAMPLE_RATE`](crate::SAMPLE_RATE).
    ///
    /// # Errors
    ///
    /// Fails if a sample is not finite or too large for the model, or if the work was stopped
    /// ([`AudioEmbeddingModel::until`]).
    pub fn push(&mut self, mut samples: &[f32]) -> Result<()> {
        check(self.stop)?;
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

    /// Ends the track. The last window is padded with zeros.
    ///
    /// # Errors
    ///
    /// Fails if there was no sample, or if the samples are too large for the model.
    pub fn finish(mut self) -> Result<Analysis> {
        if !self.pending.is_empty() {
            self.pending.resize(self.network.window, 0.0);
            self.encode()?;
        }
        if self.nonsilent_ratio.is_empty() {
            return Err(Error::audio("no samples"));
        }
        let (embedding, attention) = self.network.pool(&self.tokens, &self.nonsilent_ratio)?;
        if !embedding.iter().all(|value| value.is_finite()) {
            return Err(Error::audio("the samples are too large for the model"));
        }
        Ok(Analysis {
            embedding: Embedding(embedding),
            tokens: self.tokens,
            nonsilent_ratio: self.nonsilent_ratio,
            attention,
        })
    }

    /// Encodes the pending window.
    fn encode(&mut self) -> Result<()> {
        let (token, nonsilent_ratio) =
            self.network.encode(&self.pending, &mut self.encoder_state)?;
        self.pending.clear();
        self.tokens.extend(token);
        self.nonsilent_ratio.push(nonsilent_ratio);
        Ok(())
    }
}

fn check(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) {
        return Err(Error::reading(io::ErrorKind::Interrupted.into()));
    }
    Ok(())
}

/// Whether every sample is finite. Without a branch per sample, so that it vectorises.
fn are_finite(samples: &[f32]) -> bool {
    const EXPONENT_LSB: u32 = 1 << 23;
    // NaN and infinity have an exponent of all ones: adding 1 to it carries into the sign bit.
    let carry = |sample: &f32| (sample.to_bits() & i32::MAX as u32) + EXPONENT_LSB;
    samples.iter().fold(0, |all, sample| all | carry(sample)) >> 31 == 0
}

/// The embedding of a track, with the tokens and the attention that it was pooled from.
#[derive(Debug, Clone)]
pub struct Analysis {
    embedding: Embedding,
    /// (windows, dim), row-major.
    tokens: Vec<f32>,
    /// (windows).
    nonsilent_ratio: Vec<f32>,
    /// (queries, windows), row-major.
    attention: Vec<f32>,
}

impl Analysis {
    /// The embedding of the track.
    #[must_use]
    pub fn embedding(&self) -> Embedding {
        self.embedding
    }

    /// The number of windows in the track.
    #[must_use]
    pub fn windows(&self) -> usize {
        self.nonsilent_ratio.len()
    }

    /// Whether every frame is silent. All silent tracks have the same embedding.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.nonsilent_ratio.iter().all(|&ratio| ratio == 0.0)
    }

    /// The token of a window (dim).
    ///
    /// # Panics
    ///
    /// Panics if `window` is out of bounds.
    #[must_use]
    pub fn token(&self, window: usize) -> &[f32] {
        let dim = self.tokens.len() / self.windows();
        &self.tokens[window * dim..(window + 1) * dim]
    }

    /// The attention weight of each window (windows): the mean over the queries. The weights sum
    /// to 1.
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
    fn a_model_is_send_and_sync_and_a_stream_is_send() {
        fn assert_send_sync<T: Send + Sync>() {}
        fn assert_send<T: Send>() {}
        assert_send_sync::<AudioEmbeddingModel>();
        assert_send::<EmbeddingStream<'_>>();
    }

    #[test]
    fn one_sample_that_is_not_finite_is_found() {
        let finite = [0.0, -0.0, 1.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, f32::from_bits(1)];
        assert!(are_finite(&[]) && are_finite(&finite));
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in 0..=finite.len() {
                let mut samples = finite.to_vec();
                samples.insert(at, bad);
                assert!(!are_finite(&samples), "{bad} at {at}");
            }
        }
    }
}
