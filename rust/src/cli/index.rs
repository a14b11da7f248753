//! `index`: updates the index for folders.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::AudioEmbeddingModel;
use anyhow::Result;
use serde_json::json;

use super::analyse::{Counts, Task, analyse_files, file_stat, section_tags};
use super::cue::{self, Section, Sheets};
use super::database::{Absent, DECODER, Index, KnownRow, RowState};
use super::numbers::{count, is_or_are};
use super::output::{Output, note};
use super::paths::{full_path, full_path_of_missing, is_gone};
use super::progress;
use super::tags::{Tags, read_tags};
use super::walk::{Walk, walk};

/// The options of [`index`].
#[derive(Debug, Default)]
pub struct IndexOptions {
    /// Globs of what is left out.
    pub exclude: Vec<String>,
    /// Whether files are analysed that have not changed.
    pub force: bool,
    /// Whether the run only prints what it would do.
    pub dry_run: bool,
    /// How many threads analyse files; 0 for one per processor.
    pub threads: usize,
}

/// What [`update`] did.
#[derive(Debug, Default)]
pub struct Update {
    /// The canonical paths of the roots.
    pub folders: Vec<PathBuf>,
    pub counts: Counts,
    /// The files that a dry run would analyse.
    pub to_analyse: Vec<PathBuf>,
    /// The roots in which nothing was found, in words.
    pub failures: Vec<String>,
    /// Whether nothing was found in any root.
    pub nothing: bool,
}

/// A folder or file to index, and what is there.
struct Root {
    path: PathBuf,
    files: Vec<PathBuf>,
    sheets: Sheets,
    /// Why nothing was found.
    problem: Option<String>,
}

/// Updates the index, and prints what was done.
pub fn index(
    model: &AudioEmbeddingModel,
    path: &Path,
    roots: &[PathBuf],
    options: &IndexOptions,
    output: &mut Output,
) -> Result<()> {
    let start = Instant::now();
    let update = update(model, path, roots, options)?;
    for file in &update.to_analyse {
        let line = [b"analyse  ".to_vec(), output.name(file)].concat();
        output.print(&json!({ "analyse": file.to_string_lossy() }), line)?;
    }
    update.failures.iter().for_each(|problem| output.failure(problem));
    progress::end();
    report(&update.counts, output);
    if update.nothing {
        return Ok(());
    }
    summary(model, path, &update, options.dry_run, start.elapsed().as_secs_f64(), output)
}

/// Analyses the new and changed files under `roots`, and marks the rows whose file was not seen.
pub fn update(
    model: &AudioEmbeddingModel,
    path: &Path,
    roots: &[PathBuf],
    options: &IndexOptions,
) -> Result<Update> {
    let mut counts = Counts::default();
    let mut found = Vec::new();
    let mut problems = HashSet::new();
    for root in roots {
        found.push(find(root, &options.exclude, &mut problems, &mut counts)?);
    }
    let nothing = found.iter().all(|root| root.problem.is_some());
    if nothing && !path.exists() {
        let failures = found.into_iter().filter_map(|root| root.problem).collect();
        return Ok(Update { failures, nothing, ..Update::default() });
    }
    let mut index = if options.dry_run { Index::create_dry(path)? } else { Index::create(path)? };
    let mut seen = HashSet::new();
    let mut tasks = Vec::new();
    for root in &found {
        tasks.extend(outdated(model, &mut index, root, options, &mut seen, &mut counts)?);
    }
    let mut to_analyse = Vec::new();
    if options.dry_run {
        counts.analysed = tasks.iter().map(|task| task.sections.len().max(1)).sum();
        to_analyse.extend(tasks.into_iter().map(|task| task.path));
    } else {
        analyse_files(model, &mut index, tasks, options, &mut counts)?;
    }
    let mut failures = Vec::new();
    for root in &found {
        failures.extend(mark_unseen(&mut index, root, &seen, options.dry_run, &mut counts)?);
    }
    if !options.dry_run {
        counts.missing += mark_lost_folders(&mut index)?;
    }
    let folders = found.into_iter().map(|root| root.path).collect();
    Ok(Update { folders, counts, to_analyse, failures, nothing })
}

/// What is under a root. `problems` are those that are noted; one of two roots counts once.
fn find(
    argument: &Path,
    exclude: &[String],
    problems: &mut HashSet<String>,
    counts: &mut Counts,
) -> Result<Root> {
    let mut root = Root {
        path: full_path_of_missing(argument)?,
        files: Vec::new(),
        sheets: Sheets::default(),
        problem: None,
    };
    match full_path(argument) {
        Ok(path) => root.path = path,
        Err(error) => {
            root.problem = Some(format!("{error:#}"));
            return Ok(root);
        }
    }
    let walk = walk(&root.path, exclude)?;
    let mut is_new = |problem: &String| {
        let is_new = problems.insert(problem.clone());
        if is_new {
            note(problem);
        }
        is_new
    };
    counts.unreadable += walk.unreadable.iter().filter(|problem| is_new(problem)).count();
    if walk.files.is_empty() {
        root.problem = Some(format!("{}: {}", argument.display(), walk.nothing()));
    } else if let Some(unsupported) = walk.unsupported() {
        note(&unsupported);
    }
    let Walk { files, cue_sheets, .. } = walk;
    root.sheets = cue::sections(&cue_sheets, &files);
    let unreadable = root.sheets.unreadable.iter();
    counts.unreadable += unreadable.filter(|(_, problem)| is_new(problem)).count();
    for problem in &root.sheets.lost {
        is_new(problem);
    }
    root.files = files;
    Ok(root)
}

/// Tasks for the files whose rows are missing or outdated. Adds all files to `seen`.
fn outdated(
    model: &AudioEmbeddingModel,
    index: &mut Index,
    root: &Root,
    options: &IndexOptions,
    seen: &mut HashSet<PathBuf>,
    counts: &mut Counts,
) -> Result<Vec<Task>> {
    progress::begin("comparing the files with the index");
    let mut tasks = Vec::new();
    let mut seen_again = Vec::new();
    for path in &root.files {
        model.check_stopped()?;
        if !seen.insert(path.clone()) {
            continue;
        }
        progress::advance(1);
        let stat = match file_stat(path) {
            Ok(stat) => stat,
            Err(error) => {
                note(&format!("{error:#}"));
                counts.unreadable += 1;
                continue;
            }
        };
        let rows = index.rows_of(path)?;
        let same_file = !rows.is_empty() && rows.iter().all(|row| row.stat == stat);
        let mut sections = root.sheets.sections.get(path).cloned().unwrap_or_default();
        let may_be_divided = sections.is_empty() && root.sheets.may_divide(path);
        // A file that is known as one track is not opened again.
        let is_current = |sections: &[Section]| {
            same_file && !options.force && is_current(model, path, &rows, sections)
        };
        let mut is_known = is_current(&sections);
        if sections.is_empty() && !is_known {
            match cue::embedded_sections(path) {
                Ok(embedded) => sections = embedded,
                Err(error) => {
                    note(&error);
                    counts.unreadable += 1;
                    continue;
                }
            }
            is_known = is_current(&sections);
        }
        let folder = folder_of(&rows, &root.path);
        let mut task = Task {
            path: path.clone(),
            folder: folder.clone(),
            stat,
            hash: None,
            tags_only: false,
            sections,
        };
        // The tracks of a sheet that cannot be read stay, until a run that reads it.
        let is_kept = may_be_divided && rows.iter().any(|row| row.track > 0);
        if is_known || is_kept {
            counts.unchanged += rows.len();
            counts.failed += rows.iter().filter(|row| row.failed).count();
            counts.damaged += rows.iter().filter(|row| row.damaged).count();
            if rows.iter().any(|row| row.is_absent || row.folder.as_ref() != Some(&folder)) {
                seen_again.push((path, folder));
            }
            if rows.iter().any(|row| row.artist.is_none()) && !options.dry_run {
                task.tags_only = true;
                tasks.push(task);
            }
            continue;
        }
        // The hash of a cue sheet's track is not that of the file.
        let whole_file = |row: &&KnownRow| same_file && row.track == 0;
        task.hash = rows.iter().find(whole_file).map(|row| row.hash);
        tasks.push(task);
    }
    if !options.dry_run {
        index.transaction(|index| {
            seen_again.iter().try_for_each(|(path, folder)| index.set_seen(path, folder))
        })?;
    }
    Ok(tasks)
}

/// Whether the rows of an unchanged file are those of this model and of its cue sheet. A failure or
/// damage that older decoders found is outdated.
fn is_current(
    model: &AudioEmbeddingModel,
    path: &Path,
    rows: &[KnownRow],
    sections: &[Section],
) -> bool {
    let retry =
        |row: &KnownRow| (row.failed || row.damaged) && row.decoder.as_deref() != Some(DECODER);
    let whole_file = sections.is_empty() && rows.len() == 1 && rows[0].track == 0;
    rows.iter().all(|row| row.version == model.version() && !retry(row))
        && (whole_file || is_of_sheet(path, rows, sections))
}

/// Whether the rows of a file are the tracks of its cue sheet, with their tags.
fn is_of_sheet(path: &Path, rows: &[KnownRow], sections: &[Section]) -> bool {
    if rows.len() != sections.len() {
        return false;
    }
    // The file's tags count where the sheet says nothing.
    let says_all = |section: &Section| section.artist.is_some() && section.album.is_some();
    let file = if sections.iter().all(says_all) { Tags::default() } else { read_tags(path) };
    rows.iter().zip(sections).all(|(row, section)| {
        let tags = section_tags(Some(section), &file);
        row.track == section.track
            && row.start_s == Some(section.start_s)
            && row.title == tags.title
            && row.artist.as_ref() == Some(&tags.artist.unwrap_or_default())
            // Without one in both, the row has the album that the decoder found, if any.
            && (tags.album.is_none() || row.album == tags.album)
    })
}

/// The argument that a file counts as found by: that of an earlier run if it is a folder above this
/// one.
fn folder_of(rows: &[KnownRow], root: &Path) -> PathBuf {
    let known = rows.iter().find_map(|row| row.folder.as_ref());
    known.filter(|known| root.starts_with(known)).map_or(root, PathBuf::as_path).to_path_buf()
}

/// Marks the rows of a root whose files were not seen. Returns why nothing was found there.
fn mark_unseen(
    index: &mut Index,
    root: &Root,
    seen: &HashSet<PathBuf>,
    dry_run: bool,
    counts: &mut Counts,
) -> Result<Option<String>> {
    // A single file has no other rows, and the index may be updated for many of them.
    if root.files.contains(&root.path) {
        return Ok(None);
    }
    let mut rows = index.states_under(&root.path)?;
    // A folder in this one that was given by itself, such as a hidden one, is not excluded.
    let is_of_inner_root = |row: &RowState| {
        let folder = row.folder.as_ref().filter(|folder| **folder != root.path);
        folder.is_some_and(|folder| folder.starts_with(&root.path)) && row.path.exists()
    };
    rows.retain(|row| !seen.contains(&row.path) && !is_of_inner_root(row));
    // An older feelprint named files behind a link by the link.
    let is_alias = |row: &RowState| {
        row.path.canonicalize().is_ok_and(|full| full != row.path && seen.contains(&full))
    };
    let (aliases, rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_alias);
    if !dry_run {
        counts.removed += aliases.len();
        index.transaction(|index| {
            aliases.iter().try_for_each(|row| index.remove(&row.path).map(drop))
        })?;
    }
    // What is there was left out on purpose. What cannot be reached is missing.
    let absent = |row: &RowState| match row.path.try_exists() {
        Ok(true) => Absent::Excluded,
        _ => Absent::Missing,
    };
    let rows: Vec<_> = rows.into_iter().map(|row| (absent(&row), row)).collect();
    let missing = rows.iter().filter(|(absent, _)| *absent == Absent::Missing).count();
    counts.missing += missing;
    counts.excluded += rows.len() - missing;
    if !dry_run {
        index.transaction(|index| {
            let changed = rows.iter().filter(|(absent, row)| row.absent != Some(*absent));
            changed.into_iter().try_for_each(|(absent, row)| index.set_absent(&row.path, *absent))
        })?;
    }
    let kept = match rows.len() {
        0 => String::new(),
        kept => format!(
            "; {} of it {} kept in the index and left out{}",
            count(kept, "song"),
            is_or_are(kept),
            if missing > 0 { " (is a drive not mounted?)" } else { "" },
        ),
    };
    Ok(root.problem.as_ref().map(|problem| format!("{problem}{kept}")))
}

/// Marks the rows of other folders that are not there any more, such as those of a library that was
/// renamed. Returns how many there are.
fn mark_lost_folders(index: &mut Index) -> Result<usize> {
    let mut gone = HashMap::new();
    let mut rows = index.states()?;
    rows.retain(|row| {
        let parent = row.path.parent().unwrap_or(Path::new("")).to_path_buf();
        row.absent.is_none() && *gone.entry(parent).or_insert_with_key(|parent| is_gone(parent))
    });
    index.transaction(|index| {
        rows.iter().try_for_each(|row| index.set_absent(&row.path, Absent::Missing))
    })?;
    Ok(rows.len())
}

/// Says what needs attention.
fn report(counts: &Counts, output: &mut Output) {
    if counts.failed > 0 {
        let (have, them) = if counts.failed == 1 { ("has", "it") } else { ("have", "them") };
        let songs = count(counts.failed, "song");
        output.failure(&format!("{songs} {have} no embedding: `feelprint status` lists {them}"));
    }
    if counts.unreadable > 0 {
        let what = if counts.unreadable == 1 { "file or folder" } else { "files or folders" };
        let problem = format!("{} {what} could not be read", counts.unreadable);
        output.failure(&format!("{problem}: the next `feelprint index` tries again"));
    }
    if counts.missing > 0 {
        let (songs, are) = (count(counts.missing, "song"), is_or_are(counts.missing));
        let them = if counts.missing == 1 { "it" } else { "them" };
        note(&format!(
            "{songs} {are} missing and kept in the index: `feelprint forget` removes {them} for good"
        ));
    }
}

fn summary(
    model: &AudioEmbeddingModel,
    path: &Path,
    update: &Update,
    dry_run: bool,
    seconds: f64,
    output: &mut Output,
) -> Result<()> {
    let folders: Vec<_> = update.folders.iter().map(|folder| folder.to_string_lossy()).collect();
    let Counts { unchanged, analysed, recognised, removed, .. } = update.counts;
    let Counts { missing, excluded, unreadable, failed, damaged, .. } = update.counts;
    let parts = [
        (analysed, if dry_run { "to analyse" } else { "analysed" }),
        (recognised, "recognised by content"),
        (unchanged, "unchanged"),
        (removed, "moved"),
        (missing, "missing"),
        (excluded, "excluded"),
        (failed, "without an embedding"),
        (damaged, "damaged"),
        (unreadable, "unreadable"),
    ];
    let some: Vec<_> = parts.iter().filter(|(number, _)| *number > 0).collect();
    let parts: Vec<_> = some.iter().map(|(number, what)| format!("{number} {what}")).collect();
    let songs = count(analysed + recognised + unchanged, "song");
    let dry = if dry_run { "; nothing was changed" } else { "" };
    let line = format!("{songs}: {}; {seconds:.1} s; {}{dry}", parts.join(", "), path.display());
    output.print(
        &json!({
            "folder": folders[0], "folders": folders, "index": path.to_string_lossy(),
            "version": model.version(), "dry_run": dry_run,
            "unchanged": unchanged, "analysed": analysed, "recognised": recognised,
            "removed": removed, "missing": missing, "excluded": excluded,
            "unreadable": unreadable, "failed": failed, "damaged": damaged, "seconds": seconds,
        }),
        output.text(&line).as_bytes(),
    )
}
