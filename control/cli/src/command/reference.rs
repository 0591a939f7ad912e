//! `kiln reference`: what an image must yield, without booting it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use ed25519_dalek::SigningKey;
use kiln_attestor::site::{Site, provenance as site_provenance, read_key};
use kiln_formats::canonical;
use kiln_formats::digest::Sha256Digest;
use kiln_formats::image_provenance::VerifiedProvenance;
use kiln_formats::names::{BUILDER_FIRMWARE, PREDICATE_REFERENCE};
use kiln_formats::pcr::Bank;
use kiln_formats::prediction::{BootPath, Firmware, MachineDescription, Prediction, Predictions, SecureBoot, VERSION};
use kiln_formats::reference::Reference;
use kiln_formats::statement::{Statement, Subject};
use kiln_image::build::Published;
use kiln_image::provenance;
use kiln_image::reference::{self, Variables};

use crate::exit::{Exit, OrExit as _, Problem, Result};
use crate::image::{self, Uki};
use crate::output::Output;
use crate::{compared, document, host, published};

/// The largest description of a machine in bytes: it has some ten lines.
const MACHINE_BYTES_MAX: usize = 1 << 16;
/// The largest variable of Secure Boot in bytes.
const VARIABLE_BYTES_MAX: usize = 1 << 20;
/// The signed statements, in the directory that `--out` makes.
const STATEMENT: &str = "reference.intoto.json";
const PROVENANCE: &str = "provenance.intoto.json";

/// Compute what booting an image must leave in the TPM, from its bytes alone.
///
/// Any UKI that systemd-stub starts will do. PCR 2, 4, 7, 8, 9 and 11 to 14, each for every bank, with the events that lead to it;
/// or why it cannot be predicted. With a site: the document that `kiln verify` reads, with PCR 15, which holds the site's
/// configuration and trust bundle. docs/reference-values.md explains each register, machine descriptions, and publishing.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("signs").args(["sign", "save"]).multiple(true))]
#[command(after_help = "\
Examples:
  kiln reference kiln.efi
  kiln reference kiln.efi --secure-boot site/secure-boot --bank sha1 --bank sha256 --json
  kiln reference other.efi --machine laptop.toml --machine cloud.toml --json
  kiln reference kiln.efi --sign image.key --built image.json --out published
  kiln reference kiln.efi --site site > reference.json
  kiln reference kiln.efi --site site --save
  kiln reference kiln.efi --site site --save --built image.json
  kiln reference kiln.efi --site site --save --provenance published/provenance.intoto.json")]
pub(crate) struct ReferenceCommand {
    /// A unified kernel image (UKI)
    image: PathBuf,
    /// The site whose machines start it: print the document that `kiln verify` reads
    #[arg(long, value_name = "DIR", conflicts_with_all = ["machine", "secure_boot", "bank", "json", "sign"])]
    site: Option<PathBuf>,
    /// Add the values to the site and print the file's path
    #[arg(long, requires = "site")]
    save: bool,
    /// A description of a machine (TOML); without one, OVMF with the image on its disk
    #[arg(long, value_name = "FILE")]
    machine: Vec<PathBuf>,
    /// Secure Boot's variables (PK.esl, KEK.esl, db.esl, dbx.esl); without --machine it is on
    #[arg(long, value_name = "DIR")]
    secure_boot: Option<PathBuf>,
    /// A bank of the TPM, instead of those that the machine's description names
    #[arg(long, value_name = "BANK", value_parser = bank)]
    bank: Vec<Bank>,
    /// Which image of its producer it is: a trust list may say which is the least that counts
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    number: u64,
    /// Print the statement as JSON
    #[arg(long)]
    json: bool,
    /// Sign the statement with the key (PEM) of the image's producer
    #[arg(long, value_name = "KEY", requires = "out")]
    sign: Option<PathBuf>,
    /// What `kiln build image --json` printed of this image: sign its provenance as well; with --save, as the site's own producer,
    /// in the place of the one that the site has
    #[arg(long, value_name = "FILE", requires = "signs")]
    built: Option<PathBuf>,
    /// The provenance of this image, signed by a producer whom the site's policy names: add it to the site
    #[arg(long, value_name = "FILE", requires = "save", conflicts_with = "built")]
    provenance: Option<PathBuf>,
    /// The directory to make, for what is signed
    #[arg(long, value_name = "DIR", requires = "sign")]
    out: Option<PathBuf>,
}

fn bank(name: &str) -> std::result::Result<Bank, String> {
    let known = || Bank::ALL.map(Bank::name).join(", ");
    Bank::from_name(name).ok_or_else(|| format!("the banks are {}", known()))
}

impl ReferenceCommand {
    pub(crate) fn run(self) -> Result {
        match &self.site {
            Some(directory) => self.of_site(directory),
            None => self.of_machines(),
        }
    }

    /// The document of a site.
    fn of_site(&self, directory: &Path) -> Result {
        let uki = Uki::read(&self.image)?;
        let site = Site::open(directory, host::now()?).or_exit(Exit::Usage)?;
        let computed = site.reference(uki.sha256, uki.init_sha256, &uki.pcrs).or_exit(Exit::Infrastructure)?;
        let computed = Reference { number: self.number, ..computed };
        if self.save {
            self.save_provenance(&site, &uki.sha256)?;
            println!("{}", site.add_reference(&computed).or_exit(Exit::Usage)?.display());
            return Ok(Exit::Done);
        }
        // To the byte what a verifier reads: no line end.
        document::print_exact(&canonical::to_vec(&computed).or_exit(Exit::Infrastructure)?)?;
        Ok(Exit::Done)
    }

    /// Keeps whose word it is that made the image: the site's own, or that of whoever published it.
    fn save_provenance(&self, site: &Site, image: &Sha256Digest) -> Result<()> {
        let envelope = match (&self.built, &self.provenance) {
            (None, None) => return Ok(()),
            (Some(built), _) => {
                let key = site_provenance::producer(site).or_exit(Exit::Usage)?;
                let missing = || Problem::NoProducer { path: site.directory().to_owned() };
                let key = key.ok_or_else(missing).or_exit(Exit::Usage)?;
                let (described, _) = described(built, image)?;
                site_provenance::sign(&provenance::statement(&described), &key).or_exit(Exit::Infrastructure)?
            }
            (None, Some(published)) => document::read(published, site_provenance::PROVENANCE_BYTES_MAX)?,
        };
        let producers = &site.trust().policy.image_producers;
        VerifiedProvenance::check(&envelope, image, producers).or_exit(Exit::NotVerified)?;
        site_provenance::add(site.directory(), image, &envelope).or_exit(Exit::Usage)?;
        Ok(())
    }

    /// The statement for machines of any site.
    fn of_machines(&self) -> Result {
        let bytes = image::read_uki(&self.image)?;
        let variables = self.secure_boot.as_deref().map(read_variables).transpose()?.unwrap_or_default();
        let predict = |machine| reference::predict(&bytes, &machine, &variables).or_exit(Exit::Usage);
        let descriptions = self.machines()?;
        // The initrd is unpacked by another program: nothing waits for it that need not.
        let ((uki_sha256, init_sha256), machines) = std::thread::scope(|scope| {
            let others = scope.spawn(|| (Sha256Digest::of(&bytes), image::init_digest(&bytes)));
            let machines = descriptions.into_iter().map(predict).collect::<Result<Vec<_>>>();
            (others.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), machines)
        });
        let predicate =
            Predictions { version: VERSION, number: self.number, init_sha256: init_sha256?, machines: machines? };
        let name = self.image.file_name().unwrap_or(self.image.as_os_str()).to_string_lossy();
        let statement = Statement::new(PREDICATE_REFERENCE, vec![Subject::new(name, uki_sha256)], predicate);
        if let (Some(key), Some(out)) = (&self.sign, &self.out) {
            let output = Output::begin(out)?;
            let key = read_key(key).or_exit(Exit::Usage)?;
            document::write_new(&output.path().join(STATEMENT), &published::sign(&statement, &key)?)?;
            if let Some(built) = &self.built {
                self.sign_provenance(built, &bytes, &key, output.path())?;
            }
            println!("{}", output.release()?.display());
        } else if self.json {
            document::print_json(&statement)?;
        } else {
            document::print(text(&statement).trim_end().as_bytes())?;
        }
        Ok(Exit::Done)
    }

    /// Signs what the image was made from, and puts the description itself beside it: whoever builds it again compares with that.
    fn sign_provenance(&self, built: &Path, uki: &[u8], key: &SigningKey, out: &Path) -> Result<()> {
        let (described, description) = described(built, &Sha256Digest::of(uki))?;
        let statement = provenance::statement(&described);
        document::write_new(&out.join(PROVENANCE), &published::sign(&statement, key)?)?;
        document::write_new(&out.join(compared::DESCRIPTION), &description)
    }

    fn machines(&self) -> Result<Vec<MachineDescription>> {
        let mut machines = self.machine.iter().map(|path| read_machine(path)).collect::<Result<Vec<_>>>()?;
        if machines.is_empty() {
            let secure_boot = if self.secure_boot.is_some() { SecureBoot::On } else { SecureBoot::Off };
            let builder_id = Some(BUILDER_FIRMWARE.to_owned());
            machines.push(MachineDescription { builder_id, secure_boot, ..MachineDescription::default() });
        }
        if !self.bank.is_empty() {
            machines.iter_mut().for_each(|machine| machine.banks.clone_from(&self.bank));
        }
        Ok(machines)
    }
}

/// The description of this image, and its bytes.
fn described(built: &Path, image: &Sha256Digest) -> Result<(Published, Vec<u8>)> {
    let (described, description) = compared::description(built)?;
    if described.uki.sha256 != *image {
        return Err(Problem::OtherImage { path: built.to_owned() }).or_exit(Exit::Usage);
    }
    Ok((described, description))
}

fn read_machine(path: &Path) -> Result<MachineDescription> {
    let text = String::from_utf8(document::read(path, MACHINE_BYTES_MAX)?);
    let text = text.map_err(|_| Problem::NotText { path: path.to_owned() }).or_exit(Exit::Usage)?;
    toml::from_str(&text).map_err(|source| Problem::Description { path: path.to_owned(), source }).or_exit(Exit::Usage)
}

/// Reads `PK.esl` and the others; what is not there is empty. At least `db.esl` is there, or this is another directory.
fn read_variables(directory: &Path) -> Result<Variables> {
    let of = |name: &str| {
        let path = directory.join(format!("{name}.esl"));
        if name != "db" && !path.exists() { Ok(Vec::new()) } else { document::read(&path, VARIABLE_BYTES_MAX) }
    };
    let [pk, kek, db, dbx, dbt, dbr] = Variables::NAMES.map(of);
    Variables::new([pk?, kek?, db?, dbx?, dbt?, dbr?]).or_exit(Exit::Usage)
}

/// For a person: each register with its value in each bank, and what leads to it.
fn text(statement: &Statement<Predictions>) -> String {
    let mut text = String::new();
    for subject in &statement.subject {
        let _ = writeln!(text, "{}  {}", subject.digest.sha256, subject.name);
    }
    for prediction in &statement.predicate.machines {
        let _ = writeln!(text, "\n{}", heading(&prediction.machine));
        for (number, line) in lines(prediction) {
            let _ = writeln!(text, "PCR {number:<3} {line}");
        }
    }
    text
}

fn heading(machine: &MachineDescription) -> String {
    let firmware = match machine.firmware {
        Firmware::Edk2 => "EDK II firmware",
        Firmware::Gce => "Google Compute Engine",
    };
    let boot = match machine.boot {
        BootPath::Esp => "the image on its disk",
        BootPath::Kernel => "the image given by its monitor",
    };
    let secure_boot = match machine.secure_boot {
        SecureBoot::On => "Secure Boot on",
        SecureBoot::Off => "Secure Boot off",
        SecureBoot::Unsupported => "no Secure Boot",
    };
    format!("{firmware}, {boot}, {secure_boot}, profile {}", machine.profile)
}

/// The lines of each register, in the order of their numbers.
fn lines(prediction: &Prediction) -> Vec<(u8, String)> {
    let number = |text: &String| text.parse().unwrap_or_default();
    let mut lines = Vec::new();
    for (register, why) in &prediction.not_predicted {
        lines.push((number(register), format!("not predicted: {why}")));
    }
    for (register, expected) in &prediction.pcrs {
        for value in expected.values.iter() {
            lines.push((number(register), format!("{:<7} {value}", value.bank())));
        }
        let names: Vec<&str> = expected.events.iter().map(|event| event.name.as_str()).collect();
        let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        lines.push((number(register), format!("after   {names}")));
    }
    lines.sort_by_key(|(register, _)| *register);
    lines
}
