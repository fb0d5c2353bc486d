//! Reads the file and the files that it names: all of it or, where anything is wrong, everything that is wrong.
//!
//! `run` and `check` both come through here, so that they cannot disagree. Puts nothing in force.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
};

use byrnie_identity::{Identity, KeyPair, Leaf, TrustBundle};
use serde::de::DeserializeOwned;

use super::{
    compile::{self, Compiled, Mistakes},
    file::{Endpoint, File, IdentityFiles},
    node::{Misfit, Node},
    problem::{Problem, Problems},
    yaml::{self, NoYaml},
};
use crate::access_log::Level;

/// Everything that one reading of the files gave.
pub(super) struct Read {
    pub(super) file: File,
    pub(super) compiled: Compiled,
    pub(super) level: Level,
    pub(super) credentials: Credentials,
}

/// Trust and certificate, which fit each other.
pub(super) struct Credentials {
    pub(super) bundle: TrustBundle,
    pub(super) leaf: Leaf,
    /// What the files were.
    pub(super) print: Vec<Print>,
}

/// Enough of a file to see whether it has changed; nothing of a key.
type Print = (PathBuf, Option<u64>);

/// What was read, to see whether it has changed since.
#[derive(Default)]
pub(super) struct Sources(Vec<Print>);

impl Sources {
    /// Whether no file has changed.
    pub(super) fn are_unchanged(&self) -> bool {
        self.0.iter().all(|(path, print)| fs::read(path).ok().map(|bytes| self::print(&bytes)) == *print)
    }

    fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        let bytes = fs::read(path);
        self.0.push((path.to_owned(), bytes.as_ref().ok().map(|bytes| print(bytes))));
        bytes
    }
}

fn print(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Collects what is wrong with one file.
struct Wrong<'a> {
    path: &'a Path,
    node: Option<Node>,
    problems: Vec<Problem>,
}

impl Wrong<'_> {
    /// A file that is named by this one.
    fn beside(&self, name: &Path) -> PathBuf {
        self.path.parent().unwrap_or(Path::new(".")).join(name)
    }

    fn add(&mut self, field: &str, problem: impl Into<String>) {
        let (line, column) = self.node.as_ref().map(|node| node.place(field)).unzip();
        self.problems.push(Problem {
            file: self.path.to_owned(),
            line,
            column,
            field: field.to_owned(),
            problem: problem.into(),
        });
    }
}

/// Reads everything.
pub(super) fn read(path: &Path) -> (Sources, Result<Read, Problems>) {
    let mut sources = Sources::default();
    let mut wrong = Wrong { path, node: None, problems: Vec::new() };
    let read = everything(&mut sources, &mut wrong);
    let Some(read) = read.filter(|_| wrong.problems.is_empty()) else {
        return (sources, Err(Problems(wrong.problems)));
    };
    (sources, Ok(read))
}

fn everything(sources: &mut Sources, wrong: &mut Wrong<'_>) -> Option<Read> {
    let bytes =
        sources.read(wrong.path).map_err(|error| wrong.add("", format!("cannot be read: {error}"))).ok()?;
    let text = String::from_utf8(bytes).map_err(|error| wrong.add("", error.to_string())).ok()?;
    let (mut file, misfits) = document::<File>(&text, wrong)?;
    for Misfit { at, problem } in &misfits {
        wrong.add(at, problem.clone());
    }
    let level = file.access_log.as_deref().map_or(Ok(Level::default()), str::parse);
    let level = level.map_err(|problem| wrong.add("accessLog", problem)).ok();
    if !(1..=64).contains(&file.workers) {
        wrong.add("workers", "must be 1 to 64");
    }
    listed(&mut file, sources, wrong);
    let compiled = compile::compile(&file).map_err(|Mistakes(mistakes)| {
        // what was filled in, to be able to go on, is no mistake of the file
        let real = |at: &str| !misfits.iter().any(|m| at.starts_with(&m.at) || m.at.starts_with(at));
        for mistake in mistakes {
            if real(&mistake.at) && (misfits.is_empty() || !mistake.between) {
                wrong.add(&mistake.at, mistake.problem);
            }
        }
    });
    // fillers are no files
    let is_filled = misfits.iter().any(|m| m.at == "trustDomain" || m.at.starts_with("identity"));
    let credentials = if is_filled { None } else { credentials(&file, sources, wrong) };
    Some(Read { compiled: compiled.ok()?, level: level?, credentials: credentials?, file })
}

/// A file, with what in it does not fit replaced; `None` where it is not even YAML.
fn document<T: DeserializeOwned>(text: &str, wrong: &mut Wrong<'_>) -> Option<(T, Vec<Misfit>)> {
    let node = match yaml::parse(text) {
        Ok(node) => node,
        Err(NoYaml { place: (line, column), problem }) => {
            wrong.problems.push(Problem {
                file: wrong.path.to_owned(),
                line: Some(line),
                column: Some(column),
                field: String::new(),
                problem: format!("is no YAML: {problem}"),
            });
            return None;
        }
    };
    wrong.node = Some(node.clone());
    let (file, misfits) = node.read();
    if file.is_none() {
        for Misfit { at, problem } in &misfits {
            wrong.add(at, problem.clone());
        }
    }
    Some((file?, misfits))
}

/// Adds the endpoints that are listed in files of their own.
fn listed(file: &mut File, sources: &mut Sources, wrong: &mut Wrong<'_>) {
    for (index, service) in file.services.iter_mut().enumerate() {
        for (number, from) in service.endpoints_from.iter().enumerate() {
            let Some(name) = &from.file else { continue };
            let path = wrong.beside(name);
            let text =
                sources.read(&path).and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
            let text = match text {
                Ok(text) => text,
                Err(error) => {
                    let field = format!("services[{index}].endpointsFrom[{number}].file");
                    wrong.add(&field, format!("cannot read {}: {error}", path.display()));
                    continue;
                }
            };
            let mut there = Wrong { path: &path, node: None, problems: Vec::new() };
            let endpoints = document::<Vec<Endpoint>>(&text, &mut there);
            for Misfit { at, problem } in endpoints.iter().flat_map(|(_, misfits)| misfits) {
                there.add(at, problem.clone());
            }
            service.endpoints.extend(endpoints.into_iter().flat_map(|(endpoints, _)| endpoints));
            wrong.problems.append(&mut there.problems);
        }
    }
}

/// Reads what proves who the proxy is, and tries it as the proxy will.
fn credentials(file: &File, sources: &mut Sources, wrong: &mut Wrong<'_>) -> Option<Credentials> {
    let IdentityFiles { chain, key, roots } = &file.identity;
    let first = sources.0.len();
    let mut load = |name: &Path, field: &str, wrong: &mut Wrong<'_>| {
        let path = wrong.beside(name);
        let bytes = sources.read(&path);
        bytes.map_err(|error| wrong.add(field, format!("cannot read {}: {error}", path.display()))).ok()
    };
    let in_file = |name: &Path, problem: &dyn std::fmt::Display| format!("{}: {problem}", name.display());
    let mut bundle = TrustBundle::default();
    let mut all_roots = true;
    for (trust_domain, name) in roots {
        let field = format!("identity.roots.{trust_domain}");
        let read = load(name, &field, wrong).map(|pem| TrustBundle::from_pem(trust_domain, &pem));
        match read {
            Some(Ok(roots)) => bundle.roots.extend(roots.roots),
            Some(Err(error)) => wrong.add(&field, in_file(name, &error)),
            None => {}
        }
        all_roots &= bundle.roots.contains_key(trust_domain);
    }
    if !roots.contains_key(&file.trust_domain) {
        let said = format!("has no roots of {}, the proxy's own trust domain; add them", file.trust_domain);
        wrong.add("identity.roots", said);
        all_roots = false;
    }
    let (chain_pem, key_pem) = (load(chain, "identity.chain", wrong), load(key, "identity.key", wrong));
    let pair = key_pem.and_then(|pem| {
        let pair = KeyPair::from_pem(&String::from_utf8_lossy(&pem));
        pair.map_err(|error| wrong.add("identity.key", in_file(key, &error))).ok()
    });
    let leaf = Leaf::from_pem(&chain_pem?, pair?);
    let leaf = leaf.map_err(|error| wrong.add("identity.chain", in_file(chain, &error))).ok()?;
    if leaf.id.trust_domain() != file.trust_domain.as_str() {
        let said = format!("is of {}, which is not of trust domain {}", leaf.id, file.trust_domain);
        wrong.add("identity.chain", in_file(chain, &said));
    } else if all_roots {
        let trial = Identity::new(file.trust_domain.clone());
        if let Err(error) = trial.install_bundle(bundle.clone()) {
            wrong.add("identity.roots", error.to_string());
        } else if let Err(error) = trial.issuer_of(&leaf) {
            wrong.add("identity.chain", in_file(chain, &error));
        }
    }
    Some(Credentials { bundle, leaf, print: sources.0[first..].to_vec() })
}
