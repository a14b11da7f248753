//! The tracks of the index, in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::AudioEmbeddingModel;
use crate::duplicates::{LibraryTrack, content_hash};
use anyhow::{Context, Result, bail};

use super::database::{Index, embedding_from};
use super::input::Input;
use super::numbers::{count, is_or_are};
use super::output::note;
use super::paths::{SqlPath, full_path};
use super::progress;
use super::tags::{album_or_folder, not_empty, read_tags};

/// Where a track is, and its title.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub path: PathBuf,
    /// The track of a cue sheet in the file, or `None` if the file is one track.
    pub section: Option<SheetTrack>,
    pub title: Option<String>,
}

/// The track of a cue sheet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SheetTrack {
    pub track: u32,
    pub start_s: f64,
    pub duration_s: f64,
}

/// All tracks of the index that have an embedding of one model, and whose files were there at the
/// last run of `index`. Sorted by path.
pub struct Library {
    pub entries: Vec<Entry>,
    pub tracks: Vec<LibraryTrack>,
}

/// The rows that are left out.
#[derive(Default)]
struct LeftOut {
    missing: usize,
    excluded: usize,
    failed: usize,
    /// By the version of their model.
    other_models: BTreeMap<String, usize>,
}

/// A track to compare with the library.
pub struct Seed {
    pub track: LibraryTrack,
    /// In the library, if it is there.
    pub position: Option<usize>,
}

impl Library {
    /// Reads the index. Reports the tracks that cannot be compared; fails if no track can be.
    pub fn open(model: &AudioEmbeddingModel, path: &Path) -> Result<Self> {
        let index = Index::open(path)?;
        progress::begin("reading the index");
        let (library, left_out) = read(&index, model.version()).with_context(|| index.name())?;
        if library.entries.is_empty() {
            bail!("{}: {}", index.name(), left_out.why_nothing(model.version()));
        }
        left_out.report();
        Ok(library)
    }

    /// The tracks that `input` names: those of the library at its path, or else the file itself,
    /// which is analysed now.
    pub fn seeds(&self, model: &AudioEmbeddingModel, input: &Input) -> Result<Vec<Seed>> {
        let (file, track) = match input.path.exists() {
            true => (input.path.clone(), None),
            false => path_and_track(&input.path),
        };
        let full = full_path(&file)?;
        let found: Vec<usize> = self.positions(&full, track).collect();
        if !found.is_empty() {
            let seed = |position: usize| Seed {
                track: self.tracks[position].clone(),
                position: Some(position),
            };
            return Ok(found.into_iter().map(seed).collect());
        }
        if let Some(track) = track {
            bail!("{}: the index has no track {track} of this file", file.display());
        }
        progress::begin(format!("analysing {}", input.name.display()));
        let track = model.embed_file(&full)?;
        let tags = read_tags(&full);
        let track = LibraryTrack {
            embedding: track.analysis().embedding(),
            content_hash: content_hash(&full)?,
            duration_s: track.duration().as_secs_f64(),
            silent: track.analysis().is_silent(),
            album: album_or_folder(tags.album.as_deref().or(track.album()), &full),
            artist: tags.artist.unwrap_or_default(),
        };
        Ok(vec![Seed { track, position: None }])
    }

    /// The positions of the tracks of a file, or of one track of its cue sheet.
    fn positions(&self, path: &Path, track: Option<u32>) -> impl Iterator<Item = usize> {
        let is_track = move |entry: &Entry| {
            track.is_none() || entry.section.map(|section| section.track) == track
        };
        let entries = self.entries.iter().enumerate();
        entries.filter(move |(_, entry)| entry.path == path && is_track(entry)).map(|(at, _)| at)
    }
}

/// "album.flac#3" is the third track of the cue sheet of album.flac.
fn path_and_track(path: &Path) -> (PathBuf, Option<u32>) {
    let split = path.to_str().and_then(|text| text.rsplit_once('#'));
    match split.and_then(|(file, track)| Some((file, track.parse().ok()?))) {
        Some((file, track)) => (file.into(), Some(track)),
        None => (path.to_path_buf(), None),
    }
}

fn read(index: &Index, version: &str) -> Result<(Library, LeftOut)> {
    let mut statement = index.db.prepare(
        "SELECT path, track, start_s, title, embedding, hash, duration_s, silent, album, artist,
         version, absent FROM songs",
    )?;
    let mut left_out = LeftOut::default();
    let mut all = Vec::new();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let embedding = row.get_ref(4)?.as_blob_or_null()?;
        let other = row.get_ref(10)?.as_str()?;
        if let Some(absent) = row.get_ref(11)?.as_str_or_null()? {
            match absent {
                "excluded" => left_out.excluded += 1,
                _ => left_out.missing += 1,
            }
        } else if let Some(embedding) = embedding.filter(|_| other == version) {
            let path = row.get::<_, SqlPath>(0)?.0;
            let duration_s = row.get(6)?;
            let track = LibraryTrack {
                embedding: embedding_from(embedding)?,
                content_hash: row.get(5)?,
                duration_s,
                silent: row.get(7)?,
                album: album_or_folder(row.get_ref(8)?.as_str_or_null()?, &path),
                artist: row.get_ref(9)?.as_str_or_null()?.and_then(not_empty).unwrap_or_default(),
            };
            let start_s: Option<f64> = row.get(2)?;
            let number = row.get(1)?;
            let section = start_s.map(|start_s| SheetTrack { track: number, start_s, duration_s });
            all.push((Entry { path, section, title: row.get(3)? }, track));
        } else if other == version {
            left_out.failed += 1;
        } else {
            *left_out.other_models.entry(other.to_string()).or_default() += 1;
        }
    }
    let place = |entry: &Entry| entry.section.map_or(0, |section| section.track);
    all.sort_by(|(a, _), (b, _)| {
        let (a_path, b_path) = (a.path.as_os_str(), b.path.as_os_str());
        a_path.cmp(b_path).then_with(|| place(a).cmp(&place(b)))
    });
    let (entries, tracks) = all.into_iter().unzip();
    Ok((Library { entries, tracks }, left_out))
}

impl LeftOut {
    /// Says how many tracks are left out that could be compared after another run.
    fn report(&self) {
        if self.missing > 0 {
            let (songs, are) = (count(self.missing, "song"), is_or_are(self.missing));
            note(&format!("{songs} {are} left out, missing at the last `feelprint index`"));
        }
        let others: usize = self.other_models.values().sum();
        if others > 0 {
            let (songs, are) = (count(others, "song"), is_or_are(others));
            note(&format!(
                "{songs} {are} left out, of another model: run `feelprint index` again for their \
                 folders, or `feelprint forget --outdated`"
            ));
        }
    }

    fn why_nothing(&self, version: &str) -> String {
        let mut reasons = Vec::new();
        if self.failed > 0 {
            reasons.push(format!("{} without an embedding", count(self.failed, "song")));
        }
        if self.missing > 0 {
            reasons.push(format!("{} missing", count(self.missing, "song")));
        }
        if self.excluded > 0 {
            reasons.push(format!("{} excluded", count(self.excluded, "song")));
        }
        for (other, &number) in &self.other_models {
            let (songs, are) = (count(number, "song"), is_or_are(number));
            reasons.push(format!(
                "{songs} {are} of model {other}, the model in use is {version}; embeddings of two \
                 versions cannot be compared: run `feelprint index DIR` again for the folders in \
                 it, or `feelprint forget --outdated`"
            ));
        }
        if reasons.is_empty() {
            return "the index has no song yet: run `feelprint index DIR`".to_string();
        }
        format!("no song can be compared: {}; see `feelprint status`", reasons.join("; "))
    }
}
