//! Paths as URLs.

use std::path::{Component, Path, Prefix};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// All of ASCII but letters, digits and four signs.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The URL of a path in two parts, its folder and its file: `file:///m/a/` and `b.mp3`. A relative
/// path is a relative URL.
///
/// All bytes but letters, digits, `-`, `.`, `_` and `~` are percent-encoded, so that the URL holds
/// any name, also one that is not UTF-8, and nothing that HTML or a browser could misread.
pub(super) fn link(path: &Path) -> (String, String) {
    let mut base = String::new();
    let mut file = String::new();
    for component in path.components() {
        let part = match component {
            Component::Prefix(prefix) => {
                base = match prefix.kind() {
                    Prefix::Disk(drive) | Prefix::VerbatimDisk(drive) => {
                        format!("file:///{}:", drive as char)
                    }
                    Prefix::UNC(host, share) | Prefix::VerbatimUNC(host, share) => {
                        let host = encoded(host.as_encoded_bytes());
                        format!("file://{host}/{}", encoded(share.as_encoded_bytes()))
                    }
                    Prefix::Verbatim(_) | Prefix::DeviceNS(_) => "file://".to_string(),
                };
                continue;
            }
            Component::RootDir => {
                base = if base.is_empty() { "file:///".into() } else { base + "/" };
                continue;
            }
            Component::CurDir => continue,
            Component::ParentDir => "..".to_string(),
            Component::Normal(name) => encoded(name.as_encoded_bytes()),
        };
        if !file.is_empty() {
            base += &file;
            base.push('/');
        }
        file = part;
    }
    (base, file)
}

fn encoded(bytes: &[u8]) -> String {
    percent_encode(bytes, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(path: &str) -> String {
        let (base, file) = link(Path::new(path));
        base + &file
    }

    #[test]
    #[cfg(unix)]
    fn paths_are_urls() {
        assert_eq!(joined("/m/a b/c#1?.mp3"), "file:///m/a%20b/c%231%3F.mp3");
        assert_eq!(joined("/1.mp3"), "file:///1.mp3");
        assert_eq!(joined("../music/Ä%\"<'.mp3"), "../music/%C3%84%25%22%3C%27.mp3");
        // A colon would make the name of a scheme of it.
        assert_eq!(joined("javascript:alert(1)"), "javascript%3Aalert%281%29");
        assert_eq!(link(Path::new("/m/a/1.mp3")), ("file:///m/a/".into(), "1.mp3".into()));
        assert_eq!(link(Path::new("a/1.mp3")), ("a/".into(), "1.mp3".into()));
    }

    #[test]
    #[cfg(unix)]
    fn names_that_are_not_utf_8_are_kept() {
        use std::os::unix::ffi::OsStrExt;
        let name = std::ffi::OsStr::from_bytes(b"/m/caf\xe9\n.mp3");
        assert_eq!(link(Path::new(name)).1, "caf%E9%0A.mp3");
    }

    #[test]
    #[cfg(windows)]
    fn windows_paths_are_urls() {
        assert_eq!(joined(r"\\?\C:\m\a b.mp3"), "file:///C:/m/a%20b.mp3");
        assert_eq!(joined(r"\\?\UNC\host\share\a.mp3"), "file://host/share/a.mp3");
    }
}
