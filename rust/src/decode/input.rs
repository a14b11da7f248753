//! The bytes of a file, for several readers.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use symphonia::core::io::MediaSource;

use crate::error::{Error, Result};

/// The bytes read from a file, as a multiple of its size, after which its reader is assumed to loop
/// forever.
const MAX_READS: u64 = 8;

/// The bytes that [`Window`] reads at a time.
const WINDOW: usize = 256 * 1024;

/// What audio is read from.
pub(super) trait Media: Read + Seek + Send + Sync {}

impl<M: Read + Seek + Send + Sync> Media for M {}

/// A file that is open for reading at any position.
///
/// It keeps its first I/O error, since symphonia's readers return many errors as a format that they
/// do not know, or as the end of the file.
#[derive(Clone)]
pub(super) struct Input {
    state: Arc<Mutex<State>>,
    len: u64,
}

struct State {
    media: Box<dyn Media>,
    /// The position of `media`.
    at: u64,
    /// The bytes that may still be read.
    remaining: u64,
    failure: Option<io::Error>,
    /// Whether there was a failure: then nothing is read any more.
    has_failed: bool,
}

impl Input {
    /// Opens a file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let io = |error| Error::io(path, error);
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            return Err(Error::audio("not a file"));
        }
        let file = File::open(path).map_err(io)?;
        Ok(Self::new(Box::new(file), metadata.len()))
    }

    pub(super) fn new(media: Box<dyn Media>, len: u64) -> Self {
        let remaining = len.saturating_mul(MAX_READS).saturating_add(1 << 20);
        let state = State { media, at: 0, remaining, failure: None, has_failed: false };
        Self { state: Arc::new(Mutex::new(state)), len }
    }

    /// The size of the file in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The first I/O error of any reader, if there was one.
    pub(super) fn take_failure(&self) -> Option<io::Error> {
        self.lock().failure.take()
    }

    /// Reads at `at`, and returns the number of bytes, 0 only at the end.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        if state.has_failed {
            return Err(io::Error::other("the file could not be read before"));
        }
        // An empty read counts too: a reader may loop at the end of the file.
        state.remaining = state
            .remaining
            .checked_sub(buffer.len().min(self.len.saturating_sub(at) as usize).max(1) as u64)
            .ok_or_else(|| io::Error::other("the file makes its reader loop forever"))?;
        let read = state.read_at(at, buffer);
        if let Err(error) = &read {
            // The error itself goes to the reader.
            let copy = match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            };
            state.failure = Some(copy);
            state.has_failed = true;
        }
        read
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn read_at(&mut self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at != at {
            self.at = self.media.seek(SeekFrom::Start(at))?;
        }
        loop {
            match self.media.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(read) => {
                    self.at += read as u64;
                    return Ok(read);
                }
            }
        }
    }
}

/// A buffered part of a file.
pub(super) struct Window {
    input: Input,
    /// The position of the first byte in `buffer`.
    start: u64,
    buffer: Vec<u8>,
}

impl Window {
    pub(super) fn new(input: Input) -> Self {
        Self { input, start: 0, buffer: Vec::new() }
    }

    /// The `len` bytes at `at`; fewer at the end of the file or at an I/O error, which the input
    /// keeps.
    pub(super) fn bytes(&mut self, at: u64, len: usize) -> &[u8] {
        let len = len.min(self.input.len.saturating_sub(at) as usize);
        let buffered = self.start..=self.start + self.buffer.len() as u64;
        if !(buffered.contains(&at) && buffered.contains(&(at + len as u64))) {
            self.fill(at, len);
        }
        let from = ((at - self.start) as usize).min(self.buffer.len());
        &self.buffer[from..(from + len).min(self.buffer.len())]
    }

    fn fill(&mut self, at: u64, len: usize) {
        let buffered = self.start..self.start + self.buffer.len() as u64;
        if buffered.contains(&at) {
            self.buffer.drain(..(at - self.start) as usize);
        } else {
            self.buffer.clear();
        }
        self.start = at;
        let mut filled = self.buffer.len();
        let wanted = len.max(WINDOW).min(self.input.len.saturating_sub(at) as usize);
        self.buffer.resize(wanted, 0);
        while filled < self.buffer.len() {
            match self.input.read_at(at + filled as u64, &mut self.buffer[filled..]) {
                Ok(read) if read > 0 => filled += read,
                _ => break,
            }
        }
        self.buffer.truncate(filled);
    }
}

/// A part of a [`View`].
#[derive(Clone)]
pub(super) enum Part {
    Bytes(Vec<u8>),
    /// A range of the file: its start and its length.
    Range(u64, u64),
}

impl Part {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Range(_, len) => *len,
        }
    }
}

/// A file as a reader should see it: with a header that is right, or without what is no audio.
pub(super) struct View {
    input: Input,
    parts: Vec<Part>,
    len: u64,
    at: u64,
    seekable: bool,
}

impl View {
    pub(super) fn new(input: Input, parts: Vec<Part>) -> Self {
        let len = parts.iter().map(Part::len).sum();
        Self { input, parts, len, at: 0, seekable: true }
    }

    /// The same view, read in one pass from its start to its end.
    pub(super) fn unseekable(self) -> Self {
        Self { seekable: false, ..self }
    }
}

impl Read for View {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut at = self.at;
        for part in &self.parts {
            let len = part.len();
            if at >= len {
                at -= len;
                continue;
            }
            let wanted = buffer.len().min((len - at) as usize);
            let buffer = &mut buffer[..wanted];
            let read = match part {
                Part::Bytes(bytes) => {
                    buffer.copy_from_slice(&bytes[at as usize..][..wanted]);
                    wanted
                }
                Part::Range(start, _) => self.input.read_at(start + at, buffer)?,
            };
            self.at += read as u64;
            return Ok(read);
        }
        // An empty read counts towards the limit.
        self.input.read_at(self.input.len, &mut [])
    }
}

impl Seek for View {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::End(by) => (self.len, by),
            SeekFrom::Current(by) => (self.at, by),
        };
        self.at = from.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl MediaSource for View {
    fn is_seekable(&self) -> bool {
        self.seekable
    }

    fn byte_len(&self) -> Option<u64> {
        self.seekable.then_some(self.len)
    }
}
