//! Compiles the demo's protos without protoc: stubs for clients and for servers, and nothing of
//! tonic's transport in them, so that a client takes whichever channel it is given.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_file("shop/v1/shop.proto")?;
    let encoded = compiler.encode_file_descriptor_set();
    let set = tonic_prost_build::FileDescriptorSet::decode(encoded.as_slice())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(set)?;
    Ok(())
}
