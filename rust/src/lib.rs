//! Music similarity from audio: a track of any length becomes an embedding of 32 numbers, and
//! tracks with nearby embeddings sound similar.
//!
//! ```
//! use feelprint::neighbours::Neighbours;
//! use feelprint::{AudioEmbeddingModel, ResampledAudio, SAMPLE_RATE};
//!
//! # fn main() -> feelprint::Result<()> {
//! # if cfg!(not(feature = "bundled-model")) { return Ok(()); }
//! let model = AudioEmbeddingModel::load_default()?;
//! // Three tones of five seconds; `model.embed_file("track.mp3")` takes a file instead.
//! let tone = |hz: f32| ResampledAudio {
//!     path: "tone".into(),
//!     samples: (0..5 * SAMPLE_RATE)
//!         .map(|i| (std::f32::consts::TAU * hz * i as f32 / SAMPLE_RATE as f32).sin())
//!         .collect(),
//! };
//! let query = model.embed(&tone(440.0))?;
//! let library: Neighbours =
//!     model.embed_batch(&[tone(3_000.0), tone(445.0)])?.into_iter().collect();
//! let nearest = library.nearest(&query, 1);
//! assert_eq!(nearest[0].index, 1);
//! # Ok(())
//! # }
//! ```
//!
//! # The model
//!
//! The audio is cut into windows of about 1 s. The log-mel spectrogram of each window goes through
//! a CNN: 2-D filters with the maximum over frequency, then convolutions over time. The filters are
//! initialised from those of the music tagger MSD_musicnn, resized to a coarser resolution in time
//! and frequency, and are trained by per-channel feature distillation: each channel is trained to
//! predict the mean of its counterpart in the tagger over a segment of three windows. A window
//! gives one token.
//! Attention pooling over the tokens of a track gives a unit vector, and a linear metric, fitted on
//! albums, turns it into the embedding. Embeddings are compared by their Euclidean distance.
//!
//! Not all of a track is used: its first windows are, about half a minute, and of each later group
//! of four the third, which counts for the four. [`track`] decodes no more than that, and
//! [`EmbeddingStream::needed`] says what it is. [`AudioEmbeddingModel::whole`] uses every window,
//! under a version of its own.
//!
//! The audio streams through the CNN, so that memory hardly grows with its length. Zeros at the
//! end of a track hardly change its embedding, and silence has an embedding too.
//!
//! # Modules
//!
//! - [`embeddings`]: samples to an embedding. The names and signatures are those of
//!   `mecomp_analysis::embeddings`.
//! - [`decode`]: an audio file to samples, and [`track`]: an audio file to an embedding.
//! - [`neighbours`], [`playlist`], [`duplicates`]: what to do with many embeddings.
//! - `map` (feature `cli`): the page that shows a library in two dimensions.
//!
//! Embeddings of two models cannot be compared: store [`AudioEmbeddingModel::version`] with them.
//!
//! # Features
//!
//! Both are on by default.
//!
//! - `bundled-model`: the released model is part of the library.
//! - `cli`: the command `feelprint`, and the crates that only it needs.
#![deny(missing_docs)]

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod decode;
pub mod duplicates;
pub mod embeddings;
mod error;
mod frontend;
#[cfg(feature = "cli")]
pub mod map;
pub mod neighbours;
mod network;
mod opus;
pub mod playlist;
mod resample;
#[cfg(test)]
#[path = "../tests/common/signals.rs"]
mod signals;
pub mod track;

pub use embeddings::{
    Analysis, AudioEmbeddingModel, DIM_EMBEDDING, Embedding, EmbeddingStream, ModelConfig,
    ResampledAudio, Window,
};
pub use error::{Error, Result};
pub use track::Track;

/// The sample rate that the models expect, in Hz.
pub const SAMPLE_RATE: u32 = 22_050;
