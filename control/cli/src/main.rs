//! `kiln`: what a person types.
//!
//! In reading order: [`command`] has one file for each command, which says what the command does and does it with the libraries;
//! [`exit`] is what the process answers to its caller; [`screen`] is what a person sees meanwhile. Results go to standard output,
//! everything else to standard error. Deliberately absent: anything that decides. The libraries do.

#![forbid(unsafe_code)]

mod command;
mod compared;
mod document;
mod ended;
mod evidence;
mod exit;
mod host;
mod image;
mod launch;
mod lines;
mod notices;
mod order;
mod output;
mod published;
mod screen;
mod signed;
mod site_host;
mod timings;
mod verdict;
mod zlib;

use std::process::ExitCode;

use clap::Parser as _;
use tracing_subscriber::EnvFilter;

use crate::command::Kiln;
use crate::screen::Screen;

fn main() -> ExitCode {
    let kiln = Kiln::parse();
    let service = kiln.is_service();
    let quiet = if service { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env("KILN_LOG").unwrap_or_else(|_| EnvFilter::new(quiet));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if service {
        log.json().flatten_event(true).init()
    } else {
        log.init()
    }
    let screen = Screen::new();
    match kiln.run(&screen) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            screen.clear();
            eprintln!("{:?}", failure.report);
            failure.exit.into()
        }
    }
}
