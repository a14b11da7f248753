//! `forget`: removes tracks from the index that are gone on purpose.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::AudioEmbeddingModel;
use anyhow::Result;
use serde_json::json;

use super::database::{Index, RowState};
use super::numbers::count;
use super::output::Output;
use super::paths::{full_path_of_missing, is_gone};
use super::progress;
use super::status::row_name;

/// Removes the tracks whose files are gone, or all tracks under `paths` if there are any, and prints
/// what was done.
pub fn forget(index: &Path, paths: &[PathBuf], dry_run: bool, output: &mut Output) -> Result<()> {
    let mut index = Index::open(index)?;
    let (rows, failures) = forgotten(&index, paths)?;
    failures.iter().for_each(|problem| output.failure(problem));
    if !dry_run {
        remove(&mut index, &rows)?;
    }
    print(&rows, dry_run, output)
}

/// The rows whose files are gone, or all under `paths` if there are any; and the paths that have
/// none, in words.
pub fn forgotten(index: &Index, paths: &[PathBuf]) -> Result<(Vec<RowState>, Vec<String>)> {
    let mut failures = Vec::new();
    let mut rows = Vec::new();
    if paths.is_empty() {
        progress::begin("looking for files that are gone");
        rows = index.states()?;
        rows.retain(|row| {
            progress::advance(1);
            // What cannot be reached, such as in a folder that cannot be read, is not gone.
            is_gone(&row.path)
        });
    }
    for path in paths {
        let found = index.states_under(&full_path_of_missing(path)?)?;
        if found.is_empty() {
            failures.push(format!("{}: the index has no song there", path.display()));
        }
        rows.extend(found);
    }
    let mut seen = HashSet::new();
    rows.retain(|row| seen.insert((row.path.clone(), row.track)));
    Ok((rows, failures))
}

/// Removes the tracks that are not of this model.
pub fn forget_outdated(
    model: &AudioEmbeddingModel,
    index: &Path,
    dry_run: bool,
    output: &mut Output,
) -> Result<()> {
    let mut index = Index::open(index)?;
    let mut rows = index.states()?;
    rows.retain(|row| row.version != model.version());
    if !dry_run {
        remove(&mut index, &rows)?;
    }
    print(&rows, dry_run, output)
}

/// Removes all rows of the files of `rows`.
pub fn remove(index: &mut Index, rows: &[RowState]) -> Result<()> {
    index.transaction(|index| rows.iter().try_for_each(|row| index.remove(&row.path).map(drop)))
}

fn print(rows: &[RowState], dry_run: bool, output: &mut Output) -> Result<()> {
    if dry_run {
        for row in rows {
            let line = [b"forget  ".to_vec(), row_name(row, output)].concat();
            output.print(&json!({ "forget": row.path.to_string_lossy() }), line)?;
        }
    }
    let songs = count(rows.len(), "song");
    let line = if dry_run {
        format!("{songs} would be removed; nothing was changed")
    } else {
        format!("{songs} removed from the index")
    };
    output.print(&json!({ "removed": rows.len(), "dry_run": dry_run }), line)
}
