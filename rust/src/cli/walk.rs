//! Which audio files a folder has.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use ignore::{DirEntry, WalkBuilder};

use super::numbers::{count, thousands};
use super::output::note;
use super::progress;

/// Extensions of audio files. The decoder detects the format from the content.
const EXTENSIONS: [&str; 27] = [
    "3gp", "aac", "aif", "aifc", "aiff", "alac", "caf", "flac", "m4a", "m4b", "m4r", "mka", "mkv",
    "mov", "mp1", "mp2", "mp3", "mp4", "mpa", "mpga", "oga", "ogg", "opus", "wav", "wave", "weba",
    "webm",
];

/// Extensions of audio files in formats that are not supported.
const UNSUPPORTED: [&str; 22] = [
    "aa", "aax", "ac3", "amr", "ape", "au", "dff", "dsf", "dts", "eac3", "mid", "midi", "mpc",
    "mpp", "ofr", "ra", "shn", "spx", "tak", "tta", "wma", "wv",
];

/// The file that lists what to leave out, like `.gitignore`; `.ignore` is read too.
const IGNORE_FILE: &str = ".feelprintignore";

/// Folders of systems and of network drives that hold no library, in lower case.
const SYSTEM_FOLDERS: [&str; 9] = [
    "$recycle.bin",
    "recycler",
    "system volume information",
    "lost+found",
    "#recycle",
    "#snapshot",
    "@eadir",
    "@recycle",
    "@recently-snapshot",
];

/// What a walk found.
#[derive(Default)]
pub struct Walk {
    /// The canonical paths of audio files, in the order of their names.
    pub files: Vec<PathBuf>,
    /// The paths of cue sheets.
    pub cue_sheets: Vec<PathBuf>,
    /// What could not be read, in words.
    pub unreadable: Vec<String>,
    /// The number of files by extension that are not audio files.
    skipped: BTreeMap<String, usize>,
    /// The number of files and folders that `exclude` names.
    excluded: usize,
    seen: HashSet<PathBuf>,
}

/// Finds the audio files under `root`, which is canonical: a folder, or a single file.
///
/// Links are followed, and each file is found once. Hidden folders, trash, and what `exclude` or an
/// ignore file names are left out.
pub fn walk(root: &Path, exclude: &[String]) -> Result<Walk> {
    let mut walk = Walk::default();
    if root.is_file() {
        walk.files.push(root.to_path_buf());
        walk.cue_sheets = cue_sheets_beside(root);
        return Ok(walk);
    }
    progress::begin(format!("looking for songs in {}", root.display()));
    let excluded = matcher(root, exclude)?;
    let number_excluded = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&number_excluded);
    let entries = WalkBuilder::new(root)
        .standard_filters(false)
        .ignore(true)
        .parents(true)
        .add_custom_ignore_filename(IGNORE_FILE)
        .follow_links(true)
        .sort_by_file_name(OsStr::cmp)
        .filter_entry(move |entry| {
            if entry.depth() == 0 {
                return true;
            }
            let is_excluded = is_excluded(entry, &excluded);
            counter.fetch_add(usize::from(is_excluded), Ordering::Relaxed);
            !is_excluded && is_wanted(entry)
        })
        .build();
    // The canonical path of the last file's folder.
    let mut folder = (PathBuf::new(), PathBuf::new());
    for entry in entries {
        match entry {
            Ok(entry) => walk.add(&entry, &mut folder),
            Err(error) => walk.add_error(&error),
        }
    }
    walk.excluded = number_excluded.load(Ordering::Relaxed);
    Ok(walk)
}

impl Walk {
    fn add(&mut self, entry: &DirEntry, folder: &mut (PathBuf, PathBuf)) {
        if let Some(error) = entry.error() {
            note(error);
        }
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            return;
        }
        let path = entry.path();
        let extension = extension(path);
        if extension == "cue" {
            self.cue_sheets.push(path.to_path_buf());
        }
        if !EXTENSIONS.contains(&extension.as_str()) {
            *self.skipped.entry(extension).or_default() += 1;
            return;
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        if folder.0 != parent {
            *folder = (parent.to_path_buf(), parent.canonicalize().unwrap_or(parent.to_path_buf()));
        }
        let full = if entry.path_is_symlink() {
            path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
        } else {
            folder.1.join(entry.file_name())
        };
        if self.seen.insert(full.clone()) {
            self.files.push(full);
            progress::advance(1);
        }
    }

    fn add_error(&mut self, error: &ignore::Error) {
        // The files of a loop are found by the other path.
        if is_loop(error) {
            return;
        }
        let io = error.io_error();
        let (Some(path), Some(io)) = (error_path(error), io) else {
            self.unreadable.push(error.to_string());
            return;
        };
        if io.kind() != ErrorKind::NotFound {
            self.unreadable.push(format!("{}: {io}", path.display()));
        } else if path.extension().is_none() || is_audio_name(path) {
            // A link to a drive that is away, or to a track; a link to a cover does not matter.
            note(&format!("{}: a link that leads nowhere; left out", path.display()));
        }
    }

    /// The remark on audio files of formats that are not supported, if there are any.
    pub fn unsupported(&self) -> Option<String> {
        let all: Vec<_> = self
            .skipped
            .iter()
            .filter(|(extension, _)| UNSUPPORTED.contains(&extension.as_str()))
            .collect();
        if all.is_empty() {
            return None;
        }
        let list: Vec<_> = all.iter().map(|(extension, n)| of_extension(extension, **n)).collect();
        let formats = if all.len() == 1 { "the format is" } else { "these formats are" };
        Some(format!("{} left out: {formats} not supported", list.join(", ")))
    }

    /// Why no audio file was found.
    pub fn nothing(&self) -> String {
        let mut skipped: Vec<_> = self.skipped.iter().collect();
        skipped.sort_by_key(|(_, number)| std::cmp::Reverse(**number));
        let most: Vec<_> =
            skipped.iter().take(3).map(|(extension, n)| of_extension(extension, **n)).collect();
        let left_out =
            if most.is_empty() { String::new() } else { format!("; {} left out", most.join(", ")) };
        let excluded = match self.excluded {
            0 => String::new(),
            1 => "; 1 file or folder excluded".to_string(),
            number => format!("; {} files or folders excluded", thousands(number as u64)),
        };
        let there = if self.excluded > 0 { "left" } else { "there" };
        format!("no audio file {there} ({}){left_out}{excluded}", EXTENSIONS.join(", "))
    }
}

/// "1 .wma file", "5,000 .wma files".
fn of_extension(extension: &str, number: usize) -> String {
    match extension {
        "" => count(number, "file") + " without an extension",
        _ => count(number, &format!(".{extension} file")),
    }
}

/// The globs of `--exclude`, which have the syntax of `.gitignore`. One that is the path of a file or
/// folder, as the shell completes it, is taken from the root.
fn matcher(root: &Path, globs: &[String]) -> Result<Gitignore> {
    let mut builder = GitignoreBuilder::new(root);
    for glob in globs {
        let path = Path::new(glob).canonicalize().ok().filter(|_| glob.contains('/'));
        let below = path.as_deref().and_then(|path| path.strip_prefix(root).ok()?.to_str());
        let line = below.map_or_else(|| glob.clone(), |below| format!("/{}", escape_glob(below)));
        builder.add_line(None, &line).with_context(|| format!("--exclude {glob}"))?;
    }
    builder.build().context("--exclude")
}

fn escape_glob(text: &str) -> String {
    let escape = |c: char| if "*?[]{}\\".contains(c) { format!("\\{c}") } else { c.to_string() };
    text.chars().map(escape).collect()
}

fn is_excluded(entry: &DirEntry, excluded: &Gitignore) -> bool {
    excluded.matched(entry.path(), is_folder(entry)).is_ignore()
}

fn is_folder(entry: &DirEntry) -> bool {
    entry.file_type().is_some_and(|kind| kind.is_dir())
}

/// Whether it is neither a companion nor a folder of the system.
fn is_wanted(entry: &DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    // macOS keeps the attributes of a.mp3 in ._a.mp3.
    let is_companion = name.starts_with("._");
    let is_private = is_folder(entry) && is_private_folder(&name, entry.path());
    !(is_companion || is_private)
}

/// Hidden folders, and trash and other folders of the system.
fn is_private_folder(name: &str, path: &Path) -> bool {
    // "...And Justice for All" is an album.
    let hidden = name.starts_with('.') && !name.starts_with("..");
    let system = SYSTEM_FOLDERS.contains(&name.to_lowercase().as_str());
    // The trash of freedesktop.org; an album may have that name too.
    let trash = name == "Trash" && path.join("files").is_dir() && path.join("info").is_dir();
    hidden || system || trash
}

fn cue_sheets_beside(file: &Path) -> Vec<PathBuf> {
    let Some(entries) = file.parent().and_then(|folder| std::fs::read_dir(folder).ok()) else {
        return Vec::new();
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut sheets: Vec<_> = paths.filter(|path| extension(path) == "cue").collect();
    sheets.sort();
    sheets
}

/// Whether the name is that of an audio file in a supported format.
pub fn is_audio_name(path: &Path) -> bool {
    EXTENSIONS.contains(&extension(path).as_str())
}

/// In lower case.
fn extension(path: &Path) -> String {
    path.extension().map(|extension| extension.to_string_lossy().to_lowercase()).unwrap_or_default()
}

fn is_loop(error: &ignore::Error) -> bool {
    match error {
        ignore::Error::Loop { .. } => true,
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithPath { err, .. } => is_loop(err),
        _ => false,
    }
}

fn error_path(error: &ignore::Error) -> Option<&Path> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path),
        ignore::Error::WithDepth { err, .. } => error_path(err),
        _ => None,
    }
}
