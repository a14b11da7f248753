//! The index: one SQLite file with one row per audio file.
//!
//! A row has the file's path, size, modification time and content hash, the version of the model,
//! and the embedding or the reason why there is none. Embeddings of two versions are never returned
//! together.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use feelprint::duplicates::LibraryTrack;
use feelprint::{DIM_EMBEDDING, Embedding};
use rusqlite::{Connection, OptionalExtension, Params, Row, params};

use crate::files::album_or_folder;

/// "felp": marks the SQLite file as an index of feelprint.
const APPLICATION_ID: i32 = 0x6665_6c70;

/// The version of the schema below.
const LAYOUT: i32 = 1;

const TABLES: &str = "
CREATE TABLE songs (
    path       TEXT PRIMARY KEY NOT NULL,
    size       INTEGER NOT NULL,           -- bytes
    changed_ns INTEGER NOT NULL,           -- nanoseconds since 1970
    hash       BLOB NOT NULL,              -- BLAKE3 of the content, 32 bytes
    version    TEXT NOT NULL,              -- of the model
    embedding  BLOB,                       -- 32 little-endian f32
    duration_s REAL,
    silent     INTEGER NOT NULL DEFAULT 0,
    album      TEXT,                       -- from the file's tags
    damage     TEXT,                       -- of a file that was decoded in part
    error      TEXT,                       -- why there is no embedding; else NULL
    CHECK ((embedding IS NULL) = (error IS NOT NULL))
);
CREATE INDEX songs_by_hash ON songs (hash);
";

/// The metadata by which a changed file is noticed without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// In bytes.
    pub size: i64,
    /// Nanoseconds since 1970, the column `changed_ns`.
    pub modified_ns: i64,
}

/// The result of analysing the content of a file.
#[derive(Debug, Clone)]
pub struct AnalysisResult {
    /// Of the model.
    pub version: String,
    /// The embedding, or the reason why there is none.
    pub embedding: std::result::Result<Embedding, String>,
    pub duration_s: Option<f64>,
    pub silent: bool,
    pub album: Option<String>,
    pub damage: Option<String>,
}

/// An open index.
pub struct Index {
    db: Connection,
    path: PathBuf,
}

impl Index {
    /// Opens an index. If there is none, makes an empty one.
    pub fn create(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let index = Self::connect(path)?;
        let layout: i32 = index.pragma("user_version")?;
        if layout == 0 && index.one::<i64>("SELECT count(*) FROM sqlite_schema", [])? == 0 {
            index
                .db
                .execute_batch(&format!(
                    "BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION_ID};
                     PRAGMA user_version = {LAYOUT}; COMMIT;"
                ))
                .with_context(|| index.name())?;
        }
        index.checked()
    }

    /// Opens an existing index.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_file() {
            bail!("{}: no index there; make one with `feelprint index DIR`", path.display());
        }
        Self::connect(path)?.checked()
    }

    fn connect(path: &Path) -> Result<Self> {
        let db = Connection::open(path).with_context(|| path.display().to_string())?;
        // How long to wait while another process writes.
        db.busy_timeout(std::time::Duration::from_secs(60))?;
        Ok(Self { db, path: path.to_path_buf() })
    }

    fn checked(self) -> Result<Self> {
        let id: i32 = self.pragma("application_id")?;
        let layout: i32 = self.pragma("user_version")?;
        if id != APPLICATION_ID {
            bail!("{}: not an index of feelprint", self.name());
        }
        if layout != LAYOUT {
            bail!(
                "{}: an index of layout {layout}, this feelprint reads {LAYOUT}; remove the file \
                 and run `feelprint index DIR`",
                self.name()
            );
        }
        Ok(self)
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn pragma(&self, name: &str) -> Result<i32> {
        self.one(&format!("PRAGMA {name}"), [])
    }

    fn one<T: rusqlite::types::FromSql>(&self, sql: &str, params: impl Params) -> Result<T> {
        self.db.query_row(sql, params, |row| row.get(0)).with_context(|| self.name())
    }

    /// The file stat, content hash and model version in the row of a path, if there is one.
    pub fn row(&self, path: &str) -> Result<Option<(FileStat, [u8; 32], String)>> {
        let mut statement = self
            .db
            .prepare_cached("SELECT size, changed_ns, hash, version FROM songs WHERE path = ?1")?;
        let row = statement.query_row([path], |row| {
            let stat = FileStat { size: row.get(0)?, modified_ns: row.get(1)? };
            Ok((stat, row.get(2)?, row.get(3)?))
        });
        row.optional().with_context(|| self.name())
    }

    /// The result of this version of the model for a content hash, if there is one.
    pub fn result(&self, hash: &[u8; 32], version: &str) -> Result<Option<AnalysisResult>> {
        let mut statement = self.db.prepare_cached(
            "SELECT version, embedding, duration_s, silent, album, damage, error FROM songs
             WHERE hash = ?1 AND version = ?2 LIMIT 1",
        )?;
        let result = statement.query_row(params![hash, version], |row| {
            let embedding: Option<Vec<u8>> = row.get(1)?;
            Ok(AnalysisResult {
                version: row.get(0)?,
                embedding: match embedding {
                    Some(bytes) => Ok(from_bytes(&bytes)?),
                    None => Err(row.get(6)?),
                },
                duration_s: row.get(2)?,
                silent: row.get(3)?,
                album: row.get(4)?,
                damage: row.get(5)?,
            })
        });
        result.optional().with_context(|| self.name())
    }

    /// The content hashes that have a result of this version of the model.
    pub fn hashes(&self, version: &str) -> Result<HashSet<[u8; 32]>> {
        let mut statement = self.db.prepare("SELECT hash FROM songs WHERE version = ?1")?;
        let rows = statement.query_map([version], |row| row.get(0))?;
        rows.collect::<rusqlite::Result<_>>().with_context(|| self.name())
    }

    /// Runs `work` in a transaction. An error rolls it back.
    pub fn transaction<T>(&mut self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        self.db.execute_batch("BEGIN IMMEDIATE").with_context(|| self.name())?;
        let result = work(self);
        let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
        self.db.execute_batch(end).with_context(|| self.name())?;
        result
    }

    /// Writes the row of a path.
    pub fn put(
        &self,
        path: &str,
        stat: FileStat,
        hash: &[u8; 32],
        result: &AnalysisResult,
    ) -> Result<()> {
        let embedding = result.embedding.as_ref().ok().map(to_bytes);
        let error = result.embedding.as_ref().err();
        let mut statement = self.db.prepare_cached(
            "INSERT OR REPLACE INTO songs (path, size, changed_ns, hash, version, embedding,
             duration_s, silent, album, damage, error)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?;
        let row = params![
            path,
            stat.size,
            stat.modified_ns,
            hash,
            result.version,
            embedding,
            result.duration_s,
            result.silent,
            result.album,
            result.damage,
            error
        ];
        statement.execute(row).with_context(|| self.name())?;
        Ok(())
    }

    /// The paths under a folder.
    pub fn paths_under(&self, folder: &str) -> Result<Vec<String>> {
        // '0' follows '/' in ASCII, and ']' follows '\': the range is all paths below the folder.
        let (from, to) = match std::path::MAIN_SEPARATOR {
            '/' => (format!("{}/", folder.trim_end_matches('/')), '0'),
            other => (format!("{}{other}", folder.trim_end_matches(other)), ']'),
        };
        let end = format!("{}{to}", &from[..from.len() - 1]);
        let mut statement =
            self.db.prepare("SELECT path FROM songs WHERE path >= ?1 AND path < ?2")?;
        let rows = statement.query_map([from, end], |row| row.get(0))?;
        rows.collect::<rusqlite::Result<_>>().with_context(|| self.name())
    }

    /// Removes the row of a path.
    pub fn remove(&self, path: &str) -> Result<()> {
        self.db.prepare_cached("DELETE FROM songs WHERE path = ?1")?.execute([path])?;
        Ok(())
    }

    /// The path and the track of each row with an embedding, sorted by path.
    ///
    /// Fails if a row is of another version of the model.
    pub fn tracks(&self, version: &str) -> Result<Vec<(String, LibraryTrack)>> {
        let mut statement =
            self.db.prepare("SELECT version, count(*) FROM songs GROUP BY version")?;
        let versions: Vec<(String, i64)> = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()
            .with_context(|| self.name())?;
        if let Some((other, count)) = versions.iter().find(|(other, _)| other != version) {
            bail!(
                "{}: {count} songs are of model {other}, the model in use is {version}; \
                 embeddings of two versions cannot be compared: run `feelprint index DIR` again \
                 for the folders in it, with the model in use",
                self.name()
            );
        }
        let mut statement = self.db.prepare(
            "SELECT path, embedding, hash, duration_s, silent, album FROM songs
             WHERE embedding IS NOT NULL ORDER BY path",
        )?;
        let rows = statement.query_map([], library_track)?;
        rows.collect::<rusqlite::Result<_>>().with_context(|| self.name())
    }
}

fn library_track(row: &Row<'_>) -> rusqlite::Result<(String, LibraryTrack)> {
    let path: String = row.get(0)?;
    let track = LibraryTrack {
        embedding: from_bytes(row.get_ref(1)?.as_blob()?)?,
        content_hash: row.get(2)?,
        duration_s: row.get(3)?,
        silent: row.get(4)?,
        album: album_or_folder(row.get(5)?, &path),
    };
    Ok((path, track))
}

fn to_bytes(embedding: &Embedding) -> Vec<u8> {
    embedding.0.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn from_bytes(bytes: &[u8]) -> rusqlite::Result<Embedding> {
    if bytes.len() != 4 * DIM_EMBEDDING {
        return Err(rusqlite::types::FromSqlError::InvalidBlobSize {
            expected_size: 4 * DIM_EMBEDDING,
            blob_size: bytes.len(),
        }
        .into());
    }
    let mut embedding = Embedding::default();
    for (value, bytes) in embedding.0.iter_mut().zip(bytes.chunks_exact(4)) {
        *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    Ok(embedding)
}
