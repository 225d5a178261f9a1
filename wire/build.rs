//! Compiles `proto/engine.proto` without a protoc on the machine. Does nothing unless the feature `engine` is on.

#[cfg(feature = "engine")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["engine.proto"], ["proto"])?;
    // The engine keeps accepted snapshots on disk as JSON of the very messages it was sent, so that one parser
    // judges both.
    let kept = ["Snapshot", "Version", "Route", "Service", "Member"];
    let mut builder = tonic_prost_build::configure();
    for message in kept {
        builder = builder.message_attribute(
            format!(".portolan.engine.v1.{message}"),
            "#[derive(serde::Serialize, serde::Deserialize)] #[serde(default)]",
        );
    }
    builder.compile_fds(files)?;
    Ok(())
}

#[cfg(not(feature = "engine"))]
fn main() {}
