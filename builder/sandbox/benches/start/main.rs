//! What a sandbox costs: the time from start to exit, teardown included, beside what people use today.
//!
//! `cargo bench -p kiln-sandbox -- [--json] [--check] [--quick] [--only WORDS] [--steps N] [--confine FILE] [--linux-sandbox FILE]`
//!
//! In reading order: a [`scene`] is one view for everybody, and the programs to run in it; the [`contenders`] start them, some
//! through a [`command`] line, we also through a resident launcher; [`facts`] are what the kernel says of a process inside each;
//! [`rounds`] takes the times, interleaved; [`growth`] runs thousands of steps and counts what stays behind; [`report`] prints a
//! table or JSON and says which targets hold. With `--check` a missed target makes the exit status 1.
//!
//! Needs root. Nothing but the kernel is needed for the no-op: a static build of this program runs in the appliance's kernel as
//! well. A contender that is not there is left out, with a word that says so. Run by `cargo test` it is short, and checks itself.
//! Deliberately absent: wall-clock limits on anything.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot be set up has nothing to say")]

mod command;
mod contenders;
mod facts;
mod growth;
mod options;
mod report;
mod rounds;
mod scene;

use std::collections::BTreeMap;

use contenders::Contenders;
use options::{Options, Part};
use report::Report;
use scene::{Payload, Scene};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // A program of its own that starts one step: what "cold" means.
    if let [word, scene, payload @ ..] = arguments.as_slice()
        && word == contenders::COLD
    {
        std::process::exit(contenders::cold(&Scene::at(scene.into()), payload));
    }
    if arguments.first().is_some_and(|word| word == contenders::FILTER) {
        return contenders::filter();
    }
    let options = Options::parse(&arguments);
    // Every layer is measured, the trace as well.
    let audit = kiln_sandbox::switch_audit_on().expect("audit (needs root in the initial namespaces)");
    // Launchers are forked before there is any other thread.
    let requirements = contenders::requirements();
    let scene = Scene::new();
    let contenders = Contenders::new(&options, &scene, &requirements);
    let report = measure(&options, &scene, &contenders);
    audit.restore().expect("audit as it was");
    println!("{}", if options.json { report.json() } else { report.table() });
    if options.check && !report.targets.iter().all(|target| target.met) {
        std::process::exit(1);
    }
}

fn measure(options: &Options, scene: &Scene, contenders: &Contenders) -> Report {
    let mut report = Report::new(contenders);
    report.facts = contenders.everyone().filter_map(|one| Some((one.name, facts::inside(one)?))).collect();
    let payloads = [Part::Noop, Part::Dynamic, Part::Compile].into_iter().filter(|part| options.has(*part));
    for payload in payloads.filter_map(|part| Payload::of(part, scene, options.source.as_deref())) {
        let chosen: Vec<_> = contenders.everyone().filter(|one| payload.suits(one.name)).collect();
        report.times.push((payload.name, rounds::interleave(&chosen, &payload, options.rounds(&payload))));
    }
    if options.has(Part::Filter) {
        let times = rounds::filter_installation(options.filter_runs());
        report.times.push(("system call filter, installation alone", BTreeMap::from([("kiln", times)])));
    }
    let noop = Payload::noop();
    if options.has(Part::Layers) {
        let chosen: Vec<_> = contenders.without_one_layer().collect();
        report.times.push(("no-op, one layer given up", rounds::interleave(&chosen, &noop, options.rounds(&noop))));
    }
    if options.has(Part::Together) {
        report.together = rounds::together(&contenders.everyone().collect::<Vec<_>>(), &noop, options.together_runs());
    }
    if options.has(Part::Growth) {
        report.growth = Some(growth::watch(contenders.warm(), &noop, options.steps()));
    }
    report.judge();
    report
}
