//! `map`: a page that shows the tracks of the index in two dimensions.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::AudioEmbeddingModel;
use crate::duplicates::LibraryTrack;
use crate::map::{MapTrack, Progress, SIGNATURE, page, page_data};
use anyhow::{Context, Result, bail};
use serde_json::json;

use super::library::{Entry, Library};
use super::numbers::{count, thousands};
use super::output::Output;
use super::paths::{full_path, full_path_of_missing, relative_to};
use super::progress;
use super::tags::album_or_folder;

/// Writes the map, and prints what was written.
pub fn map(
    model: &AudioEmbeddingModel,
    index: &Path,
    folders: &[PathBuf],
    out: &Path,
    relative: bool,
    output: &mut Output,
) -> Result<()> {
    let Written { songs, bytes } = write_map(model, index, folders, out, relative)?;
    let value = json!({ "path": out.to_string_lossy(), "songs": songs, "bytes": bytes });
    let mut line = output.name(out);
    let kilobytes = thousands(bytes.div_ceil(1000));
    line.extend(format!(": {}, {kilobytes} kB", count(songs, "song")).into_bytes());
    output.print(&value, line)
}

/// The page that was written.
pub struct Written {
    pub songs: usize,
    pub bytes: u64,
}

/// Writes the map of the tracks under `folders`, or of all tracks, to `out`.
pub fn write_map(
    model: &AudioEmbeddingModel,
    index: &Path,
    folders: &[PathBuf],
    out: &Path,
    relative: bool,
) -> Result<Written> {
    // Before the work: whether the page can be written.
    let page_folder = check_out(out)?;
    let library = Library::open(model, index)?;
    let tracks = map_tracks(&library, folders, relative.then_some(page_folder.as_path()))?;
    let data = page_data(&tracks, |it| match it {
        Progress::Begin(what, 0) => progress::begin(what),
        Progress::Begin(what, steps) => progress::begin_of(what, steps as u64),
        Progress::Step => progress::advance(1),
    })?;
    // The map is a part of the work that cannot be stopped in the middle.
    model.check_stopped()?;
    progress::begin(format!("writing {}", out.display()));
    let page = page(&data);
    write(out, page.as_bytes()).with_context(|| out.display().to_string())?;
    Ok(Written { songs: tracks.len(), bytes: page.len() as u64 })
}

/// The tracks under one of `folders`, or all without any. With `page_folder`, links are relative to
/// it.
fn map_tracks(
    library: &Library,
    folders: &[PathBuf],
    page_folder: Option<&Path>,
) -> Result<Vec<MapTrack>> {
    let full = folders.iter().map(|path| full_path_of_missing(path));
    let full = full.collect::<Result<Vec<_>>>()?;
    for (folder, full) in folders.iter().zip(&full) {
        if !library.entries.iter().any(|entry| entry.path.starts_with(full)) {
            bail!(
                "{}: the index has no song there to show: run `feelprint index` for it, or name \
                 another folder",
                folder.display()
            );
        }
    }
    let songs = library.entries.iter().zip(&library.tracks);
    let songs = songs
        .filter(|(entry, _)| full.is_empty() || full.iter().any(|it| entry.path.starts_with(it)));
    let track = |(entry, track): (&Entry, &LibraryTrack)| MapTrack {
        embedding: track.embedding,
        path: entry.path.clone(),
        link: match page_folder {
            Some(folder) => relative_to(&entry.path, folder),
            None => entry.path.clone(),
        },
        section_s: entry.section.map(|it| (it.start_s, it.start_s + it.duration_s)),
        title: entry.title.clone(),
        artist: track.artist.clone(),
        album: album_of_tags(track, &entry.path),
        duration_s: track.duration_s,
    };
    Ok(songs.map(track).collect())
}

/// The album, or "" where the folder stands for it: the page has that by itself.
fn album_of_tags(track: &LibraryTrack, path: &Path) -> String {
    if track.album == album_or_folder(None, path) { String::new() } else { track.album.clone() }
}

/// The folder of the page. Fails if the page cannot be there, and if it would overwrite a file that
/// is no map, such as a song.
fn check_out(out: &Path) -> Result<PathBuf> {
    if out.is_dir() || out.file_name().is_none() {
        bail!("{}: a folder, expected the name of a file such as map.html", out.display());
    }
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = full_path(parent)?;
    if out.try_exists().with_context(|| out.display().to_string())? {
        let mut start = vec![0; SIGNATURE.len()];
        let read = File::open(out).and_then(|mut file| file.read_exact(&mut start));
        if read.is_err() || start != SIGNATURE.as_bytes() {
            bail!("{}: a file that is no map is there; remove it, or name another", out.display());
        }
    }
    // A file beside it can be made, and the page replaces the old one in one step.
    let probe = beside(out);
    let made = File::create(&probe).and_then(|_| fs::remove_file(&probe));
    made.with_context(|| out.display().to_string())?;
    Ok(folder)
}

/// The name under which the page is written until it is whole.
fn beside(out: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(out.file_name().expect("it was checked"));
    name.push(format!(".{}", std::process::id()));
    out.with_file_name(name)
}

/// Writes a file that is whole or not there.
fn write(out: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let partial = beside(out);
    let written = File::create(&partial)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&partial, out));
    if written.is_err() {
        // What cannot be removed is a hidden file that a later run replaces.
        let _ = fs::remove_file(&partial);
    }
    written
}
