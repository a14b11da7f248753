//! Cue sheets: an album in one audio file, and where its tracks start. A sheet is a file beside the
//! audio, or in the metadata of a FLAC file.
//!
//! A small parser of what is needed here. The crates for it read UTF-8 alone, while most sheets are
//! older than that, and have not been kept up for years or are under the GPL.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::decode::{EmbeddedCue, embedded_cue};

use super::tags::not_empty;
use super::walk::is_audio_name;

/// The number of frames in a second of a compact disc, in which a cue sheet measures time.
const FRAMES_PER_SECOND: f64 = 75.0;

/// A track of a cue sheet.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// The number of the track, from 1.
    pub track: u32,
    /// Where it starts in the file.
    pub start_s: f64,
    pub title: Option<String>,
    pub artist: Option<String>,
    pub album: Option<String>,
}

/// What the cue sheets of a folder say.
#[derive(Debug, Default)]
pub struct Sheets {
    /// The tracks of each file that a sheet divides into two or more.
    pub sections: HashMap<PathBuf, Vec<Section>>,
    /// The canonical folders of the sheets that could not be read, and the problems in words.
    pub unreadable: Vec<(PathBuf, String)>,
    /// The sheets whose file is not there, in words.
    pub lost: Vec<String>,
}

impl Sheets {
    /// Whether one of the sheets that could not be read may divide this file, by where they are.
    pub fn may_divide(&self, file: &Path) -> bool {
        self.unreadable.iter().any(|(folder, _)| file.starts_with(folder))
    }
}

/// Reads `sheets`, which may divide each of `files`.
///
/// Sheets with a file per track divide nothing, nor do those whose tracks are not in order or have
/// the same number. The first of several sheets of a file counts.
pub fn sections(sheets: &[PathBuf], files: &[PathBuf]) -> Sheets {
    let mut all = Sheets::default();
    for sheet in sheets {
        let text = match std::fs::read(sheet) {
            Ok(bytes) => decode(&bytes),
            Err(error) => {
                let folder = folder_of(sheet);
                all.unreadable.push((folder, format!("{}: {error}", sheet.display())));
                continue;
            }
        };
        for (name, sections) in parse(&text) {
            if !is_division(&sections) {
                continue;
            }
            if let Some(file) = find(sheet, &name, files) {
                all.sections.entry(file).or_insert(sections);
            } else if !is_there(sheet, &name) {
                let problem =
                    format!("{name}, which it divides, is not there; the sheet is left out");
                all.lost.push(format!("{}: {problem}", sheet.display()));
            }
        }
    }
    all
}

/// The sections of a FLAC file by the cue sheet in its metadata; none if it has none that divides it
/// into two tracks or more. The comment `CUESHEET`, which has titles, comes before the block.
///
/// # Errors
///
/// Fails if the file cannot be read.
pub fn embedded_sections(file: &Path) -> crate::Result<Vec<Section>> {
    if !file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("flac")) {
        return Ok(Vec::new());
    }
    let EmbeddedCue { text, tracks } = embedded_cue(file)?;
    // The file that it names is this one, whatever its name was when the sheet was made.
    let mut files = parse(&format!("FILE this\n{}", text.unwrap_or_default()));
    files.retain(|(_, sections)| !sections.is_empty());
    let of_text = files.pop().filter(|_| files.is_empty()).map(|(_, sections)| sections);
    let section =
        |(track, start_s)| Section { track, start_s, title: None, artist: None, album: None };
    let of_block = tracks.into_iter().map(section).collect();
    let both = of_text.into_iter().chain([of_block]);
    Ok(both.into_iter().find(|sections| is_division(sections)).unwrap_or_default())
}

/// Whether these are two tracks or more, in order and of different numbers.
fn is_division(sections: &[Section]) -> bool {
    let numbers: HashSet<_> = sections.iter().map(|section| section.track).collect();
    let in_order = sections.is_sorted_by(|a, b| a.start_s < b.start_s);
    sections.len() > 1 && in_order && numbers.len() == sections.len()
}

/// The audio file of `files` that a sheet names, or one beside it with the same name and another
/// extension: sheets are often made for a WAV file that is compressed afterwards. Names that differ
/// in case alone are the same if no other is, as they are on Windows.
fn find(sheet: &Path, name: &str, files: &[PathBuf]) -> Option<PathBuf> {
    let folder = folder_of(sheet);
    let named = folder.join(file_of(name));
    let candidates = [folder.join(name), named.clone()];
    let exact: Vec<_> = candidates.iter().filter_map(|path| path.canonicalize().ok()).collect();
    if let Some(file) = exact.iter().find(|path| files.contains(path)) {
        return Some(file.clone());
    }
    let mut beside: Vec<_> =
        files.iter().filter(|file| file.parent() == Some(&folder) && is_audio_name(file)).collect();
    beside.sort();
    let lower = |part: Option<&OsStr>| part.map(|part| part.to_string_lossy().to_lowercase());
    let by = |is_it: &dyn Fn(&Path) -> bool| beside.iter().find(|file| is_it(file));
    let same_stem = |path: &Path| by(&|file| file.file_stem() == path.file_stem());
    let other_case = |path: &Path| {
        // The file of the exact name may be there and not among `files`.
        if !exact.is_empty() {
            return None;
        }
        by(&|file| lower(file.file_name()) == lower(path.file_name()))
            .or_else(|| by(&|file| lower(file.file_stem()) == lower(path.file_stem())))
    };
    same_stem(&named)
        .or_else(|| other_case(&named))
        .or_else(|| same_stem(sheet))
        .or_else(|| other_case(sheet))
        .map(|file| file.to_path_buf())
}

/// Whether the file that a sheet names is there, though it may be excluded, or be no audio file that
/// can be read.
fn is_there(sheet: &Path, name: &str) -> bool {
    let folder = folder_of(sheet);
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let beside: Vec<_> = entries.map(|entry| entry.path()).collect();
    folder.join(name).exists()
        || folder.join(file_of(name)).exists()
        || find(sheet, name, &beside).is_some()
}

/// The canonical folder of a sheet.
fn folder_of(sheet: &Path) -> PathBuf {
    let folder = sheet.parent().unwrap_or(Path::new(""));
    folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf())
}

/// The name of the file without the folders, which those of Windows divide by a backslash.
fn file_of(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

/// UTF-8 or UTF-16 with a byte order mark, else UTF-8, else Latin-1.
fn decode(bytes: &[u8]) -> String {
    let utf16 = |read: fn([u8; 2]) -> u16| {
        let units: Vec<u16> =
            bytes[2..].chunks_exact(2).map(|pair| read([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units)
    };
    match bytes {
        [0xff, 0xfe, ..] => utf16(u16::from_le_bytes),
        [0xfe, 0xff, ..] => utf16(u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_string(),
            Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect(),
        },
    }
}

/// The files of a sheet and the tracks that start in each.
fn parse(text: &str) -> Vec<(String, Vec<Section>)> {
    let mut files: Vec<(String, Vec<Section>)> = Vec::new();
    let (mut album, mut album_artist) = (None, None);
    // The track whose lines are being read, until its INDEX 01.
    let mut track: Option<(u32, Option<String>, Option<String>)> = None;
    let mut in_track = false;
    for line in text.lines() {
        let (command, rest) = split_word(line);
        match command.to_uppercase().as_str() {
            "FILE" => files.push((file_name(rest), Vec::new())),
            "TRACK" => {
                let (number, kind) = split_word(rest);
                in_track = true;
                track = number
                    .parse()
                    .ok()
                    .filter(|_| kind.trim().eq_ignore_ascii_case("AUDIO"))
                    .map(|number| (number, None, None));
            }
            "TITLE" | "PERFORMER" => {
                let text = not_empty(&quoted(rest));
                let is_title = command.eq_ignore_ascii_case("TITLE");
                match (&mut track, in_track, is_title) {
                    (Some((_, title, _)), _, true) => *title = text,
                    (Some((_, _, artist)), _, false) => *artist = text,
                    (None, false, true) => album = text,
                    (None, false, false) => album_artist = text,
                    (None, true, _) => {}
                }
            }
            "INDEX" => {
                let (number, time) = split_word(rest);
                let start_s = time_s(time.trim());
                if let (Ok(1), Some(start_s), Some((_, sections))) =
                    (number.parse::<u32>(), start_s, files.last_mut())
                    && let Some((track, title, artist)) = track.take()
                {
                    sections.push(Section {
                        track,
                        start_s,
                        title,
                        artist: artist.or_else(|| album_artist.clone()),
                        album: album.clone(),
                    });
                }
            }
            _ => {}
        }
    }
    files
}

fn split_word(line: &str) -> (&str, &str) {
    let line = line.trim();
    line.split_once(char::is_whitespace).unwrap_or((line, ""))
}

/// The name in `"name" WAVE`, or without quotes in `name WAVE`.
fn file_name(text: &str) -> String {
    let text = text.trim();
    if text.starts_with('"') {
        return quoted(text);
    }
    text.rsplit_once(char::is_whitespace).map_or(text, |(name, _)| name.trim_end()).to_string()
}

/// The text between the first and the last quote, or all of it.
fn quoted(text: &str) -> String {
    let text = text.trim();
    let inner = text.strip_prefix('"').and_then(|rest| rest.rsplit_once('"'));
    inner.map_or_else(|| text.to_string(), |(inner, _)| inner.to_string())
}

/// Minutes, seconds and frames, as in 04:12:37.
fn time_s(text: &str) -> Option<f64> {
    let mut parts = text.split(':').map(|part| part.parse::<u32>().ok().map(f64::from));
    let (minutes, seconds, frames) = (parts.next()??, parts.next()??, parts.next()??);
    Some(minutes * 60.0 + seconds + frames / FRAMES_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHEET: &str = r#"REM DATE 1999
PERFORMER "Band"
TITLE "Album"
FILE "disc.wav" WAVE
  TRACK 01 AUDIO
    TITLE "One ""of"" two"
    INDEX 01 00:00:00
  TRACK 02 AUDIO
    TITLE "Two"
    PERFORMER "Guest"
    INDEX 00 01:02:00
    INDEX 01 01:04:30
"#;

    #[test]
    fn a_sheet_is_the_tracks_of_its_file() {
        let files = parse(SHEET);
        assert_eq!(files.len(), 1);
        let (name, sections) = &files[0];
        assert_eq!((name.as_str(), sections.len()), ("disc.wav", 2));
        assert_eq!(sections[0].artist.as_deref(), Some("Band"));
        let second = Section {
            track: 2,
            start_s: 64.4,
            title: Some("Two".into()),
            artist: Some("Guest".into()),
            album: Some("Album".into()),
        };
        assert_eq!(sections[1], second);
    }

    #[test]
    fn old_encodings_are_read() {
        assert_eq!(decode(b"\xef\xbb\xbfTITLE"), "TITLE");
        assert_eq!(decode(b"caf\xe9"), "café");
        assert_eq!(decode("café".as_bytes()), "café");
        assert_eq!(decode(&[0xff, 0xfe, b'A', 0, 0xe9, 0]), "Aé");
    }

    #[test]
    fn what_is_not_a_sheet_has_no_tracks() {
        assert!(parse("no sheet\n\0\u{1}").is_empty());
        // Data tracks, wrong times, and tracks without a file.
        let sections = &parse(
            "FILE a.wav WAVE\nTRACK 1 MODE1/2352\nINDEX 01 00:00:00\nTRACK 2 AUDIO\nINDEX 01 x\n",
        )[0]
        .1;
        assert!(sections.is_empty());
        assert!(parse("TRACK 01 AUDIO\nINDEX 01 00:00:00\n").is_empty());
        assert_eq!(time_s("1:2"), None);
        assert_eq!(time_s("100:00:75"), Some(6001.0));
    }
}
