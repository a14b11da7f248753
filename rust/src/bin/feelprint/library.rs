//! The tracks of the index, in memory.

use std::path::Path;

use anyhow::Result;
use feelprint::AudioEmbeddingModel;
use feelprint::duplicates::{LibraryTrack, content_hash};

use crate::database::Index;
use crate::files::{album_or_folder, full_path};

/// All tracks of the index that have an embedding.
pub struct Library {
    /// Sorted.
    pub paths: Vec<String>,
    pub tracks: Vec<LibraryTrack>,
}

impl Library {
    /// Reads the index. Fails if it is not of this version of the model.
    pub fn open(model: &AudioEmbeddingModel, index: &Path) -> Result<Self> {
        let (paths, tracks) = Index::open(index)?.tracks(model.version())?.into_iter().unzip();
        Ok(Self { paths, tracks })
    }

    /// The track of a file, and its position if the library has it; otherwise it is analysed now.
    pub fn track(
        &self,
        model: &AudioEmbeddingModel,
        file: &Path,
    ) -> Result<(LibraryTrack, Option<usize>)> {
        let full = full_path(file)?;
        let path = full.to_string_lossy();
        if let Ok(position) = self.paths.binary_search_by(|other| other.as_str().cmp(&path)) {
            return Ok((self.tracks[position].clone(), Some(position)));
        }
        let track = model.embed_file(file)?;
        let track = LibraryTrack {
            embedding: track.analysis().embedding(),
            content_hash: content_hash(&full)?,
            duration_s: track.duration().as_secs_f64(),
            silent: track.analysis().is_silent(),
            album: album_or_folder(track.album().map(str::to_string), &path),
        };
        Ok((track, None))
    }
}
