//! What the synthetic machine states of its steps and its output.

use super::*;

impl Plan {
    pub(super) fn record_of(
        &self,
        sequence: u32,
        step: &Step,
        previous: Sha256Digest,
        log: &[u8],
    ) -> Statement<StepRecord> {
        let seen = |usage: &WorkspaceUse| {
            let after = digest(&format!("after {}", usage.name));
            let before = if usage.access == Access::Ro { after } else { digest("") };
            WorkspaceSeen { name: usage.name.clone(), access: usage.access, before, after: Some(after) }
        };
        let workspaces: Vec<WorkspaceSeen> = step.workspaces.iter().map(seen).collect();
        let written = workspaces.iter().filter(|seen| seen.access == Access::Rw);
        let mut subject: Vec<Subject> =
            written.filter_map(|seen| Some(Subject::new(format!("workspace/{}", seen.name), seen.after?))).collect();
        subject.push(Subject::new(format!("log/{}", step.name), Sha256Digest::of(log)));
        let predicate = StepRecord {
            build_id: self.challenge().build_id,
            sequence,
            previous,
            step: step.name.clone(),
            step_sha256: step.digest().unwrap(),
            image_root_hash: digest("toolchain"),
            argv: step.argv.clone(),
            env: step.env.clone(),
            workdir: step.workdir.clone(),
            inputs: step
                .inputs
                .iter()
                .map(|input| InputSeen { name: input.clone(), sha256: digest("zlib.tar") })
                .collect(),
            workspaces,
            profile: step.profile,
            proc: step.proc,
            limits: step.limits.clone(),
            exit: Exit::Code { code: 0 },
            usage: Usage {
                wall_ms: 5,
                cpu_us: 4000,
                memory_peak_bytes: 1 << 20,
                pids_peak: 3,
                io_read_bytes: 4096,
                io_written_bytes: 0,
            },
            log: steplog::seen(log),
            trace: digest(""),
            enforced: sandbox::enforced(step),
        };
        Statement::new(names::PREDICATE_RECORD, subject, predicate)
    }

    pub(super) fn provenance_of(
        &self,
        output: &Name,
        sha256: Sha256Digest,
        byproducts: Vec<ResourceDescriptor>,
    ) -> Statement<Provenance> {
        let document = ResourceDescriptor::new("job", Sha256Digest::of(&self.job_bytes()));
        let image = ResourceDescriptor::new("image/c", digest("toolchain"));
        let input =
            ResourceDescriptor::new("input/zlib.tar", digest("zlib.tar")).with_uri("https://zlib.example/zlib.tar");
        let predicate = Provenance {
            build_definition: BuildDefinition {
                build_type: names::BUILD_TYPE.into(),
                external_parameters: ExternalParameters { job: document.clone() },
                internal_parameters: InternalParameters {
                    image: ResourceDescriptor::new("image", image_sha256()),
                    tpm: "software".into(),
                },
                resolved_dependencies: vec![document, image, input],
            },
            run_details: RunDetails {
                builder: Builder { id: names::BUILDER_FIRMWARE.into(), version: BTreeMap::new() },
                metadata: Metadata {
                    invocation_id: self.challenge().build_id.to_string(),
                    started_on: at(0),
                    finished_on: at(20),
                },
                byproducts,
            },
        };
        Statement::new(names::PREDICATE_PROVENANCE, vec![Subject::new(output.as_str(), sha256)], predicate)
    }
}
