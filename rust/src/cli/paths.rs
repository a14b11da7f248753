//! Paths of tracks: how they are named in the index and relative to a folder.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, Value, ValueRef};

/// The canonical path, which names a file in the index.
pub fn full_path(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| path.display().to_string())
}

/// The canonical path of a file or folder that may not be there: that of the nearest folder above
/// it that is there, and the rest as it is.
pub fn full_path_of_missing(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).with_context(|| path.display().to_string())?;
    for above in absolute.ancestors() {
        if let (Ok(full), Ok(rest)) = (above.canonicalize(), absolute.strip_prefix(above)) {
            return Ok(if rest.as_os_str().is_empty() { full } else { full.join(rest) });
        }
    }
    Ok(absolute)
}

/// `path` as seen from `folder`; both are absolute. It stays absolute where there is no way, such
/// as on another drive of Windows.
pub fn relative_to(path: &Path, folder: &Path) -> PathBuf {
    let (from, to): (Vec<_>, Vec<_>) = (folder.components().collect(), path.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    if common == 0 {
        return path.to_path_buf();
    }
    let up = from[common..].iter().map(|_| Component::ParentDir);
    up.chain(to[common..].iter().copied()).collect()
}

/// Whether there is certainly no file or folder of this name. An error, such as a folder above it
/// that cannot be read, is not certain.
pub fn is_gone(path: &Path) -> bool {
    matches!(path.try_exists(), Ok(false))
}

/// The bytes of a path in the column `path`, without a separator at the end.
pub fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

/// A path in SQL: text, or a blob if it is not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlPath(pub PathBuf);

/// A path, or the bound of a range of paths, as an SQL value.
pub fn sql_value(path: &[u8]) -> Value {
    match std::str::from_utf8(path) {
        Ok(text) => Value::Text(text.to_string()),
        Err(_) => Value::Blob(path.to_vec()),
    }
}

impl ToSql for SqlPath {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Owned(sql_value(bytes(&self.0))))
    }
}

impl FromSql for SqlPath {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value {
            ValueRef::Text(text) => {
                let text = std::str::from_utf8(text);
                text.map(|text| Self(text.into())).map_err(|e| FromSqlError::Other(Box::new(e)))
            }
            ValueRef::Blob(blob) => Ok(Self(from_bytes(blob)?)),
            _ => Err(FromSqlError::InvalidType),
        }
    }
}

#[cfg(unix)]
fn from_bytes(bytes: &[u8]) -> FromSqlResult<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    Ok(std::ffi::OsStr::from_bytes(bytes).into())
}

/// On Windows, a name that is not Unicode cannot be made from bytes in safe code.
#[cfg(not(unix))]
fn from_bytes(_: &[u8]) -> FromSqlResult<PathBuf> {
    Err(FromSqlError::InvalidType)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn relative_paths_lead_from_the_folder() {
        let relative = |path: &str, folder: &str| {
            relative_to(Path::new(path), Path::new(folder)).to_str().unwrap().to_string()
        };
        assert_eq!(relative("/m/a/1.mp3", "/m"), "a/1.mp3");
        assert_eq!(relative("/m/a/1.mp3", "/m/lists"), "../a/1.mp3");
        assert_eq!(relative("/m/a/1.mp3", "/"), "m/a/1.mp3");
        assert_eq!(relative("/m/a/1.mp3", "/mm/x"), "../../m/a/1.mp3");
    }

    #[test]
    fn a_missing_path_is_named_from_the_folder_that_is_there() {
        let here = Path::new(".").canonicalize().unwrap();
        assert_eq!(
            full_path_of_missing(Path::new("./no/../x.mp3")).unwrap(),
            here.join("no/../x.mp3")
        );
        assert_eq!(full_path_of_missing(Path::new("no.mp3")).unwrap(), here.join("no.mp3"));
        assert_eq!(full_path_of_missing(&here).unwrap(), here);
        assert!(is_gone(Path::new("no.mp3")) && !is_gone(&here));
    }
}
