//! A list of tracks on standard output: with distances, as paths, or as a playlist in the M3U
//! format.

use std::path::{Path, PathBuf};

use crate::duplicates::LibraryTrack;
use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::args::ListArgs;
use super::library::Entry;
use super::output::{Output, note};
use super::paths::{full_path, relative_to};

/// How tracks are printed.
pub struct TrackList<'a> {
    args: &'a ListArgs,
    /// The folder that paths are relative to.
    folder: Option<PathBuf>,
    output: &'a mut Output,
}

impl<'a> TrackList<'a> {
    pub fn new(args: &'a ListArgs, output: &'a mut Output) -> Result<Self> {
        // clap sees this only where --json is behind the command.
        if output.json && (args.null || args.m3u) {
            bail!("--json cannot be used with --null or --m3u");
        }
        let folder = args.relative_to.as_deref().map(full_path).transpose()?;
        if args.m3u {
            output.print_bytes(b"#EXTM3U", b"\n")?;
        }
        Ok(Self { args, folder, output })
    }

    /// Prints a track. `value` holds what JSON has beside the track, and `number` is the distance
    /// that the text has.
    pub fn print(
        &mut self,
        song: &Entry,
        track: &LibraryTrack,
        mut value: Value,
        number: f32,
    ) -> Result<()> {
        let path = match &self.folder {
            Some(folder) => relative_to(&song.path, folder),
            None => song.path.clone(),
        };
        if self.args.null {
            return self.output.print_bytes(&self.output.name(&path), b"\0");
        }
        if self.args.m3u {
            return self.print_m3u(song, track, &path);
        }
        value["path"] = path.to_string_lossy().into();
        if let Some(title) = &song.title {
            value["title"] = title.as_str().into();
        }
        if !track.artist.is_empty() {
            value["artist"] = track.artist.as_str().into();
        }
        let mut line = format!("{number:.4}  ").into_bytes();
        line.extend(self.output.name(&path));
        if let Some(section) = song.section {
            value["track"] = section.track.into();
            value["start_s"] = section.start_s.into();
            value["end_s"] = (section.start_s + section.duration_s).into();
            line.extend(format!("#{}", section.track).into_bytes());
        }
        self.output.print(&value, line)
    }

    /// Prints the lines of a track in the M3U format. The start and the end of a track in a file are
    /// options that VLC reads; the format has none.
    fn print_m3u(&mut self, song: &Entry, track: &LibraryTrack, path: &Path) -> Result<()> {
        let name = path.as_os_str().as_encoded_bytes();
        if name.contains(&b'\n') || name.contains(&b'\r') {
            note(&format!("{}: a name of two lines cannot be in an M3U file", path.display()));
            return Ok(());
        }
        let title = song.title.clone();
        let title = title.or_else(|| path.file_stem().map(|stem| stem.to_string_lossy().into()));
        let title = title.unwrap_or_default();
        let title = match track.artist.as_str() {
            "" => title,
            artist => format!("{artist} - {title}"),
        };
        let title = title.replace(['\n', '\r'], " ");
        let seconds = track.duration_s.round();
        let head = format!("#EXTINF:{seconds},{}", self.output.text(&title));
        self.output.print_bytes(head.as_bytes(), b"\n")?;
        if let Some(section) = song.section {
            let end_s = section.start_s + section.duration_s;
            let options = format!(
                "#EXTVLCOPT:start-time={:.3}\n#EXTVLCOPT:stop-time={end_s:.3}",
                section.start_s
            );
            self.output.print_bytes(options.as_bytes(), b"\n")?;
        }
        // A name that begins with # would be a comment.
        let mut line = if name.starts_with(b"#") { b"./".to_vec() } else { Vec::new() };
        line.extend(self.output.name(path));
        self.output.print_bytes(&line, b"\n")
    }
}

/// What JSON has beside a track of `similar`.
pub fn distance_value(distance: f32) -> Value {
    json!({ "distance": distance })
}
