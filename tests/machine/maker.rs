//! A maker of TPMs that are devices, as far as these tests go: swtpm stands in for them, and their keys have certificates.

use std::fs;
use std::path::Path;
use std::process::Command;

use kiln_qemu::{Tools, TpmCa};

use crate::fixture::kiln;

pub(crate) fn tools() -> Tools {
    Tools::find(&std::env::var_os("PATH").unwrap()).unwrap()
}

/// The maker in `directory`, made when it is first asked for.
fn maker(directory: &Path) -> TpmCa {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(TpmCa::open_or_make(&directory.join("maker"), &tools())).unwrap()
}

/// Enrols the maker in `directory` as one of hardware: what a site must never do with a maker of programs.
pub(crate) fn enrol(directory: &Path, site: &Path) {
    let maker = maker(directory);
    let (root, issuer) = (maker.root_certificate(), maker.issuer_certificate());
    let enrol = ["attestor".as_ref(), "enrol".as_ref(), "--site".as_ref(), site.as_os_str()];
    let class = ["--class".as_ref(), "hardware".as_ref()];
    let certificates = ["--root".as_ref(), root.as_os_str(), "--issuer".as_ref(), issuer.as_os_str()];
    kiln(enrol.into_iter().chain(class).chain(certificates)).expect(0);
}

/// Makes a TPM, whose state is then `tpm` below `directory`.
pub(crate) fn manufacture(directory: &Path) {
    let (tools, _maker) = (tools(), maker(directory));
    let at = |name: &str| directory.join(name).display().to_string();
    let ca = at("maker");
    let write = |name: &str, text: &str| fs::write(directory.join(name), text).unwrap();
    write(
        "authority",
        &format!(
            "statedir = {ca}\nsigningkey = {ca}/signkey.pem\nissuercert = {ca}/issuercert.pem\ncertserial = {ca}/certserial\n"
        ),
    );
    write("options", "--platform-manufacturer Kiln\n--platform-version 1\n--platform-model test-server\n");
    let (tool, config, options) = (tools.swtpm_localca.display(), at("authority"), at("options"));
    write(
        "setup",
        &format!("create_certs_tool={tool}\ncreate_certs_tool_config={config}\ncreate_certs_tool_options={options}\n"),
    );
    fs::create_dir(directory.join("tpm")).unwrap();
    let made = Command::new(&tools.swtpm_setup)
        .args(["--tpm2", "--create-ek-cert", "--lock-nvram", "--pcr-banks", "sha256", "--tpmstate"])
        .arg(format!("dir://{}", at("tpm")))
        .args(["--config", &at("setup")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
