//! A file that is being decoded: packets to blocks of mono samples.

use super::codec::{Codec, Planes};
use super::mono::Downmix;
use super::probing::{self, Opened};
use super::*;

/// The packets that show whether AAC has spectral band replication.
const FIRST_PACKETS: usize = 8;

/// The longest end of a stream that is trimmed, in seconds. If the numbers in a file leave out more,
/// they do not agree with the packets.
const MAX_TAIL_S: f64 = 0.25;

/// The packets at the start of a recording that may refer to missing ones.
const RESERVOIR_PACKETS: usize = 3;

/// The frames of PCM from which on a seek is shorter than reading them.
const MIN_SEEK: u64 = 8192;

/// A file that is being decoded.
pub(crate) struct Source {
    input: Input,
    opened: Opened,
    /// Steps that were read ahead.
    ahead: VecDeque<Step>,
    codec: Option<Codec>,
    span: Option<Span>,
    /// The packets and the frames of the stream so far.
    packets: usize,
    frames: u64,
    /// Whether packets may be left out.
    may_skip: bool,
    /// Whether any were.
    has_skipped: bool,
    /// Whether a packet of the stream was decoded.
    has_decoded: bool,
    /// The last packets that were left out: those that the next one depends on.
    skipped: VecDeque<StreamPacket>,
    /// Whether more were left out before them.
    is_behind_gap: bool,
    /// The time of reading since the last lap.
    read_time: Duration,
    planes: Planes,
    downmix: Downmix,
    block: Vec<f32>,
    tail: Tail,
    /// Whether there was any audio.
    is_audible: bool,
    /// Whether any sample was finite.
    has_finite: bool,
    /// Whether the reader must not be used again.
    is_over: bool,
    damage: Option<String>,
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::new(Input::open(path)?)
    }

    pub(crate) fn from_bytes(bytes: Arc<[u8]>) -> Result<Self> {
        let len = bytes.len() as u64;
        Self::new(Input::new(Box::new(Cursor::new(bytes)), len))
    }

    pub(super) fn new(input: Input) -> Result<Self> {
        if input.len() == 0 {
            return Err(Error::audio("the file is empty"));
        }
        let opened = probing::open(&input, 0);
        if let Some(failure) = input.take_failure() {
            return Err(Error::reading(failure));
        }
        let mut opened = opened?;
        let damage = opened.damage.take();
        Ok(Self {
            input,
            may_skip: damage.is_none(),
            has_skipped: false,
            has_decoded: false,
            skipped: VecDeque::new(),
            is_behind_gap: false,
            read_time: Duration::ZERO,
            damage,
            opened,
            ahead: VecDeque::new(),
            codec: None,
            span: None,
            packets: 0,
            frames: 0,
            planes: Planes::default(),
            downmix: Downmix::default(),
            block: Vec::new(),
            tail: Tail::default(),
            is_audible: false,
            has_finite: false,
            is_over: false,
        })
    }

    /// The last block, its channels averaged.
    pub(super) fn mono(&self) -> &[f32] {
        &self.block
    }

    /// The sample rate of the last block, in Hz.
    pub(super) fn rate(&self) -> u32 {
        self.planes.rate
    }

    /// Has every packet decoded from here on.
    pub(super) fn forbid_skipping(&mut self) {
        self.may_skip = false;
    }

    /// Whether packets were left out that should not have been.
    pub(super) fn must_be_whole(&self) -> bool {
        self.has_skipped && !self.may_skip
    }

    /// Adds the time since the last lap to those of reading and of decoding.
    pub(super) fn lap(&mut self, stopwatch: &mut Stopwatch, times: &mut StageTimes) {
        let read = std::mem::take(&mut self.read_time);
        let mut both = Duration::ZERO;
        stopwatch.lap(&mut both);
        times.read += read;
        times.decode += both.saturating_sub(read);
    }

    /// Decodes the next non-empty block, or leaves out packets: those among the next `unneeded` frames.
    /// None at the end.
    pub(super) fn next_block(&mut self, unneeded: u64) -> Result<Option<Block>> {
        loop {
            let sought = self.seek(unneeded);
            if sought > 0 {
                return Ok(Some(Block::Skipped(sought)));
            }
            let step = self.next_step();
            if let Some(failure) = self.input.take_failure() {
                return Err(Error::reading(failure));
            }
            if let Some(damage) = self.opened.packets.damage() {
                self.set_damage(damage);
            }
            let result = match step {
                None if self.open_joined() => continue,
                None => return Ok(None),
                Some(Step::Stream(stream)) => self.begin(stream),
                Some(Step::Packet(packet)) => {
                    if let Some(frames) = self.unneeded_frames(&packet, unneeded) {
                        self.leave_out(packet, frames);
                        return Ok(Some(Block::Skipped(frames)));
                    }
                    self.decode_packet(&packet);
                    if !self.block.is_empty() {
                        self.is_audible = true;
                        return Ok(Some(Block::Samples));
                    }
                    Ok(())
                }
            };
            // What was decoded before counts.
            match result {
                Err(error) if self.is_audible => {
                    self.set_damage(error.reason());
                    self.is_over = true;
                }
                result => result?,
            }
        }
    }

    /// The next step; none at the end, at an error of the reader, or after its panic.
    fn next_step(&mut self) -> Option<Step> {
        self.ahead.pop_front().or_else(|| self.read(|packets| packets.next_step()))
    }

    /// Reads packets; none after the end, at an error of the reader, or after its panic.
    fn read<T>(&mut self, read: impl FnOnce(&mut dyn Packets) -> Result<Option<T>>) -> Option<T> {
        if self.is_over {
            return None;
        }
        let start = Instant::now();
        let result = panic_to_message(|| read(&mut *self.opened.packets));
        self.read_time += start.elapsed();
        let reason = match result {
            Ok(Ok(Some(read))) => return Some(read),
            Ok(Ok(None)) => {
                self.is_over = true;
                return None;
            }
            Ok(Err(error)) => error.reason(),
            Err(panic) => format!("ends early: {panic}"),
        };
        self.is_over = true;
        self.set_damage(reason);
        None
    }

    /// Goes past frames of PCM without reading them. Returns how many.
    fn seek(&mut self, unneeded: u64) -> u64 {
        let is_within = self.span.is_none() && self.tail.held.is_empty() && self.ahead.is_empty();
        if unneeded < MIN_SEEK || !(self.may_skip && self.has_decoded && is_within) {
            return 0;
        }
        let frames = self.read(|packets| packets.skip(unneeded).map(Some)).unwrap_or(0);
        self.downmix.skip(frames, self.planes.rate);
        self.frames += frames;
        self.has_skipped |= frames > 0;
        frames
    }

    /// The frames of a packet that need not be decoded.
    fn unneeded_frames(&mut self, packet: &StreamPacket, unneeded: u64) -> Option<u64> {
        let is_trimmed = packet.trim_start > 0 || packet.trim_end > 0;
        if unneeded == 0
            || !(self.may_skip && self.has_decoded && self.tail.held.is_empty())
            || is_trimmed
        {
            return None;
        }
        let rate = self.planes.rate;
        let Some(frames) = self.codec.as_ref()?.frames(packet, rate) else {
            self.forbid_skipping();
            return None;
        };
        let kept = self.span.map_or(0..u64::MAX, |span| span.frames(rate));
        let is_kept = kept.start <= self.frames && self.frames + frames <= kept.end;
        (frames <= unneeded && is_kept).then_some(frames)
    }

    /// Leaves a packet out.
    fn leave_out(&mut self, packet: StreamPacket, frames: u64) {
        self.downmix.skip(frames, self.planes.rate);
        self.packets += 1;
        self.frames += frames;
        self.has_skipped = true;
        self.skipped.push_back(packet);
        while let Some(codec) = &self.codec
            && !self.skipped.is_empty()
            && codec.is_independent_of_first(&self.skipped)
        {
            self.skipped.pop_front();
            self.is_behind_gap = true;
        }
    }

    /// Brings the decoder to the state that it has behind the packets that were left out.
    fn catch_up(&mut self) {
        let Some(codec) = &mut self.codec else { return };
        if self.is_behind_gap {
            codec.restart();
            self.is_behind_gap = false;
        }
        for packet in self.skipped.drain(..) {
            // The first ones refer to packets that the decoder does not have.
            let _ = codec.decode(&packet, &mut self.planes);
        }
    }

    /// Opens the file that is joined on to the last one, if there is one.
    fn open_joined(&mut self) -> bool {
        let Some(end) = self.opened.end.take().filter(|&end| end < self.input.len()) else {
            return false;
        };
        let Ok(mut opened) = probing::open(&self.input, end) else { return false };
        // What is behind the last file may be anything; only the same kind of file counts.
        if opened.end.is_none_or(|next| next <= end) {
            return false;
        }
        let expected_s = self.opened.expected_s.zip(opened.expected_s).map(|(a, b)| a + b);
        (opened.expected_s, opened.album) = (expected_s, self.opened.album.take());
        if let Some(damage) = opened.damage.take() {
            self.set_damage(damage);
        }
        self.opened = opened;
        self.is_over = false;
        true
    }

    /// Begins a stream.
    fn begin(&mut self, stream: Stream) -> Result<()> {
        if Codec::needs_packets(&stream.parameters) {
            while self.ahead.len() < FIRST_PACKETS
                && let Some(step) = self.next_step_behind()
            {
                let is_packet = matches!(step, Step::Packet(_));
                self.ahead.push_back(step);
                if !is_packet {
                    break;
                }
            }
        }
        let first = self.ahead.iter().map_while(|step| match step {
            Step::Packet(packet) => Some(packet.data.as_ref()),
            Step::Stream(_) => None,
        });
        self.codec = Some(Codec::new(stream.parameters, first)?);
        self.span = stream.span;
        (self.packets, self.frames, self.has_decoded) = (0, 0, false);
        self.skipped.clear();
        self.is_behind_gap = false;
        self.tail = Tail::default();
        Ok(())
    }

    /// The next step behind those that were read ahead.
    fn next_step_behind(&mut self) -> Option<Step> {
        let ahead = std::mem::take(&mut self.ahead);
        let step = self.next_step();
        self.ahead = ahead;
        step
    }

    /// Decodes a packet into `block`, trimmed.
    fn decode_packet(&mut self, packet: &StreamPacket) {
        self.block.clear();
        self.catch_up();
        let Some(codec) = &mut self.codec else { return };
        self.packets += 1;
        if let Err(reason) = codec.decode(packet, &mut self.planes) {
            // A recording of a broadcast begins with frames that refer to missing ones.
            if !(codec.has_reservoir() && self.packets <= RESERVOIR_PACKETS) {
                self.set_damage(reason);
            }
            return;
        }
        let (has_finite, has_other) = self.planes.replace_not_finite();
        self.downmix.mix(&self.planes, &mut self.block);
        let (rate, len) = (f64::from(self.planes.rate), self.block.len() as u64);
        // A first packet may give less than it has; of any other, the header must be right.
        let is_as_stated = self.packets == 1
            || codec.frames(packet, self.planes.rate).is_none_or(|frames| frames == len);
        self.has_decoded |= len > 0;
        self.has_finite |= has_finite;
        if has_other {
            self.set_damage("a sample is NaN or infinite: it counts as 0".to_string());
        }
        if !is_as_stated || self.downmix.has_cancelled {
            self.may_skip = false;
        }
        let (mut trim_start, mut trim_end) = (packet.trim_start, packet.trim_end);
        if let Some(span) = self.span {
            let kept = span.frames(self.planes.rate);
            trim_start = trim_start.max(kept.start.saturating_sub(self.frames));
            trim_end = trim_end.max((self.frames + len).saturating_sub(kept.end));
        }
        self.frames += len;
        let end = len - trim_end.min(len);
        let start = trim_start.min(len);
        let held = self.block.split_off(end.max(start) as usize);
        self.block.drain(..start as usize);
        self.tail.push(&mut self.block, held, (MAX_TAIL_S * rate) as usize);
    }

    /// Keeps the first damage. A damaged file is decoded whole.
    fn set_damage(&mut self, damage: String) {
        self.forbid_skipping();
        self.damage.get_or_insert(damage);
    }

    /// Compares what was decoded with the file's header: less is damage, and nothing is an error.
    /// Sets the album and the damage. Returns whether all that should be decoded was.
    pub(super) fn finish(mut self, stats: &mut DecodeStats) -> Result<bool> {
        let decoded_s = stats.duration_s;
        if decoded_s == 0.0 {
            let reason = self.damage.as_deref().unwrap_or("the file has no samples");
            return Err(Error::audio(format!("no audio: {reason}")));
        }
        if !self.has_finite {
            return Err(Error::audio("no audio: every sample is too large or not finite"));
        }
        if let Some(expected_s) = self.opened.expected_s
            && decoded_s < expected_s - MAX_MISSING_S
        {
            self.set_damage(format!("{decoded_s:.1} s of {expected_s:.1} s could be decoded"));
        }
        let is_whole = !self.must_be_whole();
        (stats.album, stats.damage) = (self.opened.album, self.damage);
        Ok(is_whole)
    }
}

/// The end of a stream that its numbers leave out.
///
/// It is held back until the stream ends. If packets follow, or if it is too long, the numbers do not
/// agree with the packets: then it counts, and the numbers do not.
#[derive(Debug, Default)]
struct Tail {
    held: Vec<f32>,
    is_wrong: bool,
}

impl Tail {
    /// Puts what was held before `block` or behind it where it counts after all. `held` is the end of
    /// the block that is left out.
    fn push(&mut self, block: &mut Vec<f32>, held: Vec<f32>, limit: usize) {
        if !self.held.is_empty() && !block.is_empty() {
            self.is_wrong = true;
        }
        if self.is_wrong && !self.held.is_empty() {
            block.splice(..0, self.held.drain(..));
        }
        if !self.is_wrong {
            self.held.extend(held);
            if self.held.len() > limit {
                self.is_wrong = true;
                block.append(&mut self.held);
            }
        } else {
            block.extend(held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that cannot be read from `fails_at` on.
    struct FailingDisk {
        bytes: Cursor<Vec<u8>>,
        fails_at: u64,
    }

    impl std::io::Read for FailingDisk {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let left = self.fails_at.saturating_sub(self.bytes.position());
            if left == 0 {
                return Err(std::io::Error::from_raw_os_error(5));
            }
            let len = buffer.len().min(left as usize);
            self.bytes.read(&mut buffer[..len])
        }
    }

    impl std::io::Seek for FailingDisk {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.bytes.seek(to)
        }
    }

    #[test]
    fn an_error_of_the_disk_is_no_finding_about_the_file() {
        // Enough of each format that its reader goes on.
        let wav = [
            &b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0"[..],
            &44_100_u32.to_le_bytes(),
            &88_200_u32.to_le_bytes(),
            b"\x02\0\x10\0data\xff\xff\xff\xff",
            &[7; 1_000_000],
        ]
        .concat();
        let mp3 = [&b"\xff\xfb\x90\x64"[..], &[0; 413]].concat().repeat(2_000);
        let ogg = [&b"OggS\0\x02"[..], &[0; 1_000_000]].concat();
        let mp4 = [&b"\0\0\0\x10ftypM4A \0\0\0\0\0\x0f\0\0mdat"[..], &[0; 1_000_000]].concat();
        let flac = [&b"fLaC"[..], &[0; 1_000_000]].concat();
        for (name, bytes) in
            [("wav", wav), ("mp3", mp3), ("ogg", ogg), ("mp4", mp4), ("flac", flac)]
        {
            for fails_at in [0, 10, 300_000] {
                let len = bytes.len() as u64;
                let disk = FailingDisk { bytes: Cursor::new(bytes.clone()), fails_at };
                let error = Source::new(Input::new(Box::new(disk), len))
                    .and_then(|source| {
                        decode_blocks(source, &mut Samples::default(), &mut DecodeStats::default())
                    })
                    .unwrap_err();
                // Without an index or metadata, the rest is not read.
                let is_read = fails_at <= 10 || matches!(name, "wav" | "mp3");
                assert!(error.io_error().is_some() || !is_read, "{name}, {fails_at}: {error}");
            }
        }
    }

    fn kept(blocks: &[(usize, usize)]) -> usize {
        let mut tail = Tail::default();
        let mut kept = 0;
        for &(counts, left_out) in blocks {
            let mut block = vec![0.0; counts];
            tail.push(&mut block, vec![0.0; left_out], 100);
            kept += block.len();
        }
        kept
    }

    #[test]
    fn only_the_end_of_a_stream_is_left_out() {
        assert_eq!(kept(&[(10, 0), (4, 6)]), 14);
        assert_eq!(kept(&[(10, 0), (4, 6), (0, 10)]), 14);
        // Something follows.
        assert_eq!(kept(&[(10, 0), (4, 6), (10, 0), (3, 7)]), 40);
        // Too much is left out.
        assert_eq!(kept(&[(10, 50), (0, 60), (0, 60)]), 180);
    }
}
