//! Links the transport to the TPM device into the static appliance.
//!
//! The TSS finds its transports with `dlopen`, which a static program lacks; built with `--enable-nodl` it refers to the device
//! transport by name instead, and nothing else of the TSS asks the linker for that library. A host build is dynamic and needs
//! nothing here.

fn main() {
    println!("cargo:rerun-if-env-changed=CARGO_CFG_TARGET_FEATURE");
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if features.split(',').any(|feature| feature == "crt-static") {
        for library in ["tss2-tcti-device", "tss2-mu"] {
            if let Err(error) = pkg_config::Config::new().statik(true).probe(library) {
                println!("cargo:error=the static TSS is not on PKG_CONFIG_PATH (`kiln setup` builds it): {error}");
            }
        }
    }
}
