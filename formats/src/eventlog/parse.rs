//! The walk over a log's bytes: little-endian fields, every size held against what is left of the input.
//!
//! The same [`read_event`] serves the first, checking walk and every later one, so that both agree about where events are.

use super::cursor::Cursor;
use super::replay::{self, Locality};
use super::{ALGORITHMS_MAX, Algorithm, EVENTS_MAX, Event, EventLog, EventLogError, EventType, LOG_BYTES_MAX, Layout};
use crate::pcr::Bank;

/// What the first event's data starts with in a crypto-agile log.
///
/// Source: TCG PC Client Platform Firmware Profile 1.06, section 10.4.5.1.
const SPEC_ID_03: &[u8; 16] = b"Spec ID Event03\0";

/// More distinct algorithms than one event can have: those of the header and the known banks.
const DISTINCT_MAX: usize = ALGORITHMS_MAX + Bank::ALL.len();

/// What the log of a TPM 1.2's dynamic launch starts with. Source: Intel TXT MLE Developer's Guide, appendix F.
const TXT_CONTAINER: &[u8; 20] = b"TXT Event Container\0";

/// The records of a dynamic launch's container: SHA-1 events between two offsets that its header gives. Other bytes are as they are.
fn contained(bytes: &[u8]) -> Result<&[u8], EventLogError> {
    let mut cursor = Cursor { bytes };
    if cursor.take(TXT_CONTAINER.len()) != Some(TXT_CONTAINER) {
        return Ok(bytes);
    }
    let mut read = || {
        cursor.take(12 + 4 + 4)?; // reserved, the versions of container and records, the container's size
        let (first, next) = (usize::try_from(cursor.u32()?).ok()?, usize::try_from(cursor.u32()?).ok()?);
        bytes.get(first..next)
    };
    read().ok_or(EventLogError::MalformedHeader)
}

/// See [`EventLog::parse`].
pub(super) fn parse(bytes: &[u8]) -> Result<EventLog<'_>, EventLogError> {
    if bytes.len() > LOG_BYTES_MAX {
        return Err(EventLogError::TooLarge { bytes: bytes.len() });
    }
    let bytes = contained(bytes)?;
    let padding_start = padding_start(bytes);
    if padding_start == 0 {
        return Err(EventLogError::Empty);
    }
    let (first, first_bytes) =
        read_event(bytes, 0, Layout::Sha1, &[]).map_err(|error| headless(bytes).unwrap_or(error))?;
    let is_agile = first.event_type == EventType::NO_ACTION && first.data.starts_with(SPEC_ID_03);
    let header = is_agile.then_some(first.data);
    let (layout, body_offset) = if header.is_some() { (Layout::CryptoAgile, first_bytes) } else { (Layout::Sha1, 0) };
    let algorithms = match header {
        Some(data) => algorithms(data)?,
        None => vec![Algorithm { id: Bank::Sha1.algorithm(), digest_bytes: 20 }],
    };

    // Padding starts at an event's end or inside the last event, whose own data may look like it.
    let mut offset = body_offset;
    let (mut event_count, mut locality) = (0, None::<Locality>);
    while offset < padding_start {
        let (event, event_bytes) = read_event(bytes, offset, layout, &algorithms)?;
        let word = replay::locality(event.event_type, event.register, event.data);
        locality = locality.into_iter().chain(word).reduce(Locality::and);
        offset += event_bytes;
        event_count += 1;
        if event_count > EVENTS_MAX {
            return Err(EventLogError::TooManyEvents);
        }
    }
    let body = bytes.get(body_offset..offset).unwrap_or_default();
    let padding_bytes = bytes.len() - offset;
    Ok(EventLog { layout, algorithms, header, body, body_offset, padding_bytes, event_count, locality })
}

/// What is wrong with a log that does not start as one: it may be the rest of a crypto-agile one.
fn headless(bytes: &[u8]) -> Option<EventLogError> {
    let (event, _) = read_event(bytes, 0, Layout::CryptoAgile, &[]).ok()?;
    event.raw_digests().next().map(|_| EventLogError::HeaderMissing)
}

/// Where the run of equal padding bytes at the input's end starts; the input's length if it ends in neither `0x00` nor `0xff`.
fn padding_start(bytes: &[u8]) -> usize {
    /// A trust domain's log is a megabyte of padding: whole blocks of it are compared at once.
    const BLOCK_BYTES: usize = 256;
    let Some(pad @ (0x00 | 0xff)) = bytes.last().copied() else { return bytes.len() };
    let is_padding = |block: &&[u8]| block.iter().fold(true, |all, byte| all & (*byte == pad));
    let blocks = bytes.rchunks_exact(BLOCK_BYTES).take_while(is_padding).count();
    let rest = bytes.get(..bytes.len().saturating_sub(blocks.saturating_mul(BLOCK_BYTES))).unwrap_or_default();
    rest.iter().rposition(|byte| *byte != pad).map_or(0, |last| last.saturating_add(1))
}

/// The algorithms that the `Spec ID Event03` header declares.
fn algorithms(header: &[u8]) -> Result<Vec<Algorithm>, EventLogError> {
    let mut cursor = Cursor { bytes: header };
    let mut read = || {
        cursor.take(SPEC_ID_03.len() + 8)?; // signature, platform class, version, size of UINTN
        let count = usize::try_from(cursor.u32()?).ok().filter(|count| (1..=ALGORITHMS_MAX).contains(count))?;
        let algorithms = (0..count)
            .map(|_| Some(Algorithm { id: cursor.u16()?, digest_bytes: cursor.u16()? }))
            .collect::<Option<Vec<_>>>()?;
        // Some firmware leaves the vendor's field out; where it is, it must fit.
        if let Some(vendor_bytes) = cursor.u8() {
            cursor.take(usize::from(vendor_bytes))?;
        }
        Some(algorithms)
    };
    let algorithms = read().ok_or(EventLogError::MalformedHeader)?;
    let repeated = |i: usize, id: u16| algorithms.iter().take(i).any(|other| other.id == id);
    let sound = |(i, algorithm): (usize, &Algorithm)| {
        let size_known =
            Bank::from_algorithm(algorithm.id).is_none_or(|b| b.digest_bytes() == usize::from(algorithm.digest_bytes));
        size_known && algorithm.digest_bytes > 0 && !repeated(i, algorithm.id)
    };
    if algorithms.iter().enumerate().all(sound) { Ok(algorithms) } else { Err(EventLogError::MalformedHeader) }
}

/// Bytes of a digest of `algorithm`: as the header says, else as we know.
fn digest_bytes(algorithms: &[Algorithm], algorithm: u16) -> Option<usize> {
    let declared = algorithms.iter().find(|a| a.id == algorithm).map(|a| usize::from(a.digest_bytes));
    declared.or_else(|| Bank::from_algorithm(algorithm).map(Bank::digest_bytes))
}

/// Reads the event that starts at `offset` and says how many bytes it takes.
pub(super) fn read_event<'a>(
    bytes: &'a [u8],
    offset: usize,
    layout: Layout,
    algorithms: &'a [Algorithm],
) -> Result<(Event<'a>, usize), EventLogError> {
    let truncated = EventLogError::Truncated { offset };
    let rest = bytes.get(offset..).ok_or(truncated)?;
    let mut cursor = Cursor { bytes: rest };
    let register = cursor.u32().ok_or(truncated)?;
    let event_type = EventType(cursor.u32().ok_or(truncated)?);
    let raw_digests = match layout {
        Layout::Sha1 => cursor.take(Bank::Sha1.digest_bytes()).ok_or(truncated)?,
        Layout::CryptoAgile => skip_digests(&mut cursor, offset, algorithms)?,
    };
    let data = cursor.sized().ok_or(truncated)?;
    let event = Event { offset, register, event_type, data, raw_digests, layout, algorithms };
    if event.event_type != EventType::NO_ACTION && event.extends().is_none() {
        return Err(EventLogError::UnknownRegister { offset, register });
    }
    Ok((event, rest.len() - cursor.bytes.len()))
}

/// Walks a `TPML_DIGEST_VALUES` and yields the bytes behind its count.
fn skip_digests<'a>(
    cursor: &mut Cursor<'a>,
    offset: usize,
    algorithms: &[Algorithm],
) -> Result<&'a [u8], EventLogError> {
    let truncated = EventLogError::Truncated { offset };
    let count = cursor.u32().ok_or(truncated)?;
    let start = cursor.bytes;
    let mut seen = [0; DISTINCT_MAX];
    // The count is hostile; distinct algorithms of known size end the loop long before it does.
    for n in 0..usize::try_from(count).unwrap_or(usize::MAX) {
        let algorithm = cursor.u16().ok_or(truncated)?;
        if seen.iter().take(n).any(|other| *other == algorithm) {
            return Err(EventLogError::RepeatedAlgorithm { offset, algorithm });
        }
        let size = digest_bytes(algorithms, algorithm).ok_or(EventLogError::UnknownAlgorithm { offset, algorithm })?;
        cursor.take(size).ok_or(truncated)?;
        *seen.get_mut(n).ok_or(EventLogError::RepeatedAlgorithm { offset, algorithm })? = algorithm;
    }
    Ok(start.get(..start.len() - cursor.bytes.len()).unwrap_or_default())
}

/// The digests of one event, each with its algorithm.
pub(super) fn digests<'a>(
    layout: Layout,
    algorithms: &'a [Algorithm],
    raw: &'a [u8],
) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
    let mut cursor = Cursor { bytes: raw };
    std::iter::from_fn(move || {
        let algorithm = match layout {
            Layout::Sha1 => Bank::Sha1.algorithm(),
            Layout::CryptoAgile => cursor.u16()?,
        };
        Some((algorithm, cursor.take(digest_bytes(algorithms, algorithm)?)?))
    })
}

/// The events of a log, in order.
#[derive(Debug, Clone)]
pub struct Events<'a> {
    log: &'a EventLog<'a>,
    offset: usize,
}

impl<'a> Events<'a> {
    pub(super) fn new(log: &'a EventLog<'a>) -> Self {
        Self { log, offset: 0 }
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        let log = self.log;
        if self.offset >= log.body.len() {
            return None;
        }
        let (mut event, event_bytes) = read_event(log.body, self.offset, log.layout, &log.algorithms).ok()?;
        event.offset += log.body_offset;
        self.offset += event_bytes;
        Some(event)
    }
}
