//! The index: one SQLite file with one row per track, which is an audio file or a track of its cue
//! sheet.
//!
//! A row has the file's path, size, modification time and content hash, the version of the model,
//! and the embedding or the reason why there is none.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{DIM_EMBEDDING, Embedding};
use anyhow::{Context, Result, bail};
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::cue::Section;
use super::output::note;
use super::paths::{SqlPath, bytes, is_gone, sql_value};
use super::schema;
use super::tags::Tags;

/// The version of the decoders, which is that of the program.
pub const DECODER: &str = env!("CARGO_PKG_VERSION");

/// How long to wait while another process writes, how often to look, and after which time to say so.
const BUSY_LIMIT: Duration = Duration::from_secs(60);
const BUSY_POLL: Duration = Duration::from_millis(50);
const BUSY_NOTE: Duration = Duration::from_secs(2);

/// The metadata by which a changed file is noticed without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStat {
    /// In bytes.
    pub size: i64,
    /// Nanoseconds since 1970, the column `changed_ns`.
    pub modified_ns: i64,
}

/// The result of analysing the content of a track.
#[derive(Debug, Clone)]
pub struct AnalysisResult {
    /// The embedding, or the reason why there is none.
    pub embedding: std::result::Result<Embedding, String>,
    pub duration_s: Option<f64>,
    pub silent: bool,
    pub damage: Option<String>,
    /// The version of the decoders.
    pub decoder: Option<String>,
}

/// Why a row's file was not seen by the last run of `index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// It was not there, or could not be reached.
    Missing,
    /// It was there, and was left out.
    Excluded,
}

impl Absent {
    fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Excluded => "excluded",
        }
    }
}

/// What is known of a track from an earlier run.
pub struct KnownRow {
    /// The number of the cue sheet's track, or 0.
    pub track: u32,
    pub start_s: Option<f64>,
    pub stat: FileStat,
    pub hash: [u8; 32],
    pub version: String,
    pub title: Option<String>,
    /// `None` if the tags have not been read, and empty if they have none.
    pub artist: Option<String>,
    pub album: Option<String>,
    pub failed: bool,
    pub damaged: bool,
    /// The version of the decoders.
    pub decoder: Option<String>,
    pub folder: Option<PathBuf>,
    pub is_absent: bool,
}

/// A row to write.
pub struct NewRow {
    pub section: Option<Section>,
    pub hash: [u8; 32],
    pub tags: Tags,
    pub result: AnalysisResult,
}

/// A row's path and the state that `status` and `forget` look at.
pub struct RowState {
    pub path: PathBuf,
    pub track: u32,
    pub version: String,
    pub error: Option<String>,
    pub damage: Option<String>,
    pub folder: Option<PathBuf>,
    pub absent: Option<Absent>,
}

/// An open index.
pub struct Index {
    pub db: Connection,
    path: PathBuf,
}

impl Index {
    /// Opens an index. If there is none, makes an empty one.
    pub fn create(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let index = Self::connect(path)?;
        schema::create(&index.db).with_context(|| index.name())?;
        index.checked()
    }

    /// Opens an index, or an empty one in memory if there is none, for a run that changes nothing.
    pub fn create_dry(path: &Path) -> Result<Self> {
        if path.exists() {
            return Self::open(path);
        }
        let index = Self { db: Connection::open_in_memory()?, path: path.to_path_buf() };
        schema::create(&index.db)?;
        Ok(index)
    }

    /// Opens an existing index.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_file() {
            bail!("{}: no index there; make one with `feelprint index DIR`", path.display());
        }
        Self::connect(path)?.checked()
    }

    fn connect(path: &Path) -> Result<Self> {
        let mut db = Connection::open(path).with_context(|| path.display().to_string())?;
        db.busy_handler(Some(wait_for_other_process))?;
        Ok(Self { db, path: path.to_path_buf() })
    }

    fn checked(self) -> Result<Self> {
        schema::check_and_migrate(&self.db).with_context(|| self.name())?;
        Ok(self)
    }

    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Runs `work` in a transaction. An error rolls it back.
    pub fn transaction<T>(&mut self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        match self.db.execute_batch("BEGIN IMMEDIATE") {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => bail!(
                "{}: another process has been writing this index for {} s; try again when it has \
                 ended",
                self.name(),
                BUSY_LIMIT.as_secs()
            ),
            begun => begun.with_context(|| self.name())?,
        }
        let result = work(self);
        let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
        self.db.execute_batch(end).with_context(|| self.name())?;
        result
    }

    /// The rows of a file, by track.
    pub fn rows_of(&self, path: &Path) -> Result<Vec<KnownRow>> {
        let mut statement = self.db.prepare_cached(
            "SELECT track, start_s, size, changed_ns, hash, version, title, artist, error, damage,
             decoder, folder, absent, album FROM songs WHERE path = ?1 ORDER BY track",
        )?;
        let rows = statement.query_map([SqlPath(path.to_path_buf())], |row| {
            Ok(KnownRow {
                track: row.get(0)?,
                start_s: row.get(1)?,
                stat: FileStat { size: row.get(2)?, modified_ns: row.get(3)? },
                hash: row.get(4)?,
                version: row.get(5)?,
                title: row.get(6)?,
                artist: row.get(7)?,
                failed: row.get::<_, Option<String>>(8)?.is_some(),
                damaged: row.get::<_, Option<String>>(9)?.is_some(),
                decoder: row.get(10)?,
                folder: row.get::<_, Option<SqlPath>>(11)?.map(|path| path.0),
                is_absent: row.get::<_, Option<String>>(12)?.is_some(),
                album: row.get(13)?,
            })
        })?;
        rows.collect::<rusqlite::Result<_>>().with_context(|| self.name())
    }

    /// The content hashes that have a result of this version of the model. A failure or damage that
    /// another version of the decoders found is none: these may do better.
    pub fn hashes(&self, version: &str) -> Result<HashSet<[u8; 32]>> {
        let mut statement = self.db.prepare(
            "SELECT hash FROM songs WHERE version = ?1
             AND (decoder = ?2 OR (error IS NULL AND damage IS NULL))",
        )?;
        let rows = statement.query_map([version, DECODER], |row| row.get(0))?;
        rows.collect::<rusqlite::Result<_>>().with_context(|| self.name())
    }

    /// The result of this version of the model for a content hash, if there is one.
    pub fn result(&self, hash: &[u8; 32], version: &str) -> Result<Option<AnalysisResult>> {
        let mut statement = self.db.prepare_cached(
            "SELECT embedding, duration_s, silent, damage, error, decoder FROM songs
             WHERE hash = ?1 AND version = ?2
             AND (decoder = ?3 OR (error IS NULL AND damage IS NULL)) LIMIT 1",
        )?;
        let result = statement.query_row(params![hash, version, DECODER], |row| {
            let embedding: Option<Vec<u8>> = row.get(0)?;
            Ok(AnalysisResult {
                embedding: match embedding {
                    Some(bytes) => Ok(embedding_from(&bytes)?),
                    None => Err(row.get(4)?),
                },
                duration_s: row.get(1)?,
                silent: row.get(2)?,
                damage: row.get(3)?,
                decoder: row.get(5)?,
            })
        });
        result.optional().with_context(|| self.name())
    }

    /// Writes the rows of a file, in place of those that it had.
    pub fn put(
        &self,
        path: &Path,
        folder: &Path,
        stat: FileStat,
        version: &str,
        rows: &[NewRow],
    ) -> Result<()> {
        self.remove(path)?;
        let mut statement = self.db.prepare_cached(
            "INSERT INTO songs (path, track, start_s, size, changed_ns, hash, version, embedding,
             duration_s, silent, title, artist, album, damage, error, decoder, folder)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
        )?;
        for NewRow { section, hash, tags, result } in rows {
            let row = params![
                SqlPath(path.to_path_buf()),
                section.as_ref().map_or(0, |section| section.track),
                section.as_ref().map(|section| section.start_s),
                stat.size,
                stat.modified_ns,
                hash,
                version,
                result.embedding.as_ref().ok().map(to_bytes),
                result.duration_s,
                result.silent,
                tags.title,
                tags.artist.as_deref().unwrap_or_default(),
                tags.album,
                result.damage,
                result.embedding.as_ref().err(),
                result.decoder,
                SqlPath(folder.to_path_buf()),
            ];
            statement.execute(row).with_context(|| self.name())?;
        }
        Ok(())
    }

    /// Notes that a file was seen under `folder`.
    pub fn set_seen(&self, path: &Path, folder: &Path) -> Result<()> {
        let mut statement = self
            .db
            .prepare_cached("UPDATE songs SET absent = NULL, folder = ?2 WHERE path = ?1")?;
        statement.execute([SqlPath(path.to_path_buf()), SqlPath(folder.to_path_buf())])?;
        Ok(())
    }

    /// Writes the tags of a file that is not in a cue sheet.
    pub fn set_tags(&self, path: &Path, tags: &Tags) -> Result<()> {
        let mut statement = self.db.prepare_cached(
            "UPDATE songs SET title = ?2, artist = ?3, album = ?4 WHERE path = ?1 AND track = 0",
        )?;
        let artist = tags.artist.as_deref().unwrap_or_default();
        statement.execute(params![SqlPath(path.to_path_buf()), tags.title, artist, tags.album])?;
        Ok(())
    }

    /// Notes why a file was not seen.
    pub fn set_absent(&self, path: &Path, absent: Absent) -> Result<()> {
        let mut statement =
            self.db.prepare_cached("UPDATE songs SET absent = ?2 WHERE path = ?1")?;
        statement.execute(params![SqlPath(path.to_path_buf()), absent.name()])?;
        Ok(())
    }

    /// Removes the rows of a path. Returns how many there were.
    pub fn remove(&self, path: &Path) -> Result<usize> {
        let mut statement = self.db.prepare_cached("DELETE FROM songs WHERE path = ?1")?;
        statement.execute([SqlPath(path.to_path_buf())]).with_context(|| self.name())
    }

    /// Removes the row from which a file at `path` was moved: one of equal content whose file is
    /// gone, of the same name if there is one. Returns whether there was one.
    pub fn remove_moved(&self, hash: &[u8; 32], path: &Path) -> Result<bool> {
        let mut statement = self
            .db
            .prepare_cached("SELECT path, track FROM songs WHERE hash = ?1 AND path <> ?2")?;
        let others = statement
            .query_map(params![hash, SqlPath(path.to_path_buf())], |row| {
                Ok((row.get::<_, SqlPath>(0)?, row.get::<_, u32>(1)?))
            })?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let mut gone: Vec<_> = others.into_iter().filter(|(other, _)| is_gone(&other.0)).collect();
        gone.sort_by_key(|(other, _)| other.0.file_name() != path.file_name());
        let Some((other, track)) = gone.into_iter().next() else { return Ok(false) };
        let mut statement =
            self.db.prepare_cached("DELETE FROM songs WHERE path = ?1 AND track = ?2")?;
        statement.execute(params![other, track])?;
        Ok(true)
    }

    /// The state of every row, sorted by path.
    pub fn states(&self) -> Result<Vec<RowState>> {
        self.states_where("TRUE", Vec::new())
    }

    /// The state of the rows at a path, under it, or found by it.
    pub fn states_under(&self, path: &Path) -> Result<Vec<RowState>> {
        // The paths below a folder are those from "folder/" up to the separator's successor.
        let separator = std::path::MAIN_SEPARATOR as u8;
        let mut from = bytes(path).to_vec();
        if from.last() != Some(&separator) {
            from.push(separator);
        }
        let mut to = from.clone();
        *to.last_mut().expect("it ends with a separator") += 1;
        let name = sql_value(bytes(path));
        let blobs = [Value::Blob(from.clone()), Value::Blob(to.clone())];
        let parameters = [name, sql_value(&from), sql_value(&to)].into_iter().chain(blobs);
        self.states_where(
            "path = ?1 OR folder = ?1 OR (path >= ?2 AND path < ?3) OR (path >= ?4 AND path < ?5)",
            parameters.collect(),
        )
    }

    fn states_where(&self, condition: &str, parameters: Vec<Value>) -> Result<Vec<RowState>> {
        let statement = self.db.prepare(&format!(
            "SELECT path, track, version, error, damage, folder, absent FROM songs
             WHERE {condition} ORDER BY path, track"
        ));
        let mut statement = statement.with_context(|| self.name())?;
        let rows = statement.query_map(rusqlite::params_from_iter(parameters), |row| {
            let absent: Option<String> = row.get(6)?;
            Ok(RowState {
                path: row.get::<_, SqlPath>(0)?.0,
                track: row.get(1)?,
                version: row.get(2)?,
                error: row.get(3)?,
                damage: row.get(4)?,
                folder: row.get::<_, Option<SqlPath>>(5)?.map(|path| path.0),
                absent: absent.map(|name| match name.as_str() {
                    "excluded" => Absent::Excluded,
                    _ => Absent::Missing,
                }),
            })
        })?;
        rows.collect::<rusqlite::Result<_>>().with_context(|| self.name())
    }
}

/// Waits while another process writes the index; `times` counts the calls. Returns whether to go on.
fn wait_for_other_process(times: i32) -> bool {
    let waited = BUSY_POLL * times.unsigned_abs();
    if waited == BUSY_NOTE {
        note(&"another process writes the index: waiting for it");
    }
    std::thread::sleep(BUSY_POLL);
    waited < BUSY_LIMIT
}

fn to_bytes(embedding: &Embedding) -> Vec<u8> {
    embedding.0.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The embedding in a row.
pub fn embedding_from(bytes: &[u8]) -> rusqlite::Result<Embedding> {
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
