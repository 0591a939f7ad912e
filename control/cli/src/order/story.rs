//! What happens while a machine is served, told to a person and noted for the table.

use std::time::Instant;

use kiln_attestor::Report;
use kiln_formats::decision::Ruling;
use kiln_formats::names::Name;
use kiln_formats::record::StepRecord;
use kiln_image::progress::Progress as _;

use crate::ended;
use crate::lines::{Lines, Style};
use crate::screen::Screen;
use crate::timings::Recorder;

/// The story so far.
#[derive(Debug)]
pub(crate) struct Story {
    recorder: Recorder,
    build_id: Option<Name>,
    log: Option<Lines>,
    idle_bytes: Option<u64>,
    connected: bool,
    emitting: bool,
}

impl Story {
    /// Begins at power-on.
    pub(crate) fn new(power_on: Instant) -> Self {
        Self {
            recorder: Recorder::new(power_on),
            build_id: None,
            log: None,
            idle_bytes: None,
            connected: false,
            emitting: false,
        }
    }

    /// The times.
    pub(crate) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The build, once the machine was attested.
    pub(crate) fn build_id(&self) -> Option<&Name> {
        self.build_id.as_ref()
    }

    /// How much memory the guest had touched when it was attested and had no job yet.
    pub(crate) fn idle_bytes(&self) -> Option<u64> {
        self.idle_bytes
    }

    /// Whether the machine ever asked for anything.
    pub(crate) fn connected(&self) -> bool {
        self.connected
    }

    /// Takes note, and tells the person. `memory` says how much memory the guest has touched.
    pub(crate) fn hear(&mut self, report: &Report<'_>, screen: &Screen, memory: impl Fn() -> Option<u64>) {
        self.recorder.hear(report, Instant::now());
        match report {
            Report::Connected => {
                self.connected = true;
                screen.begin("attest");
            }
            Report::Attested { build_id, .. } => {
                self.build_id = Some((*build_id).clone());
                self.idle_bytes = memory();
                screen.say(&format!("kiln: attested; build {build_id}"));
                screen.begin("admit");
            }
            Report::Decided(decision) => {
                screen.say(&match &decision.content.verdict {
                    Ruling::Allow => "kiln: the machine admits the job".to_owned(),
                    Ruling::Deny(refusal) => format!("kiln: the machine refuses the job: {refusal}"),
                });
            }
            Report::StepBegun(step) => {
                screen.begin(&format!("step {step}"));
                let style = Style { columns: screen.columns(), times: false, live: true };
                self.log = Some(Lines::new((*step).clone(), style));
            }
            Report::StepWrote(_, frame) => {
                if let Some(log) = &mut self.log {
                    log.take(frame).iter().for_each(|row| screen.say(&log.show(row)));
                }
            }
            Report::StepEnded(_) => {
                if let Some(mut log) = self.log.take() {
                    log.finish().iter().for_each(|row| screen.say(&log.show(row)));
                }
            }
            Report::StepRecorded(record) => {
                let StepRecord { step, exit, usage, .. } = &record.content;
                screen.say(&format!("kiln: step {step}: {}; {}", ended::how(exit), ended::took(usage)));
            }
            Report::JobTaken | Report::InputTaken { .. } | Report::StepTraced(..) => {}
            Report::FileTaken { path, .. } => {
                if !std::mem::replace(&mut self.emitting, true) {
                    screen.begin("emit");
                }
                screen.line(path);
            }
        }
    }
}
