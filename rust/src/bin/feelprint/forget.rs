//! `forget`: removes tracks from the index that are gone on purpose.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use feelprint::AudioEmbeddingModel;
use serde_json::json;

use crate::database::{Index, RowState};
use crate::numbers::count;
use crate::output::Output;
use crate::paths::{full_path_of_missing, is_gone};
use crate::progress;
use crate::status::row_name;

/// Removes the tracks whose files are gone, or all tracks under `paths` if there are any.
pub fn forget(index: &Path, paths: &[PathBuf], dry_run: bool, output: &mut Output) -> Result<()> {
    let mut index = Index::open(index)?;
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
            output.failure(&format!("{}: the index has no song there", path.display()));
        }
        rows.extend(found);
    }
    remove(&mut index, &rows, dry_run, output)
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
    remove(&mut index, &rows, dry_run, output)
}

fn remove(index: &mut Index, rows: &[RowState], dry_run: bool, output: &mut Output) -> Result<()> {
    let mut seen = HashSet::new();
    let unique: Vec<_> = rows.iter().filter(|row| seen.insert((&row.path, row.track))).collect();
    if dry_run {
        for row in &unique {
            let line = [b"forget  ".to_vec(), row_name(row, output)].concat();
            output.print(&json!({ "forget": row.path.to_string_lossy() }), line)?;
        }
    } else {
        index.transaction(|index| {
            unique.iter().try_for_each(|row| index.remove(&row.path).map(drop))
        })?;
    }
    let songs = count(unique.len(), "song");
    let line = if dry_run {
        format!("{songs} would be removed; nothing was changed")
    } else {
        format!("{songs} removed from the index")
    };
    output.print(&json!({ "removed": unique.len(), "dry_run": dry_run }), line)
}
