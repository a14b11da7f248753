//! The files that a command line names, standard input, and list files.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use percent_encoding::percent_decode;

use super::progress;

/// The argument that stands for standard input.
const STDIN: &str = "-";

/// How many bytes of standard input show whether it is a list of files.
const PROBE: usize = 4096;

/// An audio file to read.
pub struct Input {
    /// The file that is read.
    pub path: PathBuf,
    /// Its name in results: "-" for standard input.
    pub name: PathBuf,
    /// Removed with this value.
    _copy: Option<TemporaryFile>,
}

impl Input {
    pub fn file(path: PathBuf) -> Self {
        Self { name: path.clone(), path, _copy: None }
    }
}

/// The audio files that `arguments` name. `-` is standard input: an audio file, or a list of files.
pub fn inputs(arguments: &[PathBuf]) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for argument in arguments {
        if argument.as_os_str() != STDIN {
            inputs.push(Input::file(argument.clone()));
            continue;
        }
        let bytes = read_stdin()?;
        if is_text(&bytes) {
            inputs.extend(names(&bytes)?.into_iter().map(Input::file));
        } else {
            let copy = TemporaryFile::new(&bytes).context("standard input")?;
            inputs.push(Input { path: copy.0.clone(), name: STDIN.into(), _copy: Some(copy) });
        }
    }
    Ok(inputs)
}

/// The paths that `arguments` name. `-` is a list on standard input.
pub fn paths(arguments: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for argument in arguments {
        if argument.as_os_str() == STDIN {
            paths.extend(names(&read_stdin()?)?);
        } else {
            paths.push(argument.clone());
        }
    }
    Ok(paths)
}

/// The entries of a list on standard input, which must have one.
fn names(list: &[u8]) -> Result<Vec<PathBuf>> {
    let names = parse_list(list, Path::new(""));
    if names.is_empty() {
        bail!("standard input is a list without an entry, expected a path a line");
    }
    Ok(names)
}

/// The lines of a list file, or of standard input for `-`. Lines that begin with # are comments, so
/// that playlists in the M3U format can be read. Paths are relative to the list's folder.
pub fn list_file(path: &Path) -> Result<Vec<PathBuf>> {
    if path.as_os_str() == STDIN {
        return Ok(parse_list(&read_stdin()?, Path::new("")));
    }
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(parse_list(&bytes, path.parent().unwrap_or(Path::new(""))))
}

fn read_stdin() -> Result<Vec<u8>> {
    progress::begin("reading standard input");
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).context("standard input")?;
    if bytes.is_empty() {
        bail!("standard input is empty, expected an audio file or a list of files");
    }
    Ok(bytes)
}

/// Whether there are no control characters but the ends of lines; the header of an audio file has
/// others.
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().take(PROBE).all(|byte| *byte >= b' ' || b"\n\r\t\0".contains(byte))
}

/// The entries of a list: lines, or what ends with NUL, as `find -print0` prints it. A line may be a
/// `file://` address, or have the backslashes of Windows, as playlists of many players do.
fn parse_list(bytes: &[u8], folder: &Path) -> Vec<PathBuf> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let are_lines = !bytes.contains(&0);
    let entries: Vec<&[u8]> = if !are_lines {
        bytes.split(|byte| *byte == 0).collect()
    } else {
        let lines = bytes.split(|byte| *byte == b'\n');
        let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        lines.filter(|line| !line.starts_with(b"#")).collect()
    };
    let entries = entries.into_iter().filter(|entry| !entry.is_empty());
    let path = |entry: &[u8]| match path_of_address(entry).filter(|_| are_lines) {
        Some(path) => path,
        None => with_separators(folder.join(path_from(entry))),
    };
    entries.map(path).collect()
}

/// The path of a `file://` address of this machine, without its percent-encoding; `None` for
/// anything else.
fn path_of_address(address: &[u8]) -> Option<PathBuf> {
    let (scheme, rest) = address.split_at_checked(b"file://".len())?;
    if !scheme.eq_ignore_ascii_case(b"file://") {
        return None;
    }
    let path = rest.strip_prefix(b"localhost").unwrap_or(rest);
    // Without a slash it is the name of another machine.
    let after_slash = path.strip_prefix(b"/")?;
    // On Windows, C:/a.mp3 has the address file:///C:/a.mp3.
    let path = if cfg!(windows) { after_slash } else { path };
    Some(path_from(&percent_decode(path).collect::<Vec<u8>>()))
}

/// The path with slashes for the backslashes of Windows, if that is a file and the path is none.
#[cfg(not(windows))]
fn with_separators(path: PathBuf) -> PathBuf {
    let bytes = path.as_os_str().as_encoded_bytes();
    if !bytes.contains(&b'\\') || path.exists() {
        return path;
    }
    let slashes: Vec<_> =
        bytes.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect();
    Some(path_from(&slashes)).filter(|path| path.exists()).unwrap_or(path)
}

#[cfg(windows)]
fn with_separators(path: PathBuf) -> PathBuf {
    path
}

#[cfg(unix)]
fn path_from(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(bytes).into()
}

#[cfg(not(unix))]
fn path_from(bytes: &[u8]) -> PathBuf {
    String::from_utf8_lossy(bytes).into_owned().into()
}

/// A copy of standard input, which decoders must be able to seek in.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn new(bytes: &[u8]) -> Result<Self> {
        let name = format!("feelprint-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut file = File::create_new(&path).with_context(|| path.display().to_string())?;
        let copy = Self(path);
        file.write_all(bytes)?;
        Ok(copy)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // A file that cannot be removed stays in the folder for temporary files.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_lines_or_nuls() {
        let list = |bytes: &[u8]| parse_list(bytes, Path::new("/m"));
        let paths = |names: &[&str]| -> Vec<PathBuf> { names.iter().map(PathBuf::from).collect() };
        let m3u = "\u{feff}#EXTM3U\r\n#EXTINF:3,A - B\r\na b.mp3\r\n\r\n/x/c.mp3";
        assert_eq!(list(m3u.as_bytes()), paths(&["/m/a b.mp3", "/x/c.mp3"]));
        assert_eq!(list(b"a\nb.mp3\0#c.mp3\0"), paths(&["/m/a\nb.mp3", "/m/#c.mp3"]));
        assert!(list(b"").is_empty());
    }

    #[test]
    #[cfg(unix)]
    fn addresses_are_paths() {
        let list = |bytes: &[u8]| parse_list(bytes, Path::new("/m"));
        let path = |name: &[u8]| vec![path_from(name)];
        assert_eq!(list(b"file:///a%20b/%c3%A4%25.mp3"), path("/a b/ä%.mp3".as_bytes()));
        assert_eq!(list(b"FILE://localhost/caf%E9.mp3"), path(b"/caf\xe9.mp3"));
        // No percent-encoding, another machine, another scheme, and a path.
        assert_eq!(list(b"file:///100%.mp3"), path(b"/100%.mp3"));
        assert_eq!(list(b"file:///%+1%1.mp3"), path(b"/%+1%1.mp3"));
        assert_eq!(list(b"file://host/a.mp3"), path(b"/m/file://host/a.mp3"));
        assert_eq!(list(b"http://host/a.mp3"), path(b"/m/http://host/a.mp3"));
        assert_eq!(list(b"100%25.mp3"), path(b"/m/100%25.mp3"));
        // A name may have a backslash, as may that of an artist.
        assert_eq!(list(b"AC\\DC"), path(b"/m/AC\\DC"));
    }

    #[test]
    fn audio_is_not_text() {
        assert!(is_text(b"/m/a.mp3\n/m/caf\xe9.mp3\r\n") && is_text(b"a\0b\0"));
        for header in [&b"RIFF\x24\x08\0\0WAVEfmt \x10"[..], b"fLaC\0\0\0\x22\x10", b"ID3\x03\0"] {
            assert!(!is_text(header));
        }
    }
}
