//! QEMU's monitor: lets the paused machine go, and tells why it stopped.
//!
//! Source: QEMU 7.2, `docs/interop/qmp-spec.txt` and `qapi/run-state.json`. Deliberately absent: every command but the two
//! that are needed.

use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// Replies and events that are read here are a few hundred bytes.
const MESSAGE_BYTES_MAX: u64 = 64 * 1024;
/// Events that may come before a reply.
const MESSAGES_BEFORE_REPLY_MAX: usize = 64;
/// QEMU answers from its main loop, at once unless the host is overloaded.
const REPLY_MAX: Duration = Duration::from_secs(20);

/// A connection to QEMU's monitor.
#[derive(Debug)]
pub(crate) struct Monitor {
    messages: BufReader<OwnedReadHalf>,
    commands: OwnedWriteHalf,
}

/// Why the machine stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Halt {
    /// The guest switched its power off.
    PoweredOff,
    /// The guest was reset: a kernel panic, a triple fault, a reboot.
    Reset,
    /// QEMU stopped the processors by itself: an internal error of the accelerator.
    Stopped,
    /// Somebody asked QEMU to end; its exit follows.
    Asked,
}

/// Why the monitor is of no use.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The connection failed.
    #[error("the connection to QEMU's monitor failed")]
    Connection {
        /// The system's reason.
        #[from]
        source: io::Error,
    },
    /// QEMU closed the connection.
    #[error("QEMU closed its monitor")]
    Closed,
    /// A message is not JSON, or longer than any that QEMU sends.
    #[error("QEMU's monitor sent no message of its protocol")]
    Message,
    /// QEMU refused a command.
    #[error("QEMU's monitor refused {command}")]
    Refused {
        /// The command.
        command: &'static str,
    },
    /// No reply came in time.
    #[error("QEMU's monitor did not reply to {command} within {} s", REPLY_MAX.as_secs())]
    Silent {
        /// The command.
        command: &'static str,
    },
}

impl Monitor {
    /// Takes QEMU's greeting on `stream` and turns events on.
    pub(crate) async fn greet(stream: UnixStream) -> Result<Monitor, MonitorError> {
        let (read, commands) = stream.into_split();
        let mut monitor = Monitor { messages: BufReader::new(read), commands };
        monitor.execute("qmp_capabilities").await?;
        Ok(monitor)
    }

    /// Starts the machine's processors.
    pub(crate) async fn power_on(&mut self) -> Result<(), MonitorError> {
        self.execute("cont").await
    }

    /// Waits until the machine stops.
    pub(crate) async fn until_halt(&mut self) -> Result<Halt, MonitorError> {
        loop {
            if let Some(halt) = halt(&self.message().await?) {
                return Ok(halt);
            }
        }
    }

    async fn execute(&mut self, command: &'static str) -> Result<(), MonitorError> {
        let reply = async {
            self.commands.write_all(format!("{{\"execute\":\"{command}\"}}\n").as_bytes()).await?;
            for _ in 0..MESSAGES_BEFORE_REPLY_MAX {
                let message = self.message().await?;
                if message.get("return").is_some() {
                    return Ok(());
                }
                if message.get("error").is_some() {
                    return Err(MonitorError::Refused { command });
                }
            }
            Err(MonitorError::Message)
        };
        timeout(REPLY_MAX, reply).await.unwrap_or(Err(MonitorError::Silent { command }))
    }

    async fn message(&mut self) -> Result<Value, MonitorError> {
        let mut line = Vec::new();
        (&mut self.messages).take(MESSAGE_BYTES_MAX).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Err(MonitorError::Closed);
        }
        serde_json::from_slice(&line).map_err(|_| MonitorError::Message)
    }
}

/// What an event says about the machine's end, if it is one of those that do.
fn halt(message: &Value) -> Option<Halt> {
    match message.get("event")?.as_str()? {
        "SHUTDOWN" => match message.pointer("/data/reason").and_then(Value::as_str) {
            Some("guest-shutdown") => Some(Halt::PoweredOff),
            Some("guest-reset" | "guest-panic" | "subsystem-reset") => Some(Halt::Reset),
            _ => Some(Halt::Asked),
        },
        "STOP" => Some(Halt::Stopped),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(event: &str) -> Option<Halt> {
        halt(&serde_json::from_str(event).unwrap())
    }

    #[test]
    fn only_a_power_off_by_the_guest_is_one() {
        let shutdown = |reason| read(&format!(r#"{{"event":"SHUTDOWN","data":{{"guest":true,"reason":"{reason}"}}}}"#));
        assert_eq!(shutdown("guest-shutdown"), Some(Halt::PoweredOff));
        assert_eq!(shutdown("guest-reset"), Some(Halt::Reset));
        assert_eq!(shutdown("guest-panic"), Some(Halt::Reset));
        assert_eq!(shutdown("host-signal"), Some(Halt::Asked));
        assert_eq!(read(r#"{"event":"STOP"}"#), Some(Halt::Stopped));
        assert_eq!(read(r#"{"event":"RESUME"}"#), None);
        assert_eq!(read(r#"{"return":{}}"#), None);
    }

    #[tokio::test]
    async fn a_monitor_that_closes_or_babbles_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(Monitor::greet(ours).await.is_err());
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"{\"QMP\":{}}\nnot json\n").await.unwrap();
        assert!(matches!(Monitor::greet(ours).await, Err(MonitorError::Message)));
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"{\"QMP\":{}}\n{\"error\":{}}\n").await.unwrap();
        assert!(matches!(Monitor::greet(ours).await, Err(MonitorError::Refused { .. })));
    }
}
