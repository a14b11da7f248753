//! The analysis of files for the index: on all cores, with the rows written on one thread.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::duplicates::content_hash;
use crate::{AudioEmbeddingModel, Track};
use anyhow::{Context, Result};
use rayon::prelude::*;

use super::cue::Section;
use super::database::{AnalysisResult, DECODER, FileStat, Index, NewRow};
use super::index::IndexOptions;
use super::output::note;
use super::progress;
use super::tags::{Tags, not_empty, read_tags};

/// The time between commits, which is how much work a killed run can lose.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// The number of tracks by what happened to them. A failed or damaged one is counted elsewhere too.
#[derive(Debug, Default)]
pub struct Counts {
    pub unchanged: usize,
    pub analysed: usize,
    pub recognised: usize,
    /// Rows whose file was found under another path.
    pub removed: usize,
    pub missing: usize,
    pub excluded: usize,
    pub unreadable: usize,
    pub failed: usize,
    pub damaged: usize,
}

/// A file whose rows are missing or outdated.
pub struct Task {
    pub path: PathBuf,
    /// The argument of `index` that it was found by.
    pub folder: PathBuf,
    pub stat: FileStat,
    /// The tracks of its cue sheet; none if the file is one track.
    pub sections: Vec<Section>,
    /// The content hash in the row, if the file has not changed since.
    pub hash: Option<[u8; 32]>,
    /// Whether only the tags are missing in the row.
    pub tags_only: bool,
}

/// A task that is done, or the reason why the file could not be read.
type TaskResult = std::result::Result<Done, String>;

/// A file to write the rows of.
struct Done {
    task: Task,
    tags: Tags,
    songs: Vec<DoneTrack>,
}

struct DoneTrack {
    section: Option<Section>,
    hash: [u8; 32],
    /// `None` if another row has the result for the same content.
    result: Option<AnalysisResult>,
}

/// The size and the modification time of a file.
pub fn file_stat(path: &Path) -> Result<FileStat> {
    let metadata = path.metadata().with_context(|| path.display().to_string())?;
    let modified = metadata.modified().with_context(|| path.display().to_string())?;
    // Times before 1970 are negative.
    let modified_ns = match modified.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    };
    Ok(FileStat { size: i64::try_from(metadata.len()).unwrap_or(i64::MAX), modified_ns })
}

/// Analyses the files of `tasks`, and writes their rows. With `force`, also those whose content is
/// known.
pub fn analyse_files(
    model: &AudioEmbeddingModel,
    index: &mut Index,
    tasks: Vec<Task>,
    options: &IndexOptions,
    counts: &mut Counts,
) -> Result<()> {
    let total = tasks.len();
    let bytes = tasks.iter().map(|task| task.stat.size.unsigned_abs()).sum();
    let known = if options.force { HashSet::new() } else { index.hashes(model.version())? };
    progress::begin_of("", bytes);
    progress::analysed(0, total);
    let (sender, receiver) = sync_channel(1024);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build()?;
    pool.in_place_scope(|scope| {
        scope.spawn(|_| {
            // Sending fails only if the writer has failed, which reports the error.
            let sender: SyncSender<TaskResult> = sender;
            let _ = tasks.into_par_iter().try_for_each_with(sender, |sender, task| {
                if model.is_stopped() {
                    return Err(());
                }
                let done = analyse_file(model, task, &known);
                sender.send(done).map_err(|_| ())
            });
        });
        write_rows(model, index, &receiver, total, counts)
    })?;
    Ok(model.check_stopped()?)
}

/// Analyses a file, unless the content hashes of its tracks are `known`.
fn analyse_file(model: &AudioEmbeddingModel, task: Task, known: &HashSet<[u8; 32]>) -> TaskResult {
    if task.tags_only {
        return Ok(Done { tags: read_tags(&task.path), songs: Vec::new(), task });
    }
    let hash = match task.hash {
        Some(hash) => hash,
        None => content_hash(&task.path).map_err(|error| error.to_string())?,
    };
    let mut tags = read_tags(&task.path);
    let mut songs: Vec<DoneTrack> = if task.sections.is_empty() {
        vec![DoneTrack { section: None, hash, result: None }]
    } else {
        let section = |(position, section): (usize, &Section)| DoneTrack {
            section: Some(section.clone()),
            hash: section_hash(&hash, section, task.sections.get(position + 1)),
            result: None,
        };
        task.sections.iter().enumerate().map(section).collect()
    };
    if !songs.iter().all(|song| known.contains(&song.hash)) {
        let (results, album) = embed_tracks(model, &task)?;
        tags.album = tags.album.or(album);
        // A file that is being written would be kept with a half of its audio.
        if file_stat(&task.path).map_err(|error| format!("{error:#}"))? != task.stat {
            return Err(format!("{}: it changed while it was read", task.path.display()));
        }
        // A disk that fails may look like a damaged file to a decoder.
        let is_finding =
            |result: &AnalysisResult| result.embedding.is_err() || result.damage.is_some();
        if results.iter().any(is_finding)
            && content_hash(&task.path).map_err(|e| e.to_string())? != hash
        {
            return Err(format!("{}: it reads differently each time", task.path.display()));
        }
        for (song, result) in songs.iter_mut().zip(results) {
            song.result = Some(result);
        }
    }
    Ok(Done { task, tags, songs })
}

/// The content hash of a cue sheet's track: of the file and of its start and end in it.
fn section_hash(file: &[u8; 32], section: &Section, next: Option<&Section>) -> [u8; 32] {
    let end_s = next.map_or(f64::INFINITY, |next| next.start_s);
    let mut hasher = blake3::Hasher::new();
    hasher.update(file).update(&section.start_s.to_le_bytes()).update(&end_s.to_le_bytes());
    hasher.finalize().into()
}

/// The result of each track of a file, and the album. An I/O error says nothing about the content:
/// the next run tries again.
fn embed_tracks(
    model: &AudioEmbeddingModel,
    task: &Task,
) -> std::result::Result<(Vec<AnalysisResult>, Option<String>), String> {
    let tracks = if task.sections.is_empty() {
        model.embed_file(&task.path).map(|track| vec![Ok(track)])
    } else {
        let starts_s: Vec<_> = task.sections.iter().map(|section| section.start_s).collect();
        model.embed_sections(&task.path, &starts_s)
    };
    match tracks {
        Ok(tracks) => {
            let album = tracks.iter().flatten().find_map(Track::album).and_then(not_empty);
            Ok((tracks.into_iter().map(to_result).collect(), album))
        }
        Err(error) if error.io_error().is_some() => Err(error.to_string()),
        Err(error) => {
            let failed = failure(error.reason());
            Ok((vec![failed; task.sections.len().max(1)], None))
        }
    }
}

fn to_result(track: crate::Result<Track>) -> AnalysisResult {
    match track {
        Ok(track) => AnalysisResult {
            embedding: Ok(track.analysis().embedding()),
            duration_s: Some(track.duration().as_secs_f64()),
            silent: track.analysis().is_silent(),
            damage: track.damage().map(str::to_string),
            decoder: Some(DECODER.to_string()),
        },
        Err(error) => failure(error.reason()),
    }
}

fn failure(reason: String) -> AnalysisResult {
    AnalysisResult {
        embedding: Err(reason),
        duration_s: None,
        silent: false,
        damage: None,
        decoder: Some(DECODER.to_string()),
    }
}

fn write_rows(
    model: &AudioEmbeddingModel,
    index: &mut Index,
    results: &Receiver<TaskResult>,
    total: usize,
    counts: &mut Counts,
) -> Result<()> {
    let mut finished = 0;
    // Waits for the first result of a batch before the transaction begins, so that another process
    // can write meanwhile.
    while let Ok(first) = results.recv() {
        let until = Instant::now() + COMMIT_EVERY;
        index.transaction(|index| {
            let mut next = Some(first);
            while let Some(done) = next {
                finished += 1;
                match done {
                    Ok(done) => {
                        progress::advance(done.task.stat.size.unsigned_abs());
                        write_file(model, index, done, counts)?;
                    }
                    Err(problem) => {
                        counts.unreadable += 1;
                        note(&problem);
                    }
                }
                progress::analysed(finished, total);
                next = results.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Writes the rows of a file.
fn write_file(
    model: &AudioEmbeddingModel,
    index: &Index,
    done: Done,
    counts: &mut Counts,
) -> Result<()> {
    if done.task.tags_only {
        return index.set_tags(&done.task.path, &done.tags);
    }
    let Done { task, tags, songs } = done;
    let mut rows = Vec::new();
    let (mut analysed, mut recognised) = (0, 0);
    for DoneTrack { section, hash, result } in songs {
        let result = match result {
            Some(result) => {
                analysed += 1;
                result
            }
            None => match index.result(&hash, model.version())? {
                Some(known) => {
                    recognised += 1;
                    known
                }
                // The row with that content has been overwritten since.
                None => {
                    let task = Task { hash: None, ..task };
                    return match analyse_file(model, task, &HashSet::new()) {
                        Ok(done) => write_file(model, index, done, counts),
                        Err(problem) => {
                            counts.unreadable += 1;
                            note(&problem);
                            Ok(())
                        }
                    };
                }
            },
        };
        rows.push(NewRow { tags: section_tags(section.as_ref(), &tags), section, hash, result });
    }
    counts.analysed += analysed;
    counts.recognised += recognised;
    for row in &rows {
        if let Err(reason) = &row.result.embedding {
            counts.failed += 1;
            note(&format!("{}: {reason}", task.path.display()));
        }
        counts.damaged += usize::from(row.result.damage.is_some());
        counts.removed += usize::from(index.remove_moved(&row.hash, &task.path)?);
    }
    index.put(&task.path, &task.folder, task.stat, model.version(), &rows)
}

/// The tags of a track: those of the cue sheet, and of the file where it says nothing.
pub fn section_tags(section: Option<&Section>, file: &Tags) -> Tags {
    let Some(section) = section else { return file.clone() };
    Tags {
        title: section.title.clone(),
        artist: section.artist.clone().or_else(|| file.artist.clone()),
        album: section.album.clone().or_else(|| file.album.clone()),
    }
}
