//! The tables of the index, and the way from older layouts.

use anyhow::{Context, Result, bail};
use rusqlite::Connection;

/// "felp": marks the SQLite file as an index of feelprint.
const APPLICATION_ID: i32 = 0x6665_6c70;

/// The version of the schema below, in `PRAGMA user_version`.
const LAYOUT: i32 = 2;

const TABLES: &str = "
CREATE TABLE songs (
    path       TEXT NOT NULL,              -- canonical; a blob if it is not UTF-8
    track      INTEGER NOT NULL DEFAULT 0, -- the number in the cue sheet; 0: the whole file
    start_s    REAL,                       -- of a track of a cue sheet
    size       INTEGER NOT NULL,           -- bytes
    changed_ns INTEGER NOT NULL,           -- nanoseconds since 1970
    hash       BLOB NOT NULL,              -- BLAKE3 of the content, 32 bytes
    version    TEXT NOT NULL,              -- of the model
    embedding  BLOB,                       -- 32 little-endian f32
    duration_s REAL,
    silent     INTEGER NOT NULL DEFAULT 0,
    title      TEXT,                       -- from the tags or the cue sheet
    artist     TEXT,                       -- as title; NULL: not read yet
    album      TEXT,                       -- as title
    damage     TEXT,                       -- of a file that was decoded in part
    error      TEXT,                       -- why there is no embedding; else NULL
    decoder    TEXT,                       -- the version of feelprint that decoded the file
    folder     TEXT,                       -- the argument of `index` that the file was found by
    absent     TEXT,                       -- 'missing' or 'excluded' at the last run; else NULL
    PRIMARY KEY (path, track),
    CHECK ((embedding IS NULL) = (error IS NOT NULL))
);
CREATE INDEX songs_by_hash ON songs (hash);
";

/// From layout 1, which had one row per file and fewer columns.
const FROM_1: &str = "
ALTER TABLE songs RENAME TO songs_1;
DROP INDEX songs_by_hash;
";
const COPY_1: &str = "
INSERT INTO songs (path, size, changed_ns, hash, version, embedding, duration_s, silent, album,
                   damage, error)
SELECT path, size, changed_ns, hash, version, embedding, duration_s, silent, album, damage, error
FROM songs_1;
DROP TABLE songs_1;
";

/// Makes the tables if the database is empty.
pub fn create(db: &Connection) -> Result<()> {
    let is_empty = || -> Result<bool> {
        let tables =
            db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
        Ok(tables == 0 && pragma(db, "user_version")? == 0)
    };
    if is_empty()? {
        // Two processes may get here; the second one finds the tables.
        db.execute_batch("BEGIN IMMEDIATE")?;
        if is_empty()? {
            db.execute_batch(&format!("{TABLES} PRAGMA application_id = {APPLICATION_ID};"))?;
            db.pragma_update(None, "user_version", LAYOUT)?;
        }
        db.execute_batch("COMMIT")?;
    }
    Ok(())
}

/// Checks that the database is an index, and brings it to the layout above.
pub fn check_and_migrate(db: &Connection) -> Result<()> {
    if pragma(db, "application_id")? != APPLICATION_ID {
        bail!("not an index of feelprint");
    }
    if pragma(db, "user_version")? == 1 {
        db.execute_batch("BEGIN IMMEDIATE").context("the index is of an older feelprint")?;
        // Another process may have done it meanwhile.
        if pragma(db, "user_version")? == 1 {
            db.execute_batch(&format!("{FROM_1}{TABLES}{COPY_1}"))?;
            db.pragma_update(None, "user_version", LAYOUT)?;
        }
        db.execute_batch("COMMIT")?;
    }
    let layout = pragma(db, "user_version")?;
    if layout != LAYOUT {
        bail!(
            "an index of layout {layout}, and this feelprint reads {LAYOUT} and older: use the \
             feelprint that made it, or another file with --index FILE"
        );
    }
    Ok(())
}

fn pragma(db: &Connection, name: &str) -> Result<i32> {
    Ok(db.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))?)
}
