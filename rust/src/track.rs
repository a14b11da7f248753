//! An audio file to its embedding.

use std::path::Path;
use std::time::{Duration, Instant};

pub use crate::decode::StageTimes;
use crate::decode::{DecodeStats, Source, catch_decoder_panic, decode_blocks};
use crate::embeddings::{Analysis, AudioEmbeddingModel};
use crate::error::Result;

/// An audio file that was decoded and embedded.
#[derive(Debug, Clone)]
pub struct Track {
    analysis: Analysis,
    stats: DecodeStats,
}

impl Track {
    /// The embedding, the tokens and the attention.
    #[must_use]
    pub fn analysis(&self) -> &Analysis {
        &self.analysis
    }

    /// The duration of the decoded audio.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.stats.duration_s)
    }

    /// The album in the file's tags.
    #[must_use]
    pub fn album(&self) -> Option<&str> {
        self.stats.album.as_deref()
    }

    /// The first damage of the file, if there is any. The embedding is that of the audio that could
    /// be decoded.
    #[must_use]
    pub fn damage(&self) -> Option<&str> {
        self.stats.damage.as_deref()
    }

    /// The time that each stage took.
    #[must_use]
    pub fn times(&self) -> StageTimes {
        self.stats.times
    }
}

impl AudioEmbeddingModel {
    /// Decodes and embeds a file. The audio streams through the model, so that memory hardly grows
    /// with its length.
    ///
    /// ```no_run
    /// # fn main() -> feelprint::Result<()> {
    /// let model = feelprint::AudioEmbeddingModel::load_default()?;
    /// let track = model.embed_file("track.mp3")?;
    /// println!("{:?} of {:?}", track.analysis().embedding(), track.duration());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`decode`](crate::decode::decode) and [`embed`](Self::embed).
    pub fn embed_file<P: AsRef<Path>>(&self, path: P) -> Result<Track> {
        let path = path.as_ref();
        catch_decoder_panic(path, || {
            let mut stream = self.stream();
            let mut stats = decode_blocks(Source::open(path)?, |samples| stream.push(samples))?;
            let start = Instant::now();
            let analysis = stream.finish()?;
            stats.times.embed += start.elapsed();
            Ok(Track { analysis, stats })
        })
    }
}
