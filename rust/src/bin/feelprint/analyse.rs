//! `index`: brings the index up to date with a folder.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result};
use feelprint::AudioEmbeddingModel;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use serde_json::json;

use crate::files::{audio_files, full_path};
use crate::index::{Finding, Index, Stamp};
use crate::output::{Output, warn};

/// How much work a kill can cost at most.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// A file whose row is not up to date.
struct Task {
    path: String,
    stamp: Stamp,
    /// Its content's hash, if the row says that the file did not change.
    hash: Option<[u8; 32]>,
}

/// A row to write.
struct Done {
    task: Task,
    hash: [u8; 32],
    /// What was found, or that it is known already.
    found: Option<Finding>,
}

#[derive(Default)]
struct Counts {
    unchanged: usize,
    analysed: usize,
    recognised: usize,
    removed: usize,
    unreadable: usize,
    failed: usize,
    damaged: usize,
}

/// Analyses what is new or changed under `folder`, and forgets what is gone.
pub fn index(
    model: &AudioEmbeddingModel,
    path: &Path,
    folder: &Path,
    output: &mut Output,
) -> Result<()> {
    let start = Instant::now();
    let folder = full_path(folder)?;
    let files = audio_files(&folder)?;
    let mut index = Index::create(path)?;
    let mut counts = Counts::default();
    let mut tasks = Vec::new();
    let mut present = HashSet::new();
    for path in files {
        let Some(name) = path.to_str() else {
            warn(&format!("{}: the name is not UTF-8; left out", path.display()));
            counts.unreadable += 1;
            continue;
        };
        present.insert(name.to_string());
        let stamp = match stamp(&path) {
            Ok(stamp) => stamp,
            Err(error) => {
                warn(&format!("{error:#}"));
                counts.unreadable += 1;
                continue;
            }
        };
        match index.row(name)? {
            Some((known, _, version)) if known == stamp && version == model.version() => {
                counts.unchanged += 1;
            }
            row => {
                let hash = row.filter(|(known, ..)| *known == stamp).map(|(_, hash, _)| hash);
                tasks.push(Task { path: name.to_string(), stamp, hash });
            }
        }
    }
    analyse(model, &mut index, tasks, &mut counts)?;
    // After the analysis, so that a file that was moved is recognised by its content.
    let folder_name = folder.to_string_lossy();
    let mut gone = index.paths_under(&folder_name)?;
    gone.retain(|path| !present.contains(path));
    counts.removed = gone.len();
    index.transaction(|index| gone.iter().try_for_each(|path| index.remove(path)))?;
    let seconds = start.elapsed().as_secs_f64();
    let Counts { unchanged, analysed, recognised, removed, unreadable, failed, damaged } = counts;
    output.print(
        &json!({
            "folder": folder_name, "index": path.to_string_lossy(), "version": model.version(),
            "unchanged": unchanged, "analysed": analysed, "recognised": recognised,
            "removed": removed, "unreadable": unreadable, "failed": failed, "damaged": damaged,
            "seconds": seconds,
        }),
        &format!(
            "{analysed} analysed ({damaged} damaged), {recognised} recognised by their content, \
             {unchanged} unchanged, {removed} removed, {failed} failed, {unreadable} unreadable; \
             {seconds:.1} s; {}",
            path.display()
        ),
    )
}

fn stamp(path: &Path) -> Result<Stamp> {
    let about = path.metadata().with_context(|| path.display().to_string())?;
    let changed = about.modified().with_context(|| path.display().to_string())?;
    // Before 1970 counts down.
    let changed_ns = match changed.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    };
    Ok(Stamp { size: i64::try_from(about.len()).unwrap_or(i64::MAX), changed_ns })
}

/// Hears the tasks' files on all cores, and writes the rows on this thread.
fn analyse(
    model: &AudioEmbeddingModel,
    index: &mut Index,
    tasks: Vec<Task>,
    counts: &mut Counts,
) -> Result<()> {
    let songs = tasks.len();
    let bytes = tasks.iter().map(|task| task.stamp.size.unsigned_abs()).sum();
    let bar = ProgressBar::new(bytes);
    bar.set_style(ProgressStyle::with_template(
        "{wide_bar} {msg} songs, {binary_bytes}/{binary_total_bytes}, {eta} left",
    )?);
    bar.set_message(format!("0/{songs}"));
    let known = index.hashes(model.version())?;
    let (sender, receiver) = sync_channel(1024);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // When the writer has failed, the channel is closed: there is nothing more to do.
            let sender: SyncSender<std::result::Result<Done, String>> = sender;
            let _ = tasks.into_par_iter().try_for_each_with(sender, |sender, task| {
                let done = hear(model, task, &known);
                sender.send(done).map_err(|_| ())
            });
        });
        write(model, index, &receiver, &bar, songs, counts)
    })?;
    bar.finish_and_clear();
    Ok(())
}

fn hear(
    model: &AudioEmbeddingModel,
    task: Task,
    known: &HashSet<[u8; 32]>,
) -> std::result::Result<Done, String> {
    let path = PathBuf::from(&task.path);
    let hash = match task.hash {
        Some(hash) => hash,
        None => content_hash(&path).map_err(|error| format!("{error:#}"))?,
    };
    if known.contains(&hash) {
        return Ok(Done { task, hash, found: None });
    }
    let version = model.version().to_string();
    let found = match model.embed_file(&path) {
        Ok(song) => Finding {
            version,
            embedding: Ok(song.heard().embedding()),
            duration_s: Some(song.duration().as_secs_f64()),
            silent: song.heard().is_silent(),
            album: song.album().map(str::to_string),
            damage: song.damage().map(str::to_string),
        },
        // What the disk does is no finding about the song: try again next time.
        Err(error) if error.io_error().is_some() => return Err(error.to_string()),
        Err(error) => Finding {
            version,
            embedding: Err(error.reason()),
            duration_s: None,
            silent: false,
            album: None,
            damage: None,
        },
    };
    Ok(Done { task, hash, found: Some(found) })
}

/// The BLAKE3 hash of a file.
pub fn content_hash(path: &Path) -> Result<[u8; 32]> {
    let name = || path.display().to_string();
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).with_context(name)?).with_context(name)?;
    Ok(*hasher.finalize().as_bytes())
}

/// Writes rows as they come, and commits them at least every `COMMIT_EVERY`.
fn write(
    model: &AudioEmbeddingModel,
    index: &mut Index,
    rows: &Receiver<std::result::Result<Done, String>>,
    bar: &ProgressBar,
    songs: usize,
    counts: &mut Counts,
) -> Result<()> {
    let mut seen = 0;
    // The first row of a batch is waited for outside of a transaction.
    while let Ok(first) = rows.recv() {
        let until = Instant::now() + COMMIT_EVERY;
        index.transaction(|index| {
            let mut next = Some(first);
            while let Some(done) = next {
                seen += 1;
                match done.and_then(|done| with_finding(model, index, done, counts)) {
                    Ok((task, hash, found)) => {
                        bar.inc(task.stamp.size.unsigned_abs());
                        if let Err(reason) = &found.embedding {
                            counts.failed += 1;
                            bar.suspend(|| warn(&format!("{}: {reason}", task.path)));
                        }
                        counts.damaged += usize::from(found.damage.is_some());
                        index.put(&task.path, task.stamp, &hash, &found)?;
                    }
                    Err(problem) => {
                        counts.unreadable += 1;
                        bar.suspend(|| warn(&problem));
                    }
                }
                bar.set_message(format!("{seen}/{songs}"));
                next = rows.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// What was found out about a file, taken from the row of the same content if there is one.
fn with_finding(
    model: &AudioEmbeddingModel,
    index: &Index,
    done: Done,
    counts: &mut Counts,
) -> std::result::Result<(Task, [u8; 32], Finding), String> {
    let Done { task, hash, found } = done;
    if let Some(found) = found {
        counts.analysed += 1;
        return Ok((task, hash, found));
    }
    let known = index.finding(&hash, model.version()).map_err(|error| format!("{error:#}"))?;
    if let Some(known) = known {
        counts.recognised += 1;
        return Ok((task, hash, known));
    }
    // The row of that content has been overwritten since: hear the file after all.
    let task = Task { hash: Some(hash), ..task };
    with_finding(model, index, hear(model, task, &HashSet::new())?, counts)
}
