//! Compiles `proto/sidelane/test/v1/echo.proto` without protoc: clients, servers, and the messages
//! of both.

use prost::Message;

const FILE: &str = "sidelane/test/v1/echo.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_file(FILE)?;
    let encoded = compiler.encode_file_descriptor_set();
    let set = tonic_prost_build::FileDescriptorSet::decode(encoded.as_slice())?;
    tonic_prost_build::configure()
        .build_transport(false)
        // Payloads of many MiB are shared, not copied.
        .bytes(".")
        .compile_fds(set)?;
    Ok(())
}
