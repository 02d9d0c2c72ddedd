//! Writes the log without ever blocking the threads that log.

use std::{
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes of log lines that may wait to be written. Further lines are dropped and counted.
const MAX_QUEUED_BYTES: usize = 1024 * 1024;
/// A buffer that grew beyond this is released once it has been written.
const KEPT_BYTES: usize = 64 * 1024;

/// A queue of log lines, which a dedicated thread writes to an output. Clones share the queue.
///
/// If nobody reads the output, lines are dropped. Their count is logged when lines can be written again.
#[derive(Clone)]
pub(super) struct LogWriter(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    has_lines: Condvar,
    is_idle: Condvar,
}

#[derive(Default)]
struct State {
    queued: Vec<u8>,
    is_writing: bool,
    /// Since the start.
    dropped_lines: u64,
}

impl LogWriter {
    /// Starts the thread, which writes to `output`. A failing output is ignored: there is no other place to report it.
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            has_lines: Condvar::new(),
            is_idle: Condvar::new(),
        });
        let writer = Self(Arc::clone(&shared));
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.write_all_lines(output))?;
        Ok(writer)
    }

    /// Waits until all lines have been written, at most for `timeout`.
    pub(super) fn flush(&self, timeout: Duration) {
        let state = self.0.state();
        let _ = self.0.is_idle.wait_timeout_while(state, timeout, |state| {
            state.is_writing || !state.queued.is_empty()
        });
    }
}

impl LogWriter {
    /// Returns how many lines were dropped since the start.
    pub(super) fn dropped_lines(&self) -> u64 {
        self.0.state().dropped_lines
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all_lines(&self, mut output: impl Write) -> ! {
        let mut lines = Vec::new();
        let mut reported = 0;
        loop {
            let mut state = self.state();
            state.is_writing = false;
            while state.queued.is_empty() {
                self.is_idle.notify_all();
                state = self
                    .has_lines
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            mem::swap(&mut state.queued, &mut lines);
            state.is_writing = true;
            let dropped_lines = state.dropped_lines - reported;
            reported = state.dropped_lines;
            drop(state);
            if dropped_lines > 0 {
                // Enqueued like any other line: there is room now.
                tracing::warn!(
                    event = "log_lines_dropped",
                    lines = dropped_lines,
                    "dropped log lines, because the log was not read fast enough"
                );
            }
            let _ = output.write_all(&lines).and_then(|()| output.flush());
            lines.clear();
            if lines.capacity() > KEPT_BYTES {
                lines = Vec::new();
            }
        }
    }
}

impl Write for LogWriter {
    /// Enqueues a whole line, or drops it. Never fails and never waits for the output.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state();
        if state.queued.len() + line.len() > MAX_QUEUED_BYTES {
            state.dropped_lines += 1;
        } else {
            state.queued.extend_from_slice(line);
            self.0.has_lines.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};

    use super::*;

    #[test]
    fn unread_output_blocks_nobody_and_lines_stay_whole() {
        let (reader, pipe) = io::pipe().unwrap();
        let mut writer = LogWriter::start(pipe).unwrap();
        // Far more than the pipe and the queue can hold, while nobody reads.
        let line = [&[b'x'; 99][..], b"\n"].concat();
        let lines = 4 * MAX_QUEUED_BYTES / line.len();
        for _ in 0..lines {
            writer.write_all(&line).unwrap();
        }
        let dropped = writer.0.state().dropped_lines;
        assert!(dropped > 0);
        let mut reader = BufReader::new(reader);
        let mut read = Vec::new();
        for _ in 0..lines as u64 - dropped {
            read.clear();
            reader.read_until(b'\n', &mut read).unwrap();
            assert_eq!(read, line);
        }
        // There is room again.
        writer.write_all(b"last\n").unwrap();
        let mut last = [0; 5];
        reader.read_exact(&mut last).unwrap();
        assert_eq!(&last, b"last\n");
    }

    #[test]
    fn flush_waits_for_written_lines_and_gives_up_on_unread_ones() {
        let (mut reader, pipe) = io::pipe().unwrap();
        let mut writer = LogWriter::start(pipe).unwrap();
        writer.write_all(b"line\n").unwrap();
        writer.flush(Duration::MAX);
        let mut line = [0; 5];
        reader.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"line\n");
        writer.write_all(&vec![b'x'; MAX_QUEUED_BYTES]).unwrap();
        writer.flush(Duration::from_millis(1));
    }

    #[test]
    fn closed_output_is_ignored() {
        let (reader, pipe) = io::pipe().unwrap();
        drop(reader);
        let mut writer = LogWriter::start(pipe).unwrap();
        for _ in 0..3 {
            writer.write_all(b"line\n").unwrap();
            writer.flush(Duration::MAX);
        }
    }
}
