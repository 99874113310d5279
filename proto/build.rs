//! Compiles `proto/sidelane/**` without protoc: stubs for `wire.rs`, and the descriptors that
//! reflection serves. The descriptor set is kept as the compiler encoded it, because a round trip
//! through `prost_types` drops custom options.

use prost::Message;

const FILES: [&str; 5] = [
    "sidelane/routing/v1/routing.proto",
    "sidelane/control/v1/certificates.proto",
    "sidelane/control/v1/membership.proto",
    "sidelane/peer/v1/peer.proto",
    "sidelane/admin/v1/mesh.proto",
];
/// Another project's interface, which sidecars and control call and nobody here serves: reflection
/// must not say so.
const CALLED: &str = "spiffe/workload.proto";

/// Messages that carry secrets: what they show of themselves is written by hand, in `src/secret.rs`.
const SECRET: [&str; 4] = [
    "sidelane.control.v1.SignRequest",
    "sidelane.control.v1.SignRequest.proof",
    "sidelane.admin.v1.IssueTokenResponse",
    "X509SVID",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=sidelane");
    println!("cargo:rerun-if-changed=spiffe");
    let mut compiler = protox::Compiler::new(["."])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(FILES)?;
    let encoded = compiler.encode_file_descriptor_set();
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.binpb"), &encoded)?;
    stubs(&encoded)?;
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).open_files([CALLED])?;
    stubs(&compiler.encode_file_descriptor_set())
}

fn stubs(encoded: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::codec::Compact")
        .skip_debug(SECRET)
        .compile_fds(prost_types_set(encoded)?)?;
    Ok(())
}

fn prost_types_set(
    encoded: &[u8],
) -> Result<tonic_prost_build::FileDescriptorSet, prost::DecodeError> {
    tonic_prost_build::FileDescriptorSet::decode(encoded)
}
