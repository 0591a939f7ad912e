//! `kiln bench`: sizes and times, beside the same QEMU booting the same kernel with a PID 1 that only powers off.

mod bare;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use kiln_attestor::site::{Names, PROFILES, Site};
use kiln_attestor::{Offer, Outcome};
use kiln_formats::names::{BUILDER_DIRECT, Name};
use kiln_image::{provenance, toolchain};
use serde::Serialize;

use super::keygen;
use super::run::disks;
use super::sign::{EXPIRES_IN_HOURS, sign};
use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::image::{self, Image};
use crate::order::{Acceleration, BootMode, Host, Order, Served, unless_interrupted};
use crate::screen::Screen;
use crate::timings::millis;
use crate::{compared, document, host, launch};

/// The smallest job: one step that makes an empty file.
const JOB: &str = include_str!("bench/touch.toml");
/// Memory of both machines in MiB. The kernel's table of pages alone takes a 64th of it, so more would blur what is measured.
const MEMORY_MIB: u32 = 512;
/// How long one machine may take.
const DEADLINE: Duration = Duration::from_secs(300);

/// Measure how fast and how small a machine is.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln bench boot
  kiln bench boot --runs 5 --json")]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Power-on to init, to attested, to the first step, to power-off; memory at idle; sizes
    Boot(BootBench),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln bench boot --runs 5 --json")]
struct BootBench {
    /// How often each machine is started; medians are told
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// How the processors are made
    #[arg(long, value_enum, default_value = "auto")]
    accel: Acceleration,
    /// Start the image that this file describes, as `kiln build image --json` prints it
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What was measured. Times are medians in milliseconds, under direct boot; sizes are in bytes.
#[derive(Debug, Serialize)]
struct Measured {
    accelerator: String,
    runs: u32,
    memory_mib: u32,
    uki_bytes: u64,
    kernel_bytes: u64,
    initrd_bytes: u64,
    init_bytes: u64,
    /// Ours, from power-on.
    kiln: Ours,
    /// The same QEMU, TPM and kernel with a PID 1 that only powers off.
    bare: Bare,
    /// Our time from the kernel's start to the first step, by the bare machine's time from power-on to power-off.
    first_step_to_bare_ratio: f64,
}

#[derive(Debug, Default, Serialize)]
struct Ours {
    kernel_ms: u64,
    init_ms: u64,
    attested_ms: u64,
    first_step_ms: u64,
    powered_off_ms: u64,
    kernel_to_first_step_ms: u64,
    /// Guest memory touched when attested, before there is a job.
    idle_guest_bytes: u64,
}

#[derive(Debug, Default, Serialize)]
struct Bare {
    powered_off_ms: u64,
    /// Guest memory touched at the end.
    guest_bytes: u64,
}

impl Bench {
    pub(crate) fn run(self, screen: &Screen) -> Result {
        let What::Boot(bench) = self.what;
        let measured = bench.measure(screen)?;
        if bench.json {
            document::print_json(&measured)?;
        } else {
            document::print(measured.text().as_bytes())?;
        }
        Ok(Exit::Done)
    }
}

impl BootBench {
    fn measure(&self, screen: &Screen) -> Result<Measured> {
        let mut image = Image::get(self.image.as_deref(), screen)?;
        let toolchain = image::in_workshop(screen, |shop| toolchain::build(shop, "c").or_exit(Exit::Infrastructure))?;
        let directory = tempfile::tempdir().or_exit(Exit::Infrastructure)?;
        let name = |text: &str| text.parse::<Name>().or_exit(Exit::Infrastructure);
        let path = directory.path().join("site");
        keygen::make(&path, &Names { site: name("bench")?, trust_domain: name("bench.example")? }, &PROFILES)?;
        let site = Site::open(&path, host::now()?).or_exit(Exit::Infrastructure)?;
        let draft = directory.path().join("touch.toml");
        document::write_new(&draft, JOB.replace("@ROOT_HASH@", &toolchain.root_hash.to_string()).as_bytes())?;
        let key = site.invoker_key().or_exit(Exit::Infrastructure)?;
        let offer = Offer::new(sign(&draft, &key, EXPIRES_IN_HOURS)?, &[].into()).or_exit(Exit::Infrastructure)?;
        if let Some(description) = &self.image {
            // The site is of this command's own making, and so is its producer.
            image.provenance = Some(provenance::statement(&compared::description(description)?.0));
        }
        let signer = site.signer(BUILDER_DIRECT, host::now()?).or_exit(Exit::Infrastructure)?;
        let launchable = match launch::admit(&site, &signer, &image, &directory.path().join("refused"), screen)? {
            Ok(launchable) => launchable,
            Err(refused) => return Err(refused.problem()).or_exit(Exit::ImageRefused),
        };
        let reference = image.reference(&site, screen)?;
        let order = Order {
            site: &site,
            signer: &signer,
            image: launchable,
            reference: &reference,
            offer: &offer,
            disks: disks(&offer, &[(toolchain.root_hash, toolchain.path)], screen)?,
            boot: BootMode::Direct,
            signed: None,
            acceleration: self.accel,
            memory_mib: MEMORY_MIB,
            deadline: DEADLINE,
            notices: None,
            host: None,
        };
        let initrd = directory.path().join("bare.cpio");
        std::fs::write(&initrd, bare::initrd()).or_exit(Exit::Infrastructure)?;
        let measured = unless_interrupted(self.start_all(&order, &image, initrd, directory.path(), screen));
        screen.clear();
        measured
    }

    async fn start_all(
        &self,
        order: &Order<'_>,
        image: &Image,
        initrd: PathBuf,
        directory: &std::path::Path,
        screen: &Screen,
    ) -> Result<Measured> {
        let host = Host::probe(self.accel, screen).await?;
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for run in 0..self.runs {
            let bundle = directory.join(format!("bundle-{run}"));
            std::fs::create_dir(&bundle).or_exit(Exit::Infrastructure)?;
            ours.push(timed(&order.serve(&host, &bundle, screen).await?)?);
            bare.push(bare::run(&host, order.site, image, initrd.clone()).await?);
        }
        let ours = Ours {
            kernel_ms: median(ours.iter().map(|ours| ours.kernel_ms)),
            init_ms: median(ours.iter().map(|ours| ours.init_ms)),
            attested_ms: median(ours.iter().map(|ours| ours.attested_ms)),
            first_step_ms: median(ours.iter().map(|ours| ours.first_step_ms)),
            powered_off_ms: median(ours.iter().map(|ours| ours.powered_off_ms)),
            kernel_to_first_step_ms: median(ours.iter().map(|ours| ours.kernel_to_first_step_ms)),
            idle_guest_bytes: median(ours.iter().map(|ours| ours.idle_guest_bytes)),
        };
        let bare = Bare {
            powered_off_ms: median(bare.iter().map(|bare| bare.powered_off_ms)),
            guest_bytes: median(bare.iter().map(|bare| bare.guest_bytes)),
        };
        Ok(Measured {
            accelerator: host.choice.to_string(),
            runs: self.runs,
            memory_mib: MEMORY_MIB,
            uki_bytes: image.uki.bytes,
            kernel_bytes: image.kernel.bytes,
            initrd_bytes: image.initrd.bytes,
            init_bytes: image.init.bytes,
            first_step_to_bare_ratio: ours.kernel_to_first_step_ms as f64 / bare.powered_off_ms.max(1) as f64,
            kiln: ours,
            bare,
        })
    }
}

/// One run of ours, which must have come to its end.
fn timed(served: &Served) -> Result<Ours> {
    let recorder = served.story.recorder();
    let since = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
        (Some(from), Some(to)) => Ok(millis(to.saturating_duration_since(from))),
        _ => Err(Problem::NotMeasured { outcome: format!("{:?}", served.outcome) }).or_exit(Exit::Infrastructure),
    };
    if !matches!(served.outcome, Outcome::Built) {
        since(None, None)?;
    }
    let on = Some(recorder.power_on());
    Ok(Ours {
        kernel_ms: since(on, recorder.kernel_start())?,
        init_ms: since(on, recorder.init_start())?,
        attested_ms: since(on, recorder.attested())?,
        first_step_ms: since(on, recorder.first_step())?,
        powered_off_ms: since(on, Some(served.off))?,
        kernel_to_first_step_ms: since(recorder.kernel_start(), recorder.first_step())?,
        idle_guest_bytes: served.story.idle_bytes().unwrap_or(0),
    })
}

/// The middle one, or the lower of the two in the middle.
fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

impl Measured {
    fn text(&self) -> String {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
        let seconds = |ms: u64| format!("{}.{:03} s", ms / 1000, ms % 1000);
        let rows = [
            ("accelerator", self.accelerator.clone()),
            ("UKI", mib(self.uki_bytes)),
            (
                "kernel / initrd / init",
                format!("{} / {} / {}", mib(self.kernel_bytes), mib(self.initrd_bytes), mib(self.init_bytes)),
            ),
            (
                "guest memory at idle / bare",
                format!("{} / {}", mib(self.kiln.idle_guest_bytes), mib(self.bare.guest_bytes)),
            ),
            ("power-on to kernel", seconds(self.kiln.kernel_ms)),
            ("power-on to init", seconds(self.kiln.init_ms)),
            ("power-on to attested", seconds(self.kiln.attested_ms)),
            ("power-on to first step", seconds(self.kiln.first_step_ms)),
            ("power-on to power-off", seconds(self.kiln.powered_off_ms)),
            ("bare: power-on to power-off", seconds(self.bare.powered_off_ms)),
            ("kernel to first step / bare", format!("{:.2}", self.first_step_to_bare_ratio)),
        ];
        rows.map(|(what, value)| format!("{what:<28} {value}")).join("\n")
    }
}
