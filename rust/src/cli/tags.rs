//! The tags of a file, read without decoding its audio.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use lofty::config::ParseOptions;
use lofty::file::TaggedFileExt;
use lofty::probe::Probe;
use lofty::tag::ItemKey;

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
    let options = ParseOptions::new().read_properties(false).read_cover_art(false);
    let file = Probe::open(path).ok()?.options(options).guess_file_type().ok()?.read().ok()?;
    // The kind of tags that the format has comes first.
    let tags: Vec<_> = file.primary_tag().into_iter().chain(file.tags()).collect();
    let first = |key| tags.iter().find_map(|tag| tag.get_string(key).and_then(not_empty));
    Some(Tags {
        title: first(ItemKey::TrackTitle),
        artist: first(ItemKey::TrackArtist).or_else(|| first(ItemKey::AlbumArtist)),
        album: first(ItemKey::AlbumTitle),
    })
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
