//! The tags of a file, read without decoding its audio.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use symphonia::core::formats::FormatOptions;
use symphonia::core::formats::probe::Hint;
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::{MetadataOptions, StandardTag};

/// What the tags say; `None` where they say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags {
    pub title: Option<String>,
    pub artist: Option<String>,
    pub album: Option<String>,
}

/// The tags of a file; none if it has none that can be read.
pub fn read_tags(path: &Path) -> Tags {
    // A panic of a reader means that the tags cannot be read.
    catch_unwind(AssertUnwindSafe(|| probe(path))).ok().flatten().unwrap_or_default()
}

fn probe(path: &Path) -> Option<Tags> {
    let file = File::open(path).ok()?;
    let stream = MediaSourceStream::new(Box::new(file), MediaSourceStreamOptions::default());
    let probe = symphonia::default::get_probe();
    let (format, metadata) = (FormatOptions::default(), MetadataOptions::default());
    let mut format = probe.probe(&Hint::new(), stream, format, metadata).ok()?;
    let mut tags = Tags::default();
    let mut album_artist = None;
    let mut metadata = format.metadata();
    for tag in metadata.skip_to_latest().into_iter().flat_map(|revision| &revision.media.tags) {
        let (field, text) = match &tag.std {
            Some(StandardTag::TrackTitle(text)) => (&mut tags.title, text),
            Some(StandardTag::Artist(text)) => (&mut tags.artist, text),
            Some(StandardTag::Album(text)) => (&mut tags.album, text),
            Some(StandardTag::AlbumArtist(text)) => (&mut album_artist, text),
            _ => continue,
        };
        // The first of several counts.
        if field.is_none() {
            *field = not_empty(text);
        }
    }
    tags.artist = tags.artist.or(album_artist);
    Some(tags)
}

/// A text without the spaces and the NULs that taggers pad with; `None` if nothing is left.
pub fn not_empty(text: &str) -> Option<String> {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0' || c == '\u{feff}');
    (!text.is_empty()).then(|| text.to_string())
}

/// The album of the tags, or else the folder of the file.
pub fn album_or_folder(album: Option<&str>, path: &Path) -> String {
    let folder = path.parent().unwrap_or(Path::new(""));
    album.and_then(not_empty).unwrap_or_else(|| folder.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_album_is_none() {
        for empty in ["", " ", "\0", " \t\0\u{a0}", "\u{feff}"] {
            assert_eq!(not_empty(empty), None, "{empty:?}");
            assert_eq!(album_or_folder(Some(empty), Path::new("/m/a/1.mp3")), "/m/a");
        }
        assert_eq!(not_empty(" A B\0").as_deref(), Some("A B"));
        assert_eq!(album_or_folder(Some("A"), Path::new("/m/a/1.mp3")), "A");
    }
}
