//! The index: what the commands `index`, `similar`, `playlist`, `duplicates` and `forget` do.

use std::path::PathBuf;
use std::sync::Arc;

use feelprint::cli::analyse::Counts;
use feelprint::cli::database;
use feelprint::cli::exclude::{Exclude, excluded};
use feelprint::cli::index::{IndexOptions, update};
use feelprint::cli::input::Input;
use feelprint::cli::library::Library;
use feelprint::cli::map::write_map;
use feelprint::cli::playlist::{Limits, steps};
use feelprint::cli::similar::nearest;
use feelprint::cli::{default_index, forget};
use feelprint::duplicates::{LibraryTrack, duplicates};
use feelprint::{AudioEmbeddingModel, DIM_EMBEDDING};
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::{Error, command_exception};
use crate::model::Model;
use crate::work::{self, Done};

/// An index and the model that its tracks are embedded by.
#[pyclass(frozen)]
pub struct Index {
    #[pyo3(get)]
    path: PathBuf,
    model: Arc<AudioEmbeddingModel>,
}

/// The arguments of `feelprint.IndexedTrack`: path, number in a cue sheet, start and end in seconds,
/// title, artist, distance, step.
type TrackFields = (
    PathBuf,
    Option<u32>,
    Option<f64>,
    Option<f64>,
    Option<String>,
    Option<String>,
    Option<f32>,
    Option<f32>,
);

/// Whether the files have the same content, and the tracks.
type Group = (bool, Vec<TrackFields>);

fn fields(library: &Library, at: usize, distance: Option<f32>, step: Option<f32>) -> TrackFields {
    let (entry, track) = (&library.entries[at], &library.tracks[at]);
    let section = entry.section;
    (
        entry.path.clone(),
        section.map(|section| section.track),
        section.map(|section| section.start_s),
        section.map(|section| section.start_s + section.duration_s),
        entry.title.clone(),
        Some(track.artist.clone()).filter(|artist| !artist.is_empty()),
        distance,
        step,
    )
}

#[pymethods]
impl Index {
    #[new]
    fn new(path: Option<PathBuf>, model: &Model) -> PyResult<Self> {
        let path =
            path.map_or_else(default_index, Ok).map_err(|error| command_exception(&error))?;
        Ok(Self { path, model: Arc::clone(&model.model) })
    }

    /// Returns the counts by name, the files that a dry run would analyse, and the notes.
    #[allow(clippy::too_many_arguments, reason = "the command's options")]
    fn update<'py>(
        &self,
        py: Python<'py>,
        folders: Vec<PathBuf>,
        exclude: Vec<String>,
        force: bool,
        dry_run: bool,
        threads: usize,
        progress: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyDict>, Vec<PathBuf>, Vec<String>)> {
        let options = IndexOptions { exclude, force, dry_run, threads };
        let path = self.path.clone();
        let work = move |model: &AudioEmbeddingModel| update(model, &path, &folders, &options);
        let Done { result, notes } = work::run(py, &self.model, progress, work)?;
        let updated = result.map_err(|error| command_exception(&error))?;
        if !updated.failures.is_empty() {
            return Err(Error::new_err(updated.failures.join("; ")));
        }
        Ok((counts(py, &updated.counts)?, updated.to_analyse, notes))
    }

    /// Returns the tracks, and the notes.
    fn similar(
        &self,
        py: Python<'_>,
        songs: Vec<PathBuf>,
        n: usize,
        exclude_songs: Vec<PathBuf>,
        exclude_artists: Vec<String>,
    ) -> PyResult<(Vec<TrackFields>, Vec<String>)> {
        let exclude =
            Exclude { songs: exclude_songs, artists: exclude_artists, ..Exclude::default() };
        self.read(py, move |model, library| {
            let excluded = excluded(library, &exclude);
            let nearest = nearest(model, library, &inputs(songs), n, &excluded)?;
            Ok(nearest
                .iter()
                .map(|it| fields(library, it.index, Some(it.distance), None))
                .collect())
        })
    }

    /// Returns the tracks in playing order, and the notes.
    #[allow(clippy::too_many_arguments, reason = "the command's options")]
    fn playlist(
        &self,
        py: Python<'_>,
        songs: Vec<PathBuf>,
        n: usize,
        max_per_album: Option<usize>,
        max_per_artist: Option<usize>,
        exclude_songs: Vec<PathBuf>,
        exclude_artists: Vec<String>,
    ) -> PyResult<(Vec<TrackFields>, Vec<String>)> {
        let exclude =
            Exclude { songs: exclude_songs, artists: exclude_artists, ..Exclude::default() };
        let limits = Limits { length: n, max_per_album, max_per_artist };
        self.read(py, move |model, library| {
            let excluded = excluded(library, &exclude);
            let steps = steps(model, library, &inputs(songs), limits, excluded)?;
            let fields = |it: &feelprint::cli::playlist::Step| {
                fields(library, it.position, Some(it.distance), Some(it.step))
            };
            Ok(steps.iter().map(fields).collect())
        })
    }

    /// Returns the groups, each with whether the files have the same content, and the notes.
    fn duplicates(&self, py: Python<'_>, within: f32) -> PyResult<(Vec<Group>, Vec<String>)> {
        self.read(py, move |_, library| {
            let tracks = &library.tracks;
            let group = |group: Vec<usize>| {
                let first: &LibraryTrack = &tracks[group[0]];
                let identical = group.iter().all(|&i| tracks[i].content_hash == first.content_hash);
                let distance = |i: usize| Some(tracks[i].embedding.distance(&first.embedding));
                let fields = group.iter().map(|&i| fields(library, i, distance(i), None)).collect();
                (identical, fields)
            };
            Ok(duplicates(tracks, within)?.into_iter().map(group).collect())
        })
    }

    /// Writes the page. Returns how many tracks it shows, and the notes.
    fn map(
        &self,
        py: Python<'_>,
        out: PathBuf,
        folders: Vec<PathBuf>,
        relative: bool,
    ) -> PyResult<(usize, Vec<String>)> {
        let path = self.path.clone();
        let work =
            move |model: &AudioEmbeddingModel| write_map(model, &path, &folders, &out, relative);
        let Done { result, notes } = work::run(py, &self.model, None, work)?;
        Ok((result.map_err(|error| command_exception(&error))?.songs, notes))
    }

    /// Returns the tracks that can be compared, their embeddings, (tracks, 32), and the notes.
    #[allow(clippy::type_complexity, reason = "three results")]
    fn tracks<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Vec<TrackFields>, Bound<'py, PyArray2<f32>>, Vec<String>)> {
        let work = |_: &AudioEmbeddingModel, library: &Library| {
            let tracks = (0..library.tracks.len()).map(|at| fields(library, at, None, None));
            let values = library.tracks.iter().flat_map(|track| track.embedding.0);
            Ok((tracks.collect::<Vec<_>>(), values.collect::<Vec<_>>()))
        };
        let ((tracks, values), notes) = self.read(py, work)?;
        let embeddings = PyArray1::from_vec(py, values).reshape([tracks.len(), DIM_EMBEDDING])?;
        Ok((tracks, embeddings, notes))
    }

    /// The path of each track, those without an embedding included.
    fn paths(&self, py: Python<'_>) -> PyResult<Vec<PathBuf>> {
        let path = self.path.clone();
        let work = move |_: &AudioEmbeddingModel| {
            let rows = database::Index::open(&path)?.states()?;
            Ok(rows.into_iter().map(|row| row.path).collect())
        };
        let paths: anyhow::Result<_> = work::run(py, &self.model, None, work)?.result;
        paths.map_err(|error| command_exception(&error))
    }

    /// Removes the tracks under `paths`, or those whose files are gone. Returns how many there were.
    fn forget(&self, py: Python<'_>, paths: Vec<PathBuf>, dry_run: bool) -> PyResult<usize> {
        let path = self.path.clone();
        let work = move |_: &AudioEmbeddingModel| {
            let mut index = database::Index::open(&path)?;
            let (rows, failures) = forget::forgotten(&index, &paths)?;
            if !dry_run {
                forget::remove(&mut index, &rows)?;
            }
            Ok((rows.len(), failures))
        };
        let done: anyhow::Result<(usize, Vec<String>)> =
            work::run(py, &self.model, None, work)?.result;
        let (removed, failures) = done.map_err(|error| command_exception(&error))?;
        if !failures.is_empty() {
            return Err(Error::new_err(failures.join("; ")));
        }
        Ok(removed)
    }
}

impl Index {
    /// Reads the index, and returns the result of `work` on it with the notes.
    fn read<T: Send + 'static>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&AudioEmbeddingModel, &Library) -> anyhow::Result<T> + Send + 'static,
    ) -> PyResult<(T, Vec<String>)> {
        let path = self.path.clone();
        let work = move |model: &AudioEmbeddingModel| work(model, &Library::open(model, &path)?);
        let Done { result, notes } = work::run(py, &self.model, None, work)?;
        Ok((result.map_err(|error| command_exception(&error))?, notes))
    }
}

fn inputs(songs: Vec<PathBuf>) -> Vec<Input> {
    songs.into_iter().map(Input::file).collect()
}

fn counts<'py>(py: Python<'py>, counts: &Counts) -> PyResult<Bound<'py, PyDict>> {
    let Counts { unchanged, analysed, recognised, removed, .. } = *counts;
    let Counts { missing, excluded, unreadable, failed, damaged, .. } = *counts;
    let dict = PyDict::new(py);
    for (name, number) in [
        ("unchanged", unchanged),
        ("analysed", analysed),
        ("recognised", recognised),
        ("removed", removed),
        ("missing", missing),
        ("excluded", excluded),
        ("unreadable", unreadable),
        ("failed", failed),
        ("damaged", damaged),
    ] {
        dict.set_item(name, number)?;
    }
    Ok(dict)
}
