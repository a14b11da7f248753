//! `forget`: removes tracks from the index that are gone on purpose.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use crate::AudioEmbeddingModel;
use anyhow::Result;
use serde_json::json;

use super::database::{Index, RowState};
use super::numbers::{count, is_or_are};
use super::output::{Output, note};
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
///
/// Without `paths`, the songs of an indexed folder that is itself away or empty stay, and a note says
/// so: it may be a drive that is not mounted.
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
        keep_what_is_away(&mut rows);
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

/// Takes the songs of indexed folders that are away or empty out of `rows`, and notes it.
fn keep_what_is_away(rows: &mut Vec<RowState>) {
    let mut kept: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let folders: BTreeSet<_> = rows.iter().filter_map(|row| row.folder.clone()).collect();
    let away: BTreeSet<_> = folders.into_iter().filter(|folder| is_away(folder)).collect();
    rows.retain(|row| {
        let folder = row.folder.as_ref().filter(|&folder| away.contains(folder));
        folder.map(|folder| *kept.entry(folder.clone()).or_default() += 1).is_none()
    });
    for (folder, number) in kept {
        note(&format!(
            "{}: nothing is there, and its {} {} kept (is a drive not mounted?); `feelprint forget` \
             with this folder removes {}",
            folder.display(),
            count(number, "song"),
            is_or_are(number),
            if number == 1 { "it" } else { "them" },
        ));
    }
}

/// Whether a folder is not there, or is as empty as a mount point without its drive.
fn is_away(folder: &Path) -> bool {
    is_gone(folder) || folder.read_dir().is_ok_and(|mut entries| entries.next().is_none())
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
