//! Audio files: which a folder has, how they are named in the index, and their album.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use walkdir::WalkDir;

use crate::output::warn;

/// Extensions of audio files. The decoder detects the format from the content.
const EXTENSIONS: [&str; 15] = [
    "aac", "aif", "aifc", "aiff", "alac", "flac", "m4a", "m4b", "mp3", "mp4", "oga", "ogg", "opus",
    "wav", "wave",
];

/// The audio files under `folder`, sorted. Subfolders that cannot be read are reported and skipped.
///
/// Fails if `folder` is not a folder, or has no audio file.
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

/// The canonical path, which names a file in the index.
pub fn full_path(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| path.display().to_string())
}

/// The album in the tags, or else the folder of the file.
pub fn album_or_folder(album: Option<String>, path: &str) -> String {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    album.unwrap_or_else(|| folder.to_string_lossy().into_owned())
}
