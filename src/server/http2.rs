//! Watches the frames of an HTTP/2 connection, to know how much memory h2 uses for them.
//!
//! h2 limits the size of a header list, a frame and a table for each connection. The server limits their sum over all
//! connections, so it must know the sizes before a request is complete.

/// The connection preface (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;

const HEADERS: u8 = 0x1;
const SETTINGS: u8 = 0x4;
const CONTINUATION: u8 = 0x9;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The bytes of a setting: its identifier and its value (RFC 9113 section 6.5.1).
const SETTING_BYTES: usize = 6;
const INITIAL_WINDOW_SIZE: u16 = 0x4;

/// The first byte of a header block that empties the dynamic table: a size update to zero (RFC 7541 section 6.3).
///
/// The server announces a table of size zero, so a client must begin its next header block with it (RFC 7541
/// section 4.2). h2 does not enforce that. Until the client acknowledges the settings, h2 lets it enlarge the table again:
/// in the same block, in a later one, or in each CONTINUATION.
const EMPTY_TABLE: u8 = 0x20;

/// The start of a frame, up to the second byte of its header block, which may follow a padding length and a priority.
const BLOCK_START_BYTES: usize = 1 + 5 + 2;

/// What an incomplete header block may occupy: the encoded block of up to 16 KiB, and about 500 fields of 72 bytes.
const PARTIAL_BLOCK: usize = 52 * 1024;

/// What one entry of the dynamic table may keep alive: the buffer of the frame it arrived in.
const ENTRY_BUFFER: usize = 16 * 1024;

/// How many entries a dynamic table of 4096 bytes has at most (RFC 7541 section 4.1: each counts 32 bytes and its text).
const MAX_ENTRIES: usize = 124;

/// The buffer that each connection has for frames that arrive. It does not count as shared memory.
const OWN_BUFFER: usize = 8 * 1024;

/// Follows the frames of a connection.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a different state of the protocol"
)]
#[derive(Debug, Default)]
pub(super) struct FrameWatch {
    preface: usize,
    header: [u8; FRAME_HEADER_BYTES],
    header_length: usize,
    payload: usize,
    payload_length: usize,
    is_headers: bool,
    /// The first bytes of the payload of a HEADERS frame.
    start: [u8; BLOCK_START_BYTES],
    is_block_open: bool,
    /// Whether the client has acknowledged that the dynamic table has size zero.
    has_acknowledged: bool,
    is_table_empty: bool,
    blocks: usize,
    is_settings: bool,
    setting: [u8; SETTING_BYTES],
    /// The smallest window that the client has set for streams; `None`: it has set none.
    window: Option<u32>,
}

impl FrameWatch {
    /// Follows `bytes`, and returns how many bytes of memory h2 may now hold for the frames received.
    pub(super) fn watch(&mut self, mut bytes: &[u8]) -> usize {
        let preface = bytes.len().min(PREFACE_BYTES - self.preface);
        self.preface += preface;
        bytes = &bytes[preface..];
        while !bytes.is_empty() {
            if self.header_length < FRAME_HEADER_BYTES {
                self.header[self.header_length] = bytes[0];
                self.header_length += 1;
                bytes = &bytes[1..];
                if self.header_length == FRAME_HEADER_BYTES {
                    self.begin_frame();
                }
            } else {
                bytes = self.skip_payload(bytes);
            }
            if self.header_length == FRAME_HEADER_BYTES && self.payload == self.payload_length {
                self.header_length = 0;
            }
        }
        self.held()
    }

    /// Returns the smallest window that the client has ever set for streams.
    pub(super) fn window(&self) -> u32 {
        self.window.unwrap_or(u32::MAX)
    }

    fn begin_frame(&mut self) {
        let [a, b, c, kind, flags, ..] = self.header;
        self.payload = 0;
        self.payload_length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.is_headers = kind == HEADERS;
        self.is_settings = kind == SETTINGS;
        match kind {
            HEADERS => {
                self.is_block_open = flags & END_HEADERS == 0;
                self.blocks += 1;
                if self.is_block_open && !self.has_acknowledged {
                    self.is_table_empty = false;
                }
            }
            CONTINUATION if flags & END_HEADERS != 0 => self.is_block_open = false,
            SETTINGS if flags & ACK != 0 => self.has_acknowledged = true,
            _ => {}
        }
    }

    fn skip_payload<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let count = bytes.len().min(self.payload_length - self.payload);
        if self.is_headers {
            self.read_block_start(&bytes[..count]);
        }
        if self.is_settings {
            self.read_settings(&bytes[..count]);
        }
        self.payload += count;
        &bytes[count..]
    }

    /// Reads a part of the payload of a HEADERS frame.
    fn read_block_start(&mut self, bytes: &[u8]) {
        let start_length = self.payload_length.min(BLOCK_START_BYTES);
        if self.payload >= start_length {
            return;
        }
        let count = bytes.len().min(start_length - self.payload);
        let end = self.payload + count;
        self.start[self.payload..end].copy_from_slice(&bytes[..count]);
        if end < start_length {
            return;
        }
        let Some([first, second]) = self.block_start() else {
            return;
        };
        // The three highest bits of a size update.
        let is_update = |byte: u8| byte & 0xE0 == EMPTY_TABLE;
        let is_last = self.has_acknowledged || !(self.is_block_open || is_update(second));
        if first == EMPTY_TABLE && is_last {
            self.is_table_empty = true;
        } else if is_update(first) && !self.has_acknowledged {
            self.is_table_empty = false;
        }
    }

    /// Returns the first two bytes of the header block in the current frame, the second as zero if there is none; `None` if h2
    /// does not decode the block.
    fn block_start(&self) -> Option<[u8; 2]> {
        let [_, _, _, _, flags, stream @ ..] = self.header;
        let mut at = 0;
        let mut padding = 0;
        if flags & PADDED != 0 {
            padding = usize::from(self.start[0]);
            at = 1;
        }
        if flags & PRIORITY != 0 {
            let dependency = [0, 1, 2, 3].map(|index| self.start[at + index]);
            let id = |bytes| u32::from_be_bytes(bytes) & (u32::MAX >> 1);
            // h2 resets such a stream, but keeps the connection.
            if id(dependency) == id(stream) {
                return None;
            }
            at += 5;
        }
        let end = self.payload_length.saturating_sub(padding);
        (at < end).then(|| {
            let second = if at + 1 < end { self.start[at + 1] } else { 0 };
            [self.start[at], second]
        })
    }

    /// Reads a part of the payload of a SETTINGS frame.
    fn read_settings(&mut self, bytes: &[u8]) {
        for (at, byte) in (self.payload..).zip(bytes) {
            self.setting[at % SETTING_BYTES] = *byte;
            if (at + 1) % SETTING_BYTES == 0 {
                let [a, b, value @ ..] = self.setting;
                if u16::from_be_bytes([a, b]) == INITIAL_WINDOW_SIZE {
                    self.window = Some(self.window().min(u32::from_be_bytes(value)));
                }
            }
        }
    }

    fn held(&self) -> usize {
        let partial_frame = if self.header_length == FRAME_HEADER_BYTES {
            self.payload_length
        } else {
            0
        };
        let block = if self.is_block_open { PARTIAL_BLOCK } else { 0 };
        let table = if self.is_table_empty {
            0
        } else {
            self.blocks.min(MAX_ENTRIES) * ENTRY_BUFFER
        };
        (partial_frame + block + table).saturating_sub(OWN_BUFFER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("a short payload");
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    fn held_after(parts: &[&[u8]]) -> usize {
        let bytes = parts.concat();
        let whole = FrameWatch::default().watch(&bytes);
        // It makes no difference how the bytes arrive.
        let mut watch = FrameWatch::default();
        let mut last = 0;
        for byte in &bytes {
            last = watch.watch(std::slice::from_ref(byte));
        }
        assert_eq!(whole, last);
        whole
    }

    #[test]
    fn complete_frames_are_not_held() {
        let settings = frame(4, 0, &[]);
        let data = frame(0, 1, &[7; 16_384]);
        assert_eq!(held_after(&[PREFACE, &settings, &data, &data]), 0);
    }

    #[test]
    fn partial_frame_is_held() {
        let data = frame(0, 0, &[7; 16_384]);
        assert_eq!(held_after(&[PREFACE, &data[..20]]), 16_384 - OWN_BUFFER);
    }

    #[test]
    fn open_block_is_held_until_it_ends() {
        // A client that has acknowledged the settings can empty the table with an open block.
        let settings = frame(SETTINGS, ACK, &[]);
        let headers = frame(HEADERS, 0, &[EMPTY_TABLE, 0x82]);
        let middle = frame(CONTINUATION, 0, &[0x84]);
        let end = frame(CONTINUATION, END_HEADERS, &[0x86]);
        let open = PARTIAL_BLOCK - OWN_BUFFER;
        assert_eq!(held_after(&[PREFACE, &settings, &headers]), open);
        assert_eq!(held_after(&[PREFACE, &settings, &headers, &middle]), open);
        assert_eq!(
            held_after(&[PREFACE, &settings, &headers, &middle, &end]),
            0
        );
    }

    #[test]
    fn table_is_held_until_it_is_emptied() {
        let headers = frame(HEADERS, END_HEADERS, &[0x40, 1, b'a', 0]);
        let emptied = frame(HEADERS, END_HEADERS, &[EMPTY_TABLE, 0x82]);
        let padded = frame(
            HEADERS,
            END_HEADERS | PADDED | PRIORITY,
            &[1, 0, 0, 0, 9, 0, EMPTY_TABLE, 0x82, 0],
        );
        let one = ENTRY_BUFFER - OWN_BUFFER;
        assert_eq!(held_after(&[PREFACE, &headers]), one);
        assert_eq!(
            held_after(&[PREFACE, &headers, &headers]),
            one + ENTRY_BUFFER
        );
        assert_eq!(held_after(&[PREFACE, &headers, &emptied, &headers]), 0);
        assert_eq!(held_after(&[PREFACE, &padded, &headers]), 0);
    }

    #[test]
    fn table_that_can_be_enlarged_again_is_held() {
        const ENLARGED: [u8; 3] = [0x3F, 0xE1, 0x1F];
        let block = |flags: u8, block: &[u8]| frame(HEADERS, END_HEADERS | flags, block);
        let emptied = block(0, &[EMPTY_TABLE, 0x82]);
        let enlarged = block(0, &ENLARGED);
        let at_once = block(0, &[&[EMPTY_TABLE][..], &ENLARGED].concat());
        let open = frame(HEADERS, 0, &[EMPTY_TABLE]);
        let rest = frame(CONTINUATION, END_HEADERS, &ENLARGED);
        // Blocks that h2 does not decode: padding alone, and a stream that depends on itself.
        let padding = block(PADDED, &[2, EMPTY_TABLE, 0]);
        let itself = block(PRIORITY, &[0, 0, 0, 1, 0, EMPTY_TABLE, 0x82]);
        let acknowledged = frame(SETTINGS, ACK, &[]);
        let held = |blocks: usize| blocks * ENTRY_BUFFER - OWN_BUFFER;
        assert_eq!(held_after(&[PREFACE, &at_once]), held(1));
        assert_eq!(held_after(&[PREFACE, &emptied]), 0);
        assert_eq!(held_after(&[PREFACE, &emptied, &enlarged]), held(2));
        assert_eq!(held_after(&[PREFACE, &open, &rest]), held(1));
        assert_eq!(held_after(&[PREFACE, &emptied, &open, &rest]), held(2));
        assert_eq!(held_after(&[PREFACE, &acknowledged, &padding]), held(1));
        assert_eq!(held_after(&[PREFACE, &acknowledged, &itself]), held(1));
        assert_eq!(held_after(&[PREFACE, &acknowledged, &open, &rest]), 0);
        assert_eq!(
            held_after(&[PREFACE, &emptied, &acknowledged, &enlarged]),
            0
        );
    }

    #[test]
    fn smallest_window_counts() {
        let setting = |id: u8, value: u32| {
            let mut setting = vec![0, id];
            setting.extend(value.to_be_bytes());
            setting
        };
        let first = frame(SETTINGS, 0, &[setting(3, 7), setting(4, 70_000)].concat());
        let second = frame(SETTINGS, 0, &[setting(4, 5), setting(1, 0)].concat());
        let third = frame(SETTINGS, 0, &setting(4, 90_000));
        let mut watch = FrameWatch::default();
        watch.watch(&[PREFACE, &frame(0, 0, &setting(4, 1))].concat());
        assert_eq!(watch.window(), u32::MAX);
        for (bytes, window) in [(first, 70_000), (second, 5), (third, 5)] {
            for byte in bytes {
                watch.watch(&[byte]);
            }
            assert_eq!(watch.window(), window);
        }
    }
}
