//! Compiles the contracts with protox, a compiler written in Rust, so that nobody has to install protoc.

use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let mut files = Vec::new();
    collect(Path::new("waybill"), &mut files)?;
    files.sort();
    println!("cargo::rerun-if-changed=waybill");

    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(&files)?;

    // The descriptor set is written from the compiler and not from prost's types: those would drop the access option,
    // which is an extension.
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("waybill.bin"), compiler.encode_file_descriptor_set())?;

    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    // Maps are sorted: the same message is encoded to the same bytes, and so has the same request hash on a retry.
    config.btree_map(["."]);
    tonic_prost_build::configure()
        .bytes(".waybill.events.v1.LoggedEvent.payload")
        .include_file("waybill.rs")
        .compile_fds_with_config(compiler.file_descriptor_set(), config)?;
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
