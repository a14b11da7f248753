//! The audio files of a folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use walkdir::WalkDir;

use crate::output::warn;

/// Names of files that are taken for audio. What is in them is found out when they are read.
const EXTENSIONS: [&str; 15] = [
    "aac", "aif", "aifc", "aiff", "alac", "flac", "m4a", "m4b", "mp3", "mp4", "oga", "ogg", "opus",
    "wav", "wave",
];

/// The audio files under `folder`, sorted. What cannot be read is reported and left out.
///
/// Fails if `folder` is no folder, or holds no audio file.
pub fn audio_files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        bail!("{}: not a folder", folder.display());
    }
    let mut files = Vec::new();
    for entry in WalkDir::new(folder).follow_links(true).sort_by_file_name() {
        match entry {
            Ok(entry) if entry.file_type().is_file() && is_audio_name(entry.path()) => {
                files.push(entry.into_path());
            }
            Ok(_) => {}
            Err(error) => warn(&error),
        }
    }
    if files.is_empty() {
        bail!("{}: no audio file there ({})", folder.display(), EXTENSIONS.join(", "));
    }
    Ok(files)
}

fn is_audio_name(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| EXTENSIONS.iter().any(|e| extension.eq_ignore_ascii_case(e)))
}

/// The path without links and detours: how a file is named in the index.
pub fn full_path(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| path.display().to_string())
}
