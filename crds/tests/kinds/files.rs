//! The generated files are those of the repository.

use std::{fs, path::Path};

#[test]
fn the_chart_has_the_crds_of_this_code() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart/kinds");
    let files = byrnie_crds::manifest::files().unwrap();
    let mut names: Vec<String> =
        fs::read_dir(&directory).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    for (name, yaml) in files {
        let stands = fs::read_to_string(directory.join(&name)).unwrap();
        assert!(
            stands == yaml,
            "{name} is out of date: run `cargo run -p byrnie-crds --bin crdgen` at the root"
        );
    }
}
