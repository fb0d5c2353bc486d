//! Writes the CRDs to deploy/chart/kinds (or to the directory that is named). Knows only [`byrnie_crds::manifest`].

use std::{env, fs, path::PathBuf, process::ExitCode};

use byrnie_crds::manifest;

fn main() -> ExitCode {
    let directory = env::args_os().nth(1).map_or_else(|| PathBuf::from("deploy/chart/kinds"), PathBuf::from);
    let write = || -> Result<(), Box<dyn std::error::Error>> {
        fs::create_dir_all(&directory)?;
        for (name, yaml) in manifest::files()? {
            fs::write(directory.join(&name), yaml)?;
            println!("{}", directory.join(name).display());
        }
        Ok(())
    };
    match write() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write the CRDs to {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}
