//! `index`: updates the index for a folder.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result};
use feelprint::AudioEmbeddingModel;
use feelprint::duplicates::content_hash;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use serde_json::json;

use crate::database::{AnalysisResult, FileStat, Index};
use crate::files::{audio_files, full_path};
use crate::output::{Output, warn};

/// The time between commits, which is how much work a killed run can lose.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// A file whose row is missing or outdated.
struct Task {
    path: String,
    stat: FileStat,
    /// The content hash in the row, if the file has not changed since.
    hash: Option<[u8; 32]>,
}

/// A task that is done, or the reason why the file could not be read.
type TaskResult = std::result::Result<Done, String>;

/// A file to write the row of.
struct Done {
    task: Task,
    hash: [u8; 32],
    /// `None` if another row has the result for the same content.
    result: Option<AnalysisResult>,
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

/// Analyses the new and changed files under `folder`, and removes the rows of missing ones.
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
    let (present, tasks) = outdated(model, &index, files, &mut counts)?;
    analyse_files(model, &mut index, tasks, &mut counts)?;
    // Rows are removed last: until then a moved file is recognised by its content hash.
    let folder_name = folder.to_string_lossy();
    let mut missing = index.paths_under(&folder_name)?;
    missing.retain(|path| !present.contains(path));
    counts.removed = missing.len();
    index.transaction(|index| missing.iter().try_for_each(|path| index.remove(path)))?;
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

/// The names of all `files`, and tasks for those whose row is missing or outdated.
fn outdated(
    model: &AudioEmbeddingModel,
    index: &Index,
    files: Vec<PathBuf>,
    counts: &mut Counts,
) -> Result<(HashSet<String>, Vec<Task>)> {
    let mut tasks = Vec::new();
    let mut present = HashSet::new();
    for path in files {
        let Some(name) = path.to_str() else {
            warn(&format!("{}: the name is not UTF-8; skipped", path.display()));
            counts.unreadable += 1;
            continue;
        };
        present.insert(name.to_string());
        let stat = match file_stat(&path) {
            Ok(stat) => stat,
            Err(error) => {
                warn(&format!("{error:#}"));
                counts.unreadable += 1;
                continue;
            }
        };
        match index.row(name)? {
            Some((known, _, version)) if known == stat && version == model.version() => {
                counts.unchanged += 1;
            }
            row => {
                let hash = row.filter(|(known, ..)| *known == stat).map(|(_, hash, _)| hash);
                tasks.push(Task { path: name.to_string(), stat, hash });
            }
        }
    }
    Ok((present, tasks))
}

fn file_stat(path: &Path) -> Result<FileStat> {
    let metadata = path.metadata().with_context(|| path.display().to_string())?;
    let modified = metadata.modified().with_context(|| path.display().to_string())?;
    // Times before 1970 are negative.
    let modified_ns = match modified.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    };
    Ok(FileStat { size: i64::try_from(metadata.len()).unwrap_or(i64::MAX), modified_ns })
}

/// Analyses the files of `tasks` on all cores, and writes the rows on this thread.
fn analyse_files(
    model: &AudioEmbeddingModel,
    index: &mut Index,
    tasks: Vec<Task>,
    counts: &mut Counts,
) -> Result<()> {
    let total = tasks.len();
    let bytes = tasks.iter().map(|task| task.stat.size.unsigned_abs()).sum();
    let bar = ProgressBar::new(bytes);
    bar.set_style(ProgressStyle::with_template(
        "{wide_bar} {msg} songs, {binary_bytes}/{binary_total_bytes}, {eta} left",
    )?);
    bar.set_message(format!("0/{total}"));
    let known = index.hashes(model.version())?;
    let (sender, receiver) = sync_channel(1024);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Sending fails only if the writer has failed, which reports the error.
            let sender: SyncSender<TaskResult> = sender;
            let _ = tasks.into_par_iter().try_for_each_with(sender, |sender, task| {
                let done = analyse_file(model, task, &known);
                sender.send(done).map_err(|_| ())
            });
        });
        write_rows(model, index, &receiver, &bar, total, counts)
    })?;
    bar.finish_and_clear();
    Ok(())
}

/// Analyses a file, unless its content hash is `known`.
fn analyse_file(model: &AudioEmbeddingModel, task: Task, known: &HashSet<[u8; 32]>) -> TaskResult {
    let hash = match task.hash {
        Some(hash) => hash,
        None => content_hash(&task.path).map_err(|error| error.to_string())?,
    };
    if known.contains(&hash) {
        return Ok(Done { task, hash, result: None });
    }
    let version = model.version().to_string();
    let result = match model.embed_file(&task.path) {
        Ok(track) => AnalysisResult {
            version,
            embedding: Ok(track.analysis().embedding()),
            duration_s: Some(track.duration().as_secs_f64()),
            silent: track.analysis().is_silent(),
            album: track.album().map(str::to_string),
            damage: track.damage().map(str::to_string),
        },
        // An I/O error says nothing about the content: the next run tries again.
        Err(error) if error.io_error().is_some() => return Err(error.to_string()),
        Err(error) => AnalysisResult {
            version,
            embedding: Err(error.reason()),
            duration_s: None,
            silent: false,
            album: None,
            damage: None,
        },
    };
    Ok(Done { task, hash, result: Some(result) })
}

/// Writes rows as their results arrive, with a commit at least every `COMMIT_EVERY`.
fn write_rows(
    model: &AudioEmbeddingModel,
    index: &mut Index,
    results: &Receiver<TaskResult>,
    bar: &ProgressBar,
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
                match done.and_then(|done| with_result(model, index, done, counts)) {
                    Ok((task, hash, result)) => {
                        bar.inc(task.stat.size.unsigned_abs());
                        if let Err(reason) = &result.embedding {
                            counts.failed += 1;
                            bar.suspend(|| warn(&format!("{}: {reason}", task.path)));
                        }
                        counts.damaged += usize::from(result.damage.is_some());
                        index.put(&task.path, task.stat, &hash, &result)?;
                    }
                    Err(problem) => {
                        counts.unreadable += 1;
                        bar.suspend(|| warn(&problem));
                    }
                }
                bar.set_message(format!("{finished}/{total}"));
                next = results.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The result for a file: its own, or that of a row with the same content hash.
fn with_result(
    model: &AudioEmbeddingModel,
    index: &Index,
    done: Done,
    counts: &mut Counts,
) -> std::result::Result<(Task, [u8; 32], AnalysisResult), String> {
    let Done { task, hash, result } = done;
    if let Some(result) = result {
        counts.analysed += 1;
        return Ok((task, hash, result));
    }
    let known = index.result(&hash, model.version()).map_err(|error| format!("{error:#}"))?;
    if let Some(known) = known {
        counts.recognised += 1;
        return Ok((task, hash, known));
    }
    // The row with that content has been overwritten since.
    let task = Task { hash: Some(hash), ..task };
    with_result(model, index, analyse_file(model, task, &HashSet::new())?, counts)
}
