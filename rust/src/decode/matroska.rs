//! Matroska and WebM files with a structure that is right (RFC 8794 and RFC 9559).
//!
//! symphonia's reader takes the end of a segment of unknown size, as recorders and pipes write it, and
//! zeros behind a segment for errors, and stops at the first bytes that are no element. It gets the
//! elements that it needs, in a segment of the right size: those that describe the audio, and each
//! cluster up to the first bytes in it that are no element. The next cluster is then sought.

use super::chunks::CUT;
use super::frames::end_without_tags;
use super::input::{Input, Part, Window};

const EBML: u32 = 0x1a45_dfa3;
const SEGMENT: u32 = 0x1853_8067;
const CLUSTER: u32 = 0x1f43_b675;
const TIMESTAMP: u32 = 0xe7;

/// Info, Tracks and Tags.
const DESCRIPTIONS: [u32; 3] = [0x1549_a966, 0x1654_ae6b, 0x1254_c367];

/// Children of a segment: the descriptions, Cluster, SeekHead, Cues, Attachments, Chapters, Void and
/// CRC-32.
const TOP: [u32; 10] = [
    DESCRIPTIONS[0],
    DESCRIPTIONS[1],
    DESCRIPTIONS[2],
    CLUSTER,
    0x114d_9b74,
    0x1c53_bb6b,
    0x1941_a469,
    0x1043_a770,
    0xec,
    0xbf,
];

/// Children of a cluster: Timestamp, SilentTracks, Position, PrevSize, SimpleBlock, BlockGroup,
/// EncryptedBlock, Void and CRC-32.
const IN_CLUSTER: [u32; 9] = [TIMESTAMP, 0x5854, 0xa7, 0xab, 0xa3, 0xa0, 0xaf, 0xec, 0xbf];

/// Cues without content. They end a last cluster of unknown size, which the end of the segment does
/// not for symphonia.
const EMPTY_CUES: [u8; 5] = [0x1c, 0x53, 0xbb, 0x6b, 0x80];

/// A Matroska file as it should be.
pub(super) struct Matroska {
    pub(super) parts: Vec<Part>,
    pub(super) damage: Option<String>,
    /// Where the file ends, and another one may be joined on.
    pub(super) end: u64,
}

/// The header of an element.
struct Element {
    id: u32,
    /// Where its content begins.
    content: u64,
    /// Where it ends; none if its size is unknown.
    end: Option<u64>,
}

impl Element {
    fn read(window: &mut Window, at: u64) -> Option<Self> {
        let head = window.bytes(at, 12);
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
        let id_len = head.first()?.leading_zeros() as usize + 1;
        let size_len = head.get(id_len)?.leading_zeros() as usize + 1;
        if id_len > 4 || size_len > 8 {
            return None;
        }
        let len = id_len + size_len;
        let id = number(head.get(..id_len)?) as u32;
        let unknown = (1 << (7 * size_len)) - 1;
        let size = number(head.get(id_len..len)?) & unknown;
        let content = at + len as u64;
        Some(Self { id, content, end: (size != unknown).then(|| content.saturating_add(size)) })
    }

    /// Where the element ends, if it is one of these, or a new one with one of these behind it, and
    /// ends before `limit`.
    fn end_within(&self, window: &mut Window, ids: &[u32], limit: u64) -> Option<u64> {
        let end = self.end.filter(|&end| end <= limit)?;
        let is_known = ids.contains(&self.id)
            || end == limit
            || Self::read(window, end).is_some_and(|next| ids.contains(&next.id));
        is_known.then_some(end)
    }
}

/// Reads the file whose header is at `start`; none if there is none.
pub(super) fn repaired(input: &Input, start: u64) -> Option<Matroska> {
    let mut window = Window::new(input.clone());
    let header = Element::read(&mut window, start).filter(|element| element.id == EBML)?;
    let header_end = header.end?;
    let segment = Element::read(&mut window, header_end).filter(|found| found.id == SEGMENT)?;
    let end = segment.end.unwrap_or_else(|| end_without_tags(input, start)).min(input.len());
    let mut damage = segment.end.filter(|&stated| stated > end).map(|_| CUT.to_string());

    let (mut descriptions, mut clusters) = (Vec::new(), Vec::new());
    let mut at = segment.content;
    while at < end {
        let element = Element::read(&mut window, at);
        if let Some(element) = &element {
            if element.id == EBML {
                break;
            }
            if element.id == CLUSTER {
                let limit = element.end.unwrap_or(end).min(end);
                let to = end_of_children(&mut window, element.content, limit);
                if element.end.is_none_or(|stated| stated == to) {
                    push_range(&mut clusters, at, to);
                } else {
                    let mut cluster = CLUSTER.to_be_bytes().to_vec();
                    cluster.extend(size_bytes(to - element.content));
                    clusters.push(Part::Bytes(cluster));
                    push_range(&mut clusters, element.content, to);
                    damage.get_or_insert_with(|| "a cluster has bytes that cannot be read".into());
                }
                at = to;
                continue;
            }
            if let Some(to) = element.end_within(&mut window, &TOP, end) {
                if DESCRIPTIONS.contains(&element.id) {
                    push_range(&mut descriptions, at, to);
                }
                at = to;
                continue;
            }
        }
        let next = next_cluster(&mut window, at + 1, end);
        // Behind a segment of unknown size, zeros are padding.
        let is_padding =
            segment.end.is_none() && next == end && (at..end).all(|at| window.bytes(at, 1) == [0]);
        if !is_padding {
            let what = format!("{} bytes are no part of a Matroska file", next - at);
            let is_cut = element.and_then(|element| element.end).is_some_and(|stated| stated > end);
            damage.get_or_insert(if is_cut { CUT.to_string() } else { what });
        }
        at = next;
    }

    let body: u64 = descriptions.iter().chain(&clusters).map(Part::len).sum();
    let mut segment_header = SEGMENT.to_be_bytes().to_vec();
    segment_header.extend(size_bytes(body + EMPTY_CUES.len() as u64));
    let mut parts = vec![Part::Range(start, header_end - start), Part::Bytes(segment_header)];
    parts.extend(descriptions);
    parts.extend(clusters);
    parts.push(Part::Bytes(EMPTY_CUES.to_vec()));
    Some(Matroska { parts, damage, end: at })
}

/// Where the children of a cluster end: at `limit`, or at the first bytes that are none.
fn end_of_children(window: &mut Window, mut at: u64, limit: u64) -> u64 {
    while at < limit
        && let Some(child) = Element::read(window, at)
        && !TOP[..4].contains(&child.id)
        && let Some(end) = child.end_within(window, &IN_CLUSTER, limit)
    {
        at = end;
    }
    at
}

/// Where the next cluster begins, or `end`.
fn next_cluster(window: &mut Window, mut at: u64, end: u64) -> u64 {
    while at < end {
        if window.bytes(at, 4) == CLUSTER.to_be_bytes()
            && let Some(cluster) = Element::read(window, at)
            && Element::read(window, cluster.content)
                .is_some_and(|child| IN_CLUSTER.contains(&child.id))
        {
            return at;
        }
        at += 1;
    }
    end
}

/// A size of an element, in eight bytes.
fn size_bytes(size: u64) -> [u8; 8] {
    (1 << 56 | size).to_be_bytes()
}

/// Adds a range of the file, or makes the last one longer.
fn push_range(parts: &mut Vec<Part>, from: u64, to: u64) {
    match parts.last_mut() {
        Some(Part::Range(start, len)) if *start + *len == from => *len += to - from,
        _ => parts.push(Part::Range(from, to - from)),
    }
}
